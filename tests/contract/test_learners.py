# SPDX-License-Identifier: Apache-2.0
"""What the engine relies on, of every learner: one table, one test over each promise."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from fedclave import plan as plans
from fedclave.errors import UserError
from fedclave.learners.base import Checking, Learner, Remembering, Site, checked
from fedclave.learners.numpy import Fit, NumpyLearner
from fedclave.messages import Pull, Task
from fedclave.tensors import BFLOAT16, Stored, digest, encode, layout_of, views, write
from fedclave.workspace import assemble, layout

CURVE, CENTRE = 2.0, -2.0  # f(x) = CURVE / 2 * (x - CENTRE)^2


@dataclass(frozen=True, kw_only=True)
class Case:
    make: Callable[[Path, bool], Learner]
    settings: dict = field(default_factory=dict)
    quadratic: bool = False  # plain gradient descent on f, in float64, one step an epoch
    draws: bool = True  # whether a seed matters


def numpy_quadratic(folder, keep):
    class Quadratic:
        def weights(self):
            return {"x": np.zeros(1)}

        def fit(self, weights, *, pull, epochs: int = 1, lr: float = 0.05):
            for _ in range(epochs):
                gradient = pull(weights, {"x": CURVE * (weights["x"] - CENTRE)})
                weights["x"] -= lr * gradient["x"]
            return Fit(params=weights, examples=1)

        def evaluate(self, weights):
            return Fit(examples=1, metrics={"loss": float(weights["x"][0] - CENTRE) ** 2})

    return NumpyLearner(Quadratic())


def torch_quadratic(folder, keep):
    torch = pytest.importorskip("torch")
    from fedclave.learners.torch import TorchLearner

    class Point(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.x = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))

        def forward(self, centre):
            return CURVE / 2 * (self.x - centre) ** 2

    batch = [(torch.tensor([CENTRE], dtype=torch.float64), torch.zeros(1))]
    return TorchLearner(
        Point(),
        site=site(folder, keep),
        optimizer=lambda params, lr=0.05: torch.optim.SGD(params, lr=lr),
        loss=lambda value, _: value.mean(),
        train=lambda: batch,
        validate=lambda: batch,
    )


def torch_bfloat16(folder, keep):
    torch = pytest.importorskip("torch")
    from torch.utils.data import DataLoader, TensorDataset

    from fedclave.learners.torch import TorchLearner

    torch.manual_seed(1)
    x, y = torch.randn(24, 4), torch.arange(24) % 2
    half = torch.nn.Linear(4, 4).to(torch.bfloat16)
    model = torch.nn.Sequential(half, torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
    model[2].to(torch.bfloat16)
    data = TensorDataset(x.to(torch.bfloat16), y)
    return TorchLearner(
        model,
        site=site(folder, keep),
        optimizer=lambda params, lr=0.1: torch.optim.Adam(params, lr=lr),
        loss=torch.nn.functional.cross_entropy,
        train=lambda batch_size=8: DataLoader(data, batch_size, shuffle=True),
        validate=lambda: DataLoader(data, 24),
    )


def template(name):
    def make(folder, keep):
        pytest.importorskip("sklearn")
        if name.startswith("torch"):
            pytest.importorskip("torch")
        root = folder / name
        workspace = layout.Workspace(root) if root.exists() else layout.create(name, root)
        plan = plans.load(workspace.plan)
        data = folder / "alice.npz"
        if not data.exists():
            rng = np.random.default_rng(1)
            features = rng.random((60, 64), np.float32)
            labels, held = np.arange(60) % 10, np.arange(60) % 5 == 0
            np.savez(data, features=features, labels=labels, validation=held)
        return assemble.learner(workspace, plan, site(folder, keep, data))

    return make


LEARNERS = {
    "numpy": Case(make=numpy_quadratic, settings={"lr": 0.05}, quadratic=True, draws=False),
    "torch": Case(make=torch_quadratic, settings={"lr": 0.05}, quadratic=True, draws=False),
    "torch, bfloat16": Case(make=torch_bfloat16, settings={"batch_size": 12}),
    "numpy-digits": Case(make=template("numpy-digits"), settings={"batch_size": 16}),
    "torch-digits": Case(make=template("torch-digits"), settings={"batch_size": 16}),
}


def site(folder, keep, data=None):
    kept = "keep" if keep else "reset"
    return Site(member="alice", data=data, device="cpu", optimizer_state=kept, seed=4)


def task(run="fit", seed=5, **settings):
    return Task(name=run, run=run, round=1, seed=seed, settings=settings)


@pytest.fixture(params=LEARNERS)
def case(request):
    return LEARNERS[request.param]


@pytest.fixture
def make(case, tmp_path):
    return lambda keep=False: case.make(tmp_path, keep)


def test_it_is_a_learner_that_can_be_checked(make):
    learner = make()
    assert isinstance(learner, Learner) and isinstance(learner, Checking)


def test_weights_are_finite_tensors_equal_at_every_party(make):
    weights = make().weights()
    assert layout_of(weights).size > 0
    assert digest(weights) == digest(make().weights())


def test_a_fit_and_an_evaluation_pass_the_engines_checks(make, case):
    learner = make()
    params = dict(learner.weights())
    fit = checked(learner.run(task(**case.settings), params, Pull()), params)
    assert fit.params is not None and digest(fit.params) != digest(params)
    measured = checked(learner.run(task("evaluate"), fit.params, Pull()), params)
    assert measured.params is None and "loss" in measured.metrics


def test_a_repeated_task_gives_equal_bits(make, case):
    learner = make()
    params = dict(learner.weights())
    first = learner.run(task(**case.settings), params, Pull())
    learner.run(task(seed=6, **case.settings), first.params, Pull())
    again = learner.run(task(**case.settings), params, Pull())
    fresh = make().run(task(**case.settings), params, Pull())
    assert digest(first.params) == digest(again.params) == digest(fresh.params)
    assert first.metrics == again.metrics == fresh.metrics


def test_another_seed_gives_another_result(make, case):
    learner = make()
    params = dict(learner.weights())
    results = {
        digest(learner.run(task(seed=s, **case.settings), params, Pull()).params) for s in (1, 2)
    }
    assert len(results) == (2 if case.draws else 1)


def test_params_may_be_read_only_or_on_disk_and_stay_as_they_are(make, case, tmp_path):
    learner = make()
    weights = learner.weights()
    write(tmp_path / "model.safetensors", weights)
    results = set()
    for params in (views(encode(weights)), Stored(tmp_path / "model.safetensors")):
        results.add(digest(learner.run(task(**case.settings), params, Pull()).params))
        assert digest(params) == digest(weights)
    assert len(results) == 1


def test_a_result_does_not_change_when_the_learner_works_on(make, case):
    learner = make()
    first = learner.run(task(**case.settings), learner.weights(), Pull())
    before = digest(first.params)
    learner.run(task(seed=9, **case.settings), first.params, Pull())
    assert digest(first.params) == before


@pytest.mark.parametrize("run", ["weights", "remember", "_model", "__init__", "teach"])
def test_what_is_not_a_task_is_refused(make, run):
    learner = make()
    with pytest.raises(UserError, match=r"has no task .* It can run: .*evaluate, .*fit"):
        learner.check(run, {})
    with pytest.raises(UserError):
        learner.run(task(run), learner.weights(), Pull())


def test_an_unknown_setting_is_refused_and_the_known_are_named(make, case):
    learner = make()
    with pytest.raises(UserError, match=r"no setting 'epoch'.* It takes: .*epochs"):
        learner.check("fit", {"epoch": 1})
    with pytest.raises(UserError, match="no setting 'epoch'"):
        learner.run(task(epoch=2), learner.weights(), Pull())


def test_a_zero_pull_changes_nothing_and_a_shift_does(make, case):
    learner = make()
    params = dict(learner.weights())
    plain = learner.run(task(**case.settings), params, Pull())
    zero = learner.run(task(**case.settings), params, Pull(scale=0.0, shift=None))
    assert digest(plain.params) == digest(zero.params)
    assert all(array.dtype == params[name].dtype for name, array in plain.params.items())
    if not any(array.dtype == BFLOAT16 for array in params.values()):
        shift = {name: np.ones_like(array) for name, array in params.items()}
        moved = learner.run(task(**case.settings), params, Pull(shift=shift))
        assert digest(moved.params) != digest(plain.params)


@pytest.mark.parametrize("name", [name for name, case in LEARNERS.items() if case.quadratic])
def test_gradient_descent_with_a_pull_is_the_closed_form(name, tmp_path):
    """FedProx (Li et al. 2020): x - c* shrinks by 1 - lr (a + mu) each step."""
    learner = LEARNERS[name].make(tmp_path, False)
    anchor, mu, lr, steps = 0.5, 1.0, 0.05, 10
    fixed = (CURVE * CENTRE + mu * anchor) / (CURVE + mu)
    expected = fixed + (anchor - fixed) * (1 - lr * (CURVE + mu)) ** steps
    for pull in (Pull(scale=mu), Pull(scale={"x": np.full(1, mu)}, shift={"x": np.zeros(1)})):
        fit = learner.run(task(epochs=steps, lr=lr), {"x": np.full(1, anchor)}, pull)
        assert fit.params["x"][0] == pytest.approx(expected, rel=1e-12)
    shifted = learner.run(task(lr=lr), {"x": np.full(1, anchor)}, Pull(shift={"x": np.ones(1)}))
    assert shifted.params["x"][0] == pytest.approx(anchor - lr * (CURVE * (anchor - CENTRE) + 1))


def test_what_it_remembers_makes_a_restart_invisible(make, case, tmp_path):
    one = make(keep=True)
    assert isinstance(one, Remembering)
    first = one.run(task(**case.settings), one.weights(), Pull())
    memory = one.memory()
    write(tmp_path / "memory.safetensors", memory)
    expected = one.run(task(seed=8, **case.settings), first.params, Pull())
    other = make(keep=True)
    other.remember(Stored(tmp_path / "memory.safetensors"))
    result = other.run(task(seed=8, **case.settings), first.params, Pull())
    assert digest(result.params) == digest(expected.params)
