# SPDX-License-Identifier: Apache-2.0
"""What a plan names in code becomes live objects. The one place where a workspace's code is run.

The import itself is ``workspace.importing``. Mistakes in the workspace's code are the user's:
``UserError`` with file, line and what happened.
"""

import inspect
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import numpy as np

from fedclave import yamlfile
from fedclave.algorithms import catalogue
from fedclave.algorithms.folds import Range
from fedclave.errors import FedclaveError, PlanError, Problem, SettingsError, UserError
from fedclave.learners.base import (
    PRIVATE,
    Checking,
    Learner,
    Site,
    blame,
    check_settings,
    is_finite,
)
from fedclave.plan import Plan, Salvaged, salvage
from fedclave.tensors import Tensors, layout_of
from fedclave.workspace.importing import TOP, Sources
from fedclave.workspace.layout import Workspace

_T = TypeVar("_T")

UserFunction = Callable[[int, Sequence[str], Random], Mapping[str, Sequence[str]]]
"""``assign(round, members, rng)`` -> member -> names of tasks."""


def learner(workspace: Workspace, plan: Plan, site: Site) -> Learner:
    """The learner that ``learner.build`` makes for this site.

    The workspace's code is imported afresh for each, so learners share no state. Raises
    ``UserError``.
    """
    build = _function(workspace, plan.learner.build)
    settings = dict(plan.learner.settings)
    first = _parameters(build)[:1]
    check_settings(plan.learner.build, [build], settings, first)
    made = _guarded(workspace, lambda: build(site, **settings), plan.learner.build)
    if not isinstance(made, Learner):
        raise UserError(
            f"{plan.learner.build} returned a {type(made).__name__}, which has no weights() and"
            " run(). Wrap your class: return NumpyLearner(...) or TorchLearner(...)"
        )
    return made


def initial(workspace: Workspace, plan: Plan, seed: int) -> Tensors:
    """The weights before round 1, by the workspace's code, without data.

    Raises ``UserError`` if there are none, or one has a dtype that cannot travel or is not finite.
    """
    site = Site(member="aggregator", data=None, device="cpu", seed=seed)
    return _weights(workspace, learner(workspace, plan, site))


def _weights(workspace: Workspace, made: Learner) -> Tensors:
    weights = _guarded(workspace, made.weights, "weights()")
    if not isinstance(weights, Mapping) or not weights:
        raise UserError(f"weights() returned {weights!r:.60}. Return named arrays, at least one")
    for name, array in weights.items():
        if not isinstance(name, str) or not isinstance(array, np.ndarray | np.generic):
            raise UserError(f"weights(): {name!r} is a {type(array).__name__}, not an array")
    try:
        layout_of(weights)
    except TypeError as error:
        raise UserError(f"weights(): {error}") from error
    for name, array in weights.items():
        if not is_finite(array):
            raise UserError(f"weights(): tensor {name!r} has a value that is not finite")
    return weights


def assignment_function(workspace: Workspace, plan: Plan) -> UserFunction | None:
    """The workspace's own assignment function, if the plan names one. Raises ``UserError``."""
    name = plan.assignment.function
    if name is None:
        return None
    function = _function(workspace, name)
    if len(_parameters(function)) != 3:
        raise UserError(f"{name} must take three parameters: round, members, rng")

    def assign(round_: int, members: Sequence[str], rng: Random) -> Mapping[str, Sequence[str]]:
        given = _guarded(workspace, lambda: function(round_, members, rng), name)
        if not isinstance(given, Mapping) or not all(_is_list(tasks) for tasks in given.values()):
            raise UserError(f"{name} must return a dict of member to list of tasks, got {given!r}")
        return given

    return assign


def check(workspace: Workspace) -> Plan:
    """The plan, if all that it says and all that it names in code is good.

    Raises ``PlanError`` with every mistake. Runs ``build`` and ``weights()`` of the workspace, as
    ``fx plan initialize`` would, without data.
    """
    document = yamlfile.parse(yamlfile.read(workspace.plan), str(workspace.plan))
    salvaged = salvage(document)
    named = _mistakes(workspace, salvaged, salvaged.plan) if salvaged.plan else ()
    problems = [*salvaged.problems, *(_problem(document, at, str(error)) for at, error in named)]
    if problems or salvaged.plan is None:
        raise PlanError(sorted(problems, key=lambda problem: problem.line))
    return salvaged.plan


def bounds(plan: Plan) -> Range:
    """The plan's bounds on the exact fold."""
    part = plan.fold
    return Range(
        limit=part.limit,
        max_weight=part.max_weight,
        max_members=part.max_members,
        fraction_bits=part.fraction_bits,
    )


