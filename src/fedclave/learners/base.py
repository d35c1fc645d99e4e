# SPDX-License-Identifier: Apache-2.0
"""What a learner is, what it gets, and what is checked of what it answers.

A learner holds one party's model and data. The engine gives it the global params and a task; it
answers with a ``Fit``. Nothing here knows a framework.
"""

import inspect
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from fedclave.errors import Code, Refused, SettingsError, UserError
from fedclave.messages import Fit, Pull, Scalar, Task
from fedclave.tensors import BFLOAT16, Array, Tensors

PRIVATE = "_fedclave_workspace_"
"""What the names of modules begin with that came out of a workspace (``workspace.assemble``)."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where a learner lives; the workspace's ``build(site, **settings)`` gets one.

    ``data`` is this party's data; None on the aggregator, which asks for ``weights()`` only.
    ``device`` is ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. ``seed`` is for the initial
    weights: the same at every party.
    """

    member: str
    data: Path | None
    device: str = "auto"
    optimizer_state: Literal["reset", "keep"] = "reset"
    seed: int = 0


@runtime_checkable
class Learner(Protocol):
    """Local training: one model, one party's data."""

    def weights(self) -> Tensors:
        """The initial weights; asked for before the first task."""
        ...

    def run(self, task: Task, params: Tensors, pull: Pull) -> Fit:
        """Do the task from the global ``params``, adding ``pull`` to each local gradient."""
        ...


@runtime_checkable
class Remembering(Protocol):
    """A learner with state that lives from one round to the next; the engine stores it."""

    def memory(self) -> Tensors:
        """The state; empty if there is none."""
        ...

    def remember(self, memory: Tensors) -> None:
        """Continue with a state that ``memory`` gave, perhaps in a process before this one."""
        ...


@runtime_checkable
class Checking(Protocol):
    """A learner that knows its tasks, so that a plan is checked before anything starts."""

    def check(self, run: str, settings: Mapping[str, Scalar]) -> None:
        """Raise ``UserError`` unless the learner can run ``run`` with these settings."""
        ...


def checked(fit: Fit, params: Tensors) -> Fit:
    """The fit, if it can take part in a round that began from ``params``.

    Raises ``Refused``: ``WRONG_TENSORS`` (names, shapes, dtypes), ``NOT_FINITE`` (a param or a
    metric), ``BAD_WEIGHT`` (no examples), ``MALFORMED`` (not a ``Fit`` of these types).
    """
    if not isinstance(fit, Fit):
        raise Refused(Code.MALFORMED, f"the learner returned {_kind(fit)}, not a Fit")
    if isinstance(fit.examples, bool) or not isinstance(fit.examples, int | np.integer):
        raise Refused(Code.BAD_WEIGHT, f"examples must be an int, got {fit.examples!r}")
    if fit.examples < 1:
        raise Refused(
            Code.BAD_WEIGHT,
            f"the learner says that it used {fit.examples} examples. It must be 1 or more: without"
            " data a party has nothing to give",
        )
    metrics = {name: _metric(name, value) for name, value in fit.metrics.items()}
    if fit.params is not None:
        difference = differs(params, fit.params)
        if difference:
            raise Refused(Code.WRONG_TENSORS, f"the learner returned {difference}")
        for name, array in fit.params.items():
            if not is_finite(array):
                raise Refused(Code.NOT_FINITE, f"tensor {name!r} has a value that is not finite")
    return Fit(params=fit.params, examples=int(fit.examples), metrics=metrics)


def differs(expected: Tensors, got: Tensors) -> str:
    """How names, shapes and dtypes differ, in words; empty if they do not.

    >>> differs({"w": np.zeros((2, 3))}, {"w": np.zeros((3, 2))})
    "tensor 'w' as float64(3, 2), expected float64(2, 3)"
    """
    if not isinstance(got, Mapping):
        return f"{_kind(got)} where named tensors belong"
    missing, extra = sorted(set(expected) - set(got)), sorted(set(got) - set(expected))
    if missing or extra:
        parts = [("no tensor", missing), ("the unknown tensor", extra)]
        return " and ".join(f"{what} {_few(names)}" for what, names in parts if names)
    for name in expected:
        want, have = expected[name], got[name]
        if not isinstance(have, np.ndarray | np.generic):
            return f"{_kind(have)} as tensor {name!r}, expected {_spec(want)}"
        if (have.shape, have.dtype) != (want.shape, want.dtype):
            return f"tensor {name!r} as {_spec(have)}, expected {_spec(want)}"
    return ""


def is_finite(array: Array) -> bool:
    """Whether no value is NaN or infinite; integers and booleans always are finite."""
    if array.dtype == BFLOAT16:
        bits = array["bfloat16"]
        return not bool(np.any((bits & 0x7F80) == 0x7F80))  # all exponent bits: NaN or infinite
    return array.dtype.kind not in "fc" or bool(np.isfinite(array).all())


