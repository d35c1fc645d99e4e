# SPDX-License-Identifier: Apache-2.0
"""Any ``torch.nn.Module`` with any optimizer, loss and batches as a learner.

    def build(site, hidden: int = 64):
        torch.manual_seed(site.seed)                    # the initial weights
        return TorchLearner(
            nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10)),
            site=site,
            optimizer=lambda params, learning_rate=0.1: torch.optim.SGD(params, lr=learning_rate),
            loss=nn.functional.cross_entropy,
            train=lambda batch_size=32: DataLoader(mine(site.data), batch_size, shuffle=True),
            validate=lambda: DataLoader(held_out(site.data), 256),
            metrics={"accuracy": lambda output, y: (output.argmax(1) == y).float().mean()},
        )

The tasks are ``run: fit`` and ``run: evaluate``. A task's settings go to whichever of ``fit``
(``epochs``), ``optimizer`` and ``train`` takes a parameter of that name. A subclass adds a task by
adding a public method: it finds the global params in ``self.model`` and returns a ``Fit``.

Weights are the module's ``state_dict``: parameters and buffers, dtypes kept. Torch's generators are
seeded by the task and put back afterwards, so a repeated task gives equal bits (on CUDA, as far as
the model's kernels are deterministic) and a loader that shuffles does so alike.
"""

import copy
import inspect
import json
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fedclave.errors import Code, Refused, UserError
from fedclave.learners.base import Site, accepted, check_settings, differs, method
from fedclave.messages import Fit, Pull, Scalar, Task
from fedclave.tensors import BFLOAT16, Array, Tensors

__all__ = ["Fit", "TorchLearner"]

Batches = Iterable[Any]
"""Batches ``(input, ..., target)`` of tensors, such as a ``DataLoader`` gives."""

_NOT_TASKS = ("weights", "run", "check", "memory", "remember")
_GIVEN = ("self", "task", "pull", "params")


