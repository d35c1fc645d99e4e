# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from fedclave.errors import UserError
from fedclave.learners.numpy import Fit, NumpyLearner, is_empty, pull_function
from fedclave.messages import Pull, Task


class Model:
    """Notes what its tasks are given."""

    attribute = print

    def __init__(self):
        self.seen = {}

    def weights(self):
        return {"w": np.zeros(3, np.float32), "scalar": 2.0}

    def fit(self, weights, *, rng, pull, task, epochs: int = 1):
        self.seen = {"draw": rng.random(), "task": task, "epochs": epochs}
        weights["w"] += 1
        return Fit(params=weights, examples=1)

    def closed(self, weights):
        return Fit(params=weights, examples=1)

    def count(self, weights, *, above: float = 0.0):
        return Fit(examples=4, metrics={"above": above})

    def tuple(self, weights):
        return weights, 3

    def nothing(self):
        return None

    def _hidden(self, weights):
        return None


PARAMS = {"w": np.zeros(3, np.float32)}


def task(run="fit", seed=1, **settings):
    return Task(name="t", run=run, round=2, seed=seed, settings=settings)


def test_a_method_gets_what_it_asks_for_and_its_settings():
    model = Model()
    NumpyLearner(model).run(task(epochs=3), PARAMS, Pull())
    assert model.seen == {
        "draw": np.random.default_rng(1).random(),
        "task": task(epochs=3),
        "epochs": 3,
    }


def test_weights_are_arrays_whatever_the_user_gives():
    assert NumpyLearner(Model()).weights()["scalar"].shape == ()


def test_any_public_method_is_a_task():
    fit = NumpyLearner(Model()).run(task("count", above=2), PARAMS, Pull())
    assert fit == Fit(examples=4, metrics={"above": 2})


@pytest.mark.parametrize("run", ["weights", "memory", "_hidden", "__init__", "attribute", "seen"])
def test_what_is_not_a_task_is_refused_with_the_tasks_there_are(run):
    with pytest.raises(UserError, match=r"It can run: closed, count, fit, nothing, tuple"):
        NumpyLearner(Model()).check(run, {})


def test_a_task_that_does_not_return_a_fit_is_told_to():
    with pytest.raises(UserError, match=r"tuple returned a tuple. Return a Fit"):
        NumpyLearner(Model()).run(task("tuple"), PARAMS, Pull())


def test_a_method_without_parameter_for_weights_is_refused():
    with pytest.raises(UserError, match="takes no weights"):
        NumpyLearner(Model()).check("nothing", {})


@pytest.mark.parametrize("pull", [Pull(scale=0.1), Pull(shift=PARAMS), Pull(scale=PARAMS)])
def test_training_that_ignores_the_pull_is_an_error_and_says_how_to_heed_it(pull):
    with pytest.raises(UserError, match=r"gradient = pull\(weights, gradient\)"):
        NumpyLearner(Model()).run(task("closed"), PARAMS, pull)


def test_training_that_ignores_the_empty_pull_is_fine():
    assert NumpyLearner(Model()).run(task("closed"), PARAMS, Pull()).examples == 1


def test_the_empty_pull_returns_the_gradient_itself():
    gradient = {"w": np.ones(3)}
    assert is_empty(Pull())
    assert pull_function(Pull(), {})(PARAMS, gradient)["w"] is gradient["w"]


def test_pull_is_the_formula_and_keeps_the_gradients_dtype():
    anchor = {"w": np.float32([1, 2]), "b": np.float32([0])}
    pull = Pull(scale={"w": np.float64([0.5, 2.0]), "b": np.ones(1)}, shift={"w": np.ones(2)})
    weights = {"w": np.float32([3, 3]), "b": np.float32([9])}
    got = pull_function(pull, anchor)(weights, {"w": np.float32([10, 10])})
    np.testing.assert_array_equal(got["w"], np.float32([10 + 0.5 * 2 + 1, 10 + 2.0 * 1 + 1]))
    assert (list(got), got["w"].dtype) == (["w"], np.float32)


def test_a_model_without_memory_remembers_nothing():
    learner = NumpyLearner(Model())
    learner.remember({"x": np.ones(1)})
    assert learner.memory() == {}


def test_what_a_model_keeps_is_handed_through():
    class Keeping(Model):
        def memory(self):
            return {"kept": np.ones(1)}

        def remember(self, memory):
            self.seen = memory

    learner = NumpyLearner(Keeping())
    learner.remember(learner.memory())
    assert learner._model.seen == {"kept": np.ones(1)}