def check_settings(
    what: str,
    takers: Iterable[Callable[..., Any]],
    settings: Mapping[str, Scalar],
    given: Collection[str] = (),
) -> None:
    """Raise ``UserError`` unless each setting is a parameter of one of ``takers``, of its type.

    ``given`` are the parameters that are filled in for the user, and so are not settings. A
    parameter without a default that is neither must be among the settings.
    """
    allowed: dict[str, inspect.Parameter] = {}
    for taker in takers:
        for parameter in inspect.signature(taker).parameters.values():
            if _is_setting(parameter) and parameter.name not in given:
                allowed.setdefault(parameter.name, parameter)
    mistakes = []
    for name, value in settings.items():
        if name not in allowed:
            known = ", ".join(allowed) or "none"
            mistakes.append((name, f"{what} takes no setting {name!r}. It takes: {known}"))
        elif wrong := _wrong_type(what, allowed[name], value):
            mistakes.append((name, wrong))
    for name, parameter in allowed.items():
        if parameter.default is parameter.empty and name not in settings:
            mistakes.append((name, f"{what} needs the setting {name!r}. Give it in the plan"))
    if mistakes:
        raise SettingsError(mistakes)


def accepted(taker: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ``values`` that the callable has a parameter for (``**rest`` is none)."""
    parameters = inspect.signature(taker).parameters
    return {n: v for n, v in values.items() if n in parameters and _is_setting(parameters[n])}


def method(owner: object, run: str, reserved: Collection[str]) -> Callable[..., Any]:
    """The public method ``run`` of a learner's class. Raises ``UserError`` naming the others.

    Only plain methods that the class defines: no attribute, no name with an underscore in front,
    nothing in ``reserved``. A plan thus reaches what was written to be reached.
    """
    known = [
        name
        for name, _ in inspect.getmembers(type(owner), inspect.isfunction)
        if not name.startswith("_") and name not in reserved
    ]
    if run not in known:
        can = ", ".join(known) or "nothing"
        raise UserError(f"{type(owner).__name__} has no task {run!r}. It can run: {can}")
    bound: Callable[..., Any] = getattr(owner, run)
    return bound


def blame(error: BaseException, *, said: bool = True) -> str:
    """An error of a workspace's code as ``src/learner.py:31: ValueError: ...``.

    The place is the innermost line that the user wrote; without one, there is no place. Not
    ``said``: without the error's own words, which may quote data.
    """
    text = type(error).__name__
    if said and str(error):
        text += f": {error}"
    trace: TracebackType | None = error.__traceback__
    place = ""
    while trace is not None:
        values = trace.tb_frame.f_globals
        module = str(values.get("__name__", ""))
        if module.startswith(PRIVATE):
            path = Path(trace.tb_frame.f_code.co_filename)
            depth = module.count(".") + (path.name == "__init__.py")
            place = f"{Path(*path.parts[-depth:]).as_posix()}:{trace.tb_lineno}: "
        trace = trace.tb_next
    return place + text


def _metric(name: object, value: object) -> float:
    if not isinstance(name, str) or not name or "/" in name:
        raise Refused(Code.MALFORMED, f"metric {name!r}: a name is a word without '/'")
    if not isinstance(value, int | float | np.number | np.bool_):
        raise Refused(Code.MALFORMED, f"metric {name!r} must be a number, got {_kind(value)}")
    number = float(value)
    if not math.isfinite(number):
        raise Refused(Code.NOT_FINITE, f"metric {name!r} is {number}")
    return number


_SIMPLE: dict[object, type] = {t: t for t in (bool, int, float, str)} | {
    t.__name__: t for t in (bool, int, float, str)
}


_WRITTEN = {
    bool: "true or false",
    int: "a whole number, without quotes",
    float: "a number, without quotes",
    str: "a text, in quotes if it looks like a number",
}


def _wrong_type(what: str, parameter: inspect.Parameter, value: Scalar) -> str:
    expected = _SIMPLE.get(parameter.annotation)
    fits = type(value) is expected or (expected is float and type(value) is int)
    if expected is None or fits:
        return ""
    got = f"{type(value).__name__} {value!r}"
    return (
        f"{what}: the setting {parameter.name!r} must be {expected.__name__}, got {got}."
        f" Write {_WRITTEN[expected]}"
    )


def _is_setting(parameter: inspect.Parameter) -> bool:
    return parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)


def _spec(array: Array) -> str:
    name = "bfloat16" if array.dtype == BFLOAT16 else str(array.dtype)
    return f"{name}{array.shape}"


def _few(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"