class TorchLearner:
    """A module that is trained on one party's batches.

    ``loss(output, target)`` is the mean over a batch; so is what each of ``metrics`` gives.
    ``train`` and ``validate`` are called when a task first needs the data, and each time.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        site: Site,
        optimizer: Callable[..., Optimizer],
        loss: Callable[..., Tensor],
        train: Callable[..., Batches],
        validate: Callable[..., Batches] | None = None,
        metrics: Mapping[str, Callable[..., Any]] | None = None,
    ) -> None:
        self.model = model
        self.site = site
        self._optimizer = optimizer
        self._loss = loss
        self._train = train
        self._validate = validate
        self._metrics = dict(metrics or {})
        self._kept: dict[str, Any] | None = None  # the optimizer's state_dict, if it is kept

    @cached_property
    def device(self) -> torch.device:
        """The device of the site, chosen at the first task: the aggregator may lack it."""
        return _device(self.site.device)

    def weights(self) -> Tensors:
        """The module's parameters and buffers, as they are now."""
        return {name: to_array(name, tensor) for name, tensor in self.model.state_dict().items()}

    def run(self, task: Task, params: Tensors, pull: Pull) -> Fit:
        """Load the params and do the task. Raises ``UserError`` if there is none of this name."""
        self.check(task.run, task.settings)
        self._load(params)
        call = method(self, task.run, _NOT_TASKS)
        given = accepted(call, {"task": task, "pull": pull})
        with _seeded(task.seed, self.device):
            fit: Fit = call(**given, **task.settings)
        return fit

    def check(self, run: str, settings: Mapping[str, Scalar]) -> None:
        """Raise ``UserError`` unless there is such a task and it takes these settings."""
        call = method(self, run, _NOT_TASKS)
        given = [*_GIVEN, *_first(self._optimizer)]
        takers: dict[str, list[Callable[..., Any]]] = {
            "fit": [_epochs, self._optimizer, self._train],
            "evaluate": [self._validate or _nothing],
        }
        check_settings(run, takers.get(run, [call]), settings, given)

    def fit(self, *, task: Task, pull: Pull, epochs: int = 1, **settings: Scalar) -> Fit:
        """Train for ``epochs`` passes over the training batches."""
        if epochs < 1:
            raise UserError(f"epochs must be at least 1, got {epochs}")
        optimizer = self._optimizer(self.model.parameters(), **accepted(self._optimizer, settings))
        if self._kept is not None:
            optimizer.load_state_dict(copy.deepcopy(self._kept))
        adjust = self._adjuster(pull)
        batches = self._train(**accepted(self._train, settings))
        self.model.train()
        for epoch in range(1, epochs + 1):
            examples, loss = self._epoch(batches, optimizer, adjust)
            if not math.isfinite(loss):
                message = f"task {task.name!r}: the loss is {loss} in epoch {epoch}"
                raise Refused(Code.NOT_FINITE, f"{message}. A lower learning rate may help")
        if self.site.optimizer_state == "keep":
            self._kept = optimizer.state_dict()
        return Fit(params=self.weights(), examples=examples, metrics={"loss": loss})

    def evaluate(self, **settings: Scalar) -> Fit:
        """Loss and metrics on the validation batches."""
        if self._validate is None:
            raise UserError("the learner has no validation data. Give TorchLearner 'validate'")
        sums: dict[str, Tensor | float] = dict.fromkeys(("loss", *self._metrics), 0.0)
        examples = 0
        self.model.eval()
        with torch.inference_mode():
            for inputs, target in self._moved(self._validate(**settings)):
                output, count = self.model(*inputs), len(target)
                examples += count
                sums["loss"] += self._loss(output, target).detach() * count
                for name, metric in self._metrics.items():
                    sums[name] += metric(output, target) * count
        if not examples:
            raise UserError(f"{self.site.member}: the validation data has no example")
        means = {name: float(total) / examples for name, total in sums.items()}
        return Fit(examples=examples, metrics=means)

    def memory(self) -> Tensors:
        """The optimizer's state if the plan keeps it; empty otherwise."""
        return {} if self._kept is None else _flatten(self._kept)

    def remember(self, memory: Tensors) -> None:
        """Continue with an optimizer state that ``memory`` gave."""
        keep = bool(memory) and self.site.optimizer_state == "keep"
        self._kept = _unflatten(memory) if keep else None

    def _epoch(
        self, batches: Batches, optimizer: Optimizer, adjust: Callable[[], None]
    ) -> tuple[int, float]:
        examples, total = 0, torch.zeros((), device=self.device)
        for inputs, target in self._moved(batches):
            first: list[Tensor] = []

            def closure(
                inputs: list[Any] = inputs, target: Any = target, first: list[Tensor] = first
            ) -> Tensor:
                optimizer.zero_grad()
                loss = self._loss(self.model(*inputs), target)
                loss.backward()  # type: ignore[no-untyped-call]  # torch's own
                adjust()
                first.append(loss.detach())
                return loss

            optimizer.step(closure)  # type: ignore[arg-type]  # LBFGS calls it more than once
            examples += len(target)
            total += first[0] * len(target)
        if not examples:
            raise UserError(f"{self.site.member}: the training data has no example")
        return examples, float(total) / examples

    def _moved(self, batches: Batches) -> Iterator[tuple[list[Any], Any]]:
        for batch in batches:
            *inputs, target = (
                part.to(self.device, non_blocking=True) if isinstance(part, Tensor) else part
                for part in batch
            )
            yield inputs, target

    def _adjuster(self, pull: Pull) -> Callable[[], None]:
        """Adds scale * (w - anchor) + shift to each gradient; the anchor is the model as it is."""
        named = dict(self.model.named_parameters())
        scales = pull.scale if isinstance(pull.scale, Mapping) else None
        pulls_back = scales is not None or pull.scale != 0.0
        anchor = {n: p.detach().clone() for n, p in named.items()} if pulls_back else {}
        scale = {n: self._scale(pull.scale, n) for n in anchor}
        shift = {n: self._on_device(pull.shift[n]) for n in named} if pull.shift else {}

        def adjust() -> None:
            for name, parameter in named.items():
                if parameter.grad is None:
                    continue
                if name in anchor:
                    parameter.grad += scale[name] * (parameter.detach() - anchor[name])
                if name in shift:
                    parameter.grad += shift[name]

        return adjust

    def _scale(self, scale: float | Tensors, name: str) -> Tensor | float:
        return self._on_device(scale[name]) if isinstance(scale, Mapping) else scale

    def _on_device(self, array: Array) -> Tensor:
        return to_tensor(array).to(self.device)

    def _load(self, params: Tensors) -> None:
        state = self.model.state_dict()
        difference = differs({name: _blank(name, tensor) for name, tensor in state.items()}, params)
        if difference:
            remedy = "Is this the code that the plan was initialized with?"
            raise UserError(
                f"the global model has {difference} by this workspace's model. {remedy}"
            )
        self.model.to(self.device)
        self.model.load_state_dict({name: to_tensor(params[name]) for name in params})


