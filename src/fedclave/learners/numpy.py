# SPDX-License-Identifier: Apache-2.0
"""A plain class with ``weights``, ``fit`` and ``evaluate`` as a learner; its arrays are NumPy's.

    class Line:
        def weights(self):
            return {"w": np.zeros(3), "b": np.zeros(())}

        def fit(self, weights, *, rng, pull, epochs=1, learning_rate=0.1):
            for _ in range(epochs):
                gradient = ...                          # a dict like weights
                gradient = pull(weights, gradient)      # what the federated algorithm adds
                for name in weights:
                    weights[name] -= learning_rate * gradient[name]
            return Fit(params=weights, examples=len(self.x), metrics={"loss": ...})

        def evaluate(self, weights):
            return Fit(examples=len(self.x), metrics={"loss": ...})

A task's ``run: fit`` calls ``fit``; any other public method is a task just as well. It gets its own
copy of the weights, and by name those of ``rng`` (a ``numpy.random.Generator`` seeded by the task),
``pull`` and ``task`` that it asks for. Its other parameters are settings, which the plan gives.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from fedclave.errors import UserError
from fedclave.learners.base import Remembering, accepted, check_settings, method
from fedclave.messages import Fit, Pull, Scalar, Task
from fedclave.tensors import Array, Tensors

__all__ = ["Fit", "Model", "NumpyLearner", "PullFunction", "pull_function"]

GIVEN = ("rng", "pull", "task")
_NOT_TASKS = ("weights", "memory", "remember")

PullFunction = Callable[[Mapping[str, Array], Mapping[str, Array]], dict[str, Array]]
"""(weights, gradient) -> the gradient to use."""


class Model(Protocol):
    """What the user writes: initial weights, and a method for each task."""

    def weights(self) -> Tensors:
        """The initial weights."""
        ...


class NumpyLearner:
    """The learner around a user's ``Model``.

    If the model has ``memory`` and ``remember`` (``learners.base.Remembering``), what it keeps
    between rounds is stored with the round and restored after a crash.
    """

    def __init__(self, model: Model) -> None:
        self._model = model

    def weights(self) -> Tensors:
        """The model's initial weights, as arrays."""
        return {name: np.asarray(array) for name, array in self._model.weights().items()}

    def run(self, task: Task, params: Tensors, pull: Pull) -> Fit:
        """Call the method that the task names. Raises ``UserError`` if there is none like it."""
        self.check(task.run, task.settings)
        call = self._method(task.run)
        given = {
            "rng": np.random.default_rng(task.seed),
            "pull": pull_function(pull, params),
            "task": task,
        }
        wanted = accepted(call, given)
        own = {name: np.array(params[name]) for name in params}  # the user may write into these
        fit: Fit = call(own, **wanted, **task.settings)
        if not isinstance(fit, Fit):
            raise UserError(f"{task.run} returned a {type(fit).__name__}. Return a Fit")
        if fit.params is not None and not is_empty(pull) and "pull" not in wanted:
            raise UserError(
                f"the algorithm changes local gradients, but {task.run} does not let it. Give it a"
                " parameter 'pull' and write: gradient = pull(weights, gradient)"
            )
        return fit

    def check(self, run: str, settings: Mapping[str, Scalar]) -> None:
        """Raise ``UserError`` unless the model has the method and it takes these settings."""
        call = self._method(run)
        name = f"{type(self._model).__name__}.{run}"
        weights = list(inspect.signature(call).parameters)[:1]
        if not weights:
            raise UserError(f"{name} takes no weights. Give it a first parameter for them")
        check_settings(name, [call], settings, [*weights, *GIVEN])

    def memory(self) -> Tensors:
        """What the user's model keeps between rounds; empty if it keeps nothing."""
        return self._model.memory() if isinstance(self._model, Remembering) else {}

    def remember(self, memory: Tensors) -> None:
        """Hand back what ``memory`` gave."""
        if isinstance(self._model, Remembering):
            self._model.remember(memory)

    def _method(self, run: str) -> Callable[..., Any]:
        return method(self._model, run, _NOT_TASKS)


def pull_function(pull: Pull, anchor: Tensors) -> PullFunction:
    """``pull`` as a function: gradient + scale * (weights - anchor) + shift, per tensor.

    Tensors that the gradient lacks stay out of it; dtypes stay the gradient's. The empty pull
    returns the gradient as it is.

    >>> f = pull_function(Pull(scale=0.5), {"w": np.float32([1.0])})
    >>> f({"w": np.float32([3.0])}, {"w": np.float32([10.0])})
    {'w': array([11.], dtype=float32)}
    """

    def function(weights: Mapping[str, Array], gradient: Mapping[str, Array]) -> dict[str, Array]:
        return {name: one(name, weights[name], array) for name, array in gradient.items()}

    def one(name: str, weight: Array, gradient: Array) -> Array:
        total = gradient
        scale = pull.scale[name] if isinstance(pull.scale, Mapping) else pull.scale
        if isinstance(scale, np.ndarray) or scale != 0.0:
            total = total + scale * (weight - anchor[name])
        if pull.shift is not None:
            total = total + pull.shift[name]
        return np.asarray(total, gradient.dtype)

    return (lambda weights, gradient: dict(gradient)) if is_empty(pull) else function


def is_empty(pull: Pull) -> bool:
    """Whether a pull adds nothing."""
    return pull.shift is None and not isinstance(pull.scale, Mapping) and pull.scale == 0.0