_Mistake = tuple[yamlfile.Path, str]


def _mistakes(workspace: Workspace, salvaged: Salvaged, plan: Plan) -> Iterator[_Mistake]:
    """Each mistake in what the plan names, and where; what is broken itself is not judged."""
    is_sound = salvaged.is_sound
    if is_sound("algorithm", "name"):
        try:
            catalogue.make(plan.algorithm.name, plan.algorithm.settings, bounds(plan))
        except UserError as error:
            yield from _placed(error, ("algorithm",), "name")
    if is_sound("assignment", "function"):
        try:
            assignment_function(workspace, plan)
        except UserError as error:
            yield ("assignment", "function"), str(error)
    if is_sound("learner", "build") and is_sound("learner", "settings"):
        made = yield from _built(workspace, plan)
        for name, task in plan.tasks.items():
            if isinstance(made, Checking) and is_sound("tasks", name):
                try:
                    made.check(task.run, task.settings)
                except UserError as error:
                    yield from _placed(error, ("tasks", name), "run")


def _built(workspace: Workspace, plan: Plan) -> Generator[_Mistake, None, Learner | None]:
    """The mistakes of the learner; returns it, made without the settings that are wrong."""
    site = Site(member="check", data=None, device="cpu", seed=plan.seed)
    at = ("learner", "build")
    try:
        try:
            made = learner(workspace, plan, site)
        except SettingsError as error:
            yield from _placed(error, ("learner", "settings"), "")
            wrong = dict(error.mistakes)
            right = {k: v for k, v in plan.learner.settings.items() if k not in wrong}
            part = plan.learner.model_copy(update={"settings": right})
            try:
                made = learner(workspace, plan.model_copy(update={"learner": part}), site)
            except SettingsError:  # one that it cannot do without
                return None
        _weights(workspace, made)
    except UserError as error:
        yield at, str(error)
        return None
    return made


def _placed(error: UserError, at: yamlfile.Path, otherwise: str) -> Iterator[_Mistake]:
    """The mistakes of settings at their own keys; any other at the key that named the code."""
    if isinstance(error, SettingsError):
        yield from (((*at, name), sentence) for name, sentence in error.mistakes)
    else:
        yield (*at, otherwise), str(error)


def _problem(document: yamlfile.Document, at: yamlfile.Path, message: str) -> Problem:
    reason, _, remedy = message.partition(". ")
    return Problem(
        file=document.file,
        line=document.line(at),
        path=yamlfile.dotted(at),
        reason=reason.rstrip("."),
        remedy=remedy and remedy.rstrip(".") + ".",
    )


def _function(workspace: Workspace, name: str) -> Callable[..., Any]:
    """The function ``src.module:function``. Raises ``UserError``."""
    module_name, _, attribute = name.partition(":")
    if module_name.split(".")[0] != TOP:
        raise UserError(f"{name!r} is not in this workspace's {TOP}/. Write {TOP}.MODULE:FUNCTION")
    sources = Sources(workspace.root)
    try:
        module = _guarded(workspace, lambda: sources.module(module_name), module_name)
        function = getattr(module, attribute, None)
        if not callable(function):
            raise UserError(
                f"{module_name} has no function {attribute!r}. Write one, or correct it"
            )
    except UserError:
        sources.forget()
        raise
    found: Callable[..., Any] = function
    return found


def _guarded(workspace: Workspace, run: Callable[[], _T], what: str) -> _T:
    """Run the user's code; what it raises becomes ``UserError`` with its place."""
    try:
        return run()
    except FedclaveError:
        raise
    except SyntaxError as error:
        place = _shown(workspace, error.filename, error.lineno) or what
        raise UserError(f"{place}: {type(error).__name__}: {error.msg}") from error
    except (Exception, SystemExit) as error:  # any code of the user's may raise anything
        raise UserError(_explained(blame(error), error, what)) from error


def _explained(message: str, error: BaseException, what: str) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        name = error.name
        if name.startswith(PRIVATE):
            own = name.partition(".")[2]
            return f"{what}: there is no {own.replace('.', '/')}.py in the workspace"
        return f"{message}. Run 'pip install -r requirements.txt' in the workspace"
    return message if ".py:" in message else f"{what}: {message}"


def _shown(workspace: Workspace, file: str | None, line: int | None) -> str:
    root = workspace.root.resolve()
    if file is None or not Path(file).is_relative_to(root):
        return ""
    return f"{Path(file).relative_to(root).as_posix()}:{line}"


def _parameters(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)