_DTYPES: dict[torch.dtype, np.dtype[Any]] = {
    torch.float64: np.dtype("<f8"),
    torch.float32: np.dtype("<f4"),
    torch.float16: np.dtype("<f2"),
    torch.bfloat16: BFLOAT16,
    torch.int64: np.dtype("<i8"),
    torch.int32: np.dtype("<i4"),
    torch.int16: np.dtype("<i2"),
    torch.int8: np.dtype("i1"),
    torch.uint8: np.dtype("u1"),
    torch.bool: np.dtype("?"),
}


def to_array(name: str, tensor: Tensor) -> Array:
    """A tensor as an array of its own; bfloat16 becomes ``tensors.BFLOAT16``, bit for bit."""
    _blank(name, tensor)
    host = tensor.detach().to("cpu", copy=True).contiguous()
    if tensor.dtype == torch.bfloat16:
        bits: Array = host.view(torch.int16).numpy().view(BFLOAT16)
        return bits
    array: Array = host.numpy()
    return array


def to_tensor(array: Array) -> Tensor:
    """An array as a tensor of its own on the CPU; the inverse of ``to_array``."""
    if array.dtype == BFLOAT16:
        return torch.from_numpy(np.array(array["bfloat16"]).view("<i2")).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))


def _blank(name: str, tensor: object) -> Array:
    """An array of the tensor's shape and dtype that occupies one element."""
    if not isinstance(tensor, Tensor):
        raise UserError(f"{name!r} in the module's state_dict is not a tensor, and cannot travel")
    dtype = _DTYPES.get(tensor.dtype)
    if dtype is None:
        known = ", ".join(str(d).removeprefix("torch.") for d in _DTYPES)
        raise UserError(f"tensor {name!r}: dtype {tensor.dtype} is not one of {known}")
    return np.broadcast_to(np.zeros((), dtype), tuple(tensor.shape))


def _device(wanted: str) -> torch.device:
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(wanted)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = f"{torch.cuda.device_count()} CUDA devices"
        remedy = "Set learner.device to auto or cpu in the plan"
        raise UserError(f"learner.device is {wanted!r}, but PyTorch finds {found} here. {remedy}")
    return device


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's, Python's and NumPy's global generators seeded; put back at the end.

    Loaders and their transforms draw from any of the three.
    """
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


_STRUCTURE = "structure"


def _flatten(state: Mapping[str, Any]) -> Tensors:
    """Nested dicts, lists, scalars and tensors as named tensors; one of them, JSON, nests them."""
    found: dict[str, Array] = {}

    def walk(value: Any) -> Any:
        if isinstance(value, Tensor):
            name = f"tensor/{len(found)}"
            found[name] = to_array(name, value)
            return ["tensor", name]
        if isinstance(value, Mapping):
            return ["dict", [[key, walk(item)] for key, item in value.items()]]
        if isinstance(value, list | tuple):
            return [type(value).__name__, [walk(item) for item in value]]
        if value is None or isinstance(value, bool | int | float | str):
            return ["scalar", value]
        raise UserError(
            f"the optimizer's state has a {type(value).__name__}, which cannot be stored. Set"
            " learner.optimizer_state to reset in the plan"
        )

    text = json.dumps(walk(state)).encode()
    return {**found, _STRUCTURE: np.frombuffer(text, np.uint8)}


def _unflatten(memory: Tensors) -> dict[str, Any]:
    def build(node: Any) -> Any:
        kind, value = node
        if kind == "tensor":
            return to_tensor(memory[value])
        if kind == "dict":
            return {key: build(item) for key, item in value}
        if kind == "scalar":
            return value
        return (tuple if kind == "tuple" else list)(build(item) for item in value)

    state: dict[str, Any] = build(json.loads(memory[_STRUCTURE].tobytes()))
    return state


def _first(call: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(call).parameters)[:1]


def _epochs(*, epochs: int = 1) -> None:
    """The settings of ``fit`` that are its own."""


def _nothing() -> Batches:
    return ()
