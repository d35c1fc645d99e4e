# SPDX-License-Identifier: Apache-2.0
"""A run of anna, bernd and mallory, who in one of its rounds does what she must not."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from tests.support.local import Act, Chaser, Federation, Run, Scripted, answer, bounds, plan

from fedclave.engine.events import Event
from fedclave.engine.ports import Accept
from fedclave.engine.spool import Body
from fedclave.errors import Code, Refused
from fedclave.messages import Fit, Measurement, Pull, Reply, Request, Task
from fedclave.plan import Plan
from fedclave.tensors import Array, Layout, Tensors
from fedclave.transport.local import LocalTransport

HONEST = ["anna", "bernd"]
MALLORY = "mallory"
ALL = [*HONEST, MALLORY]
ROUND = 2
"""The round that is disturbed; before and after it mallory is honest."""

QUORUM = {"minimum": 1, "fraction": 0.5, "deadline_s": 60.0}
SHORT = {**QUORUM, "deadline_s": 0.8}  # the honest have answered by then
PLAN = plan(quorum=QUORUM)
LIMIT = PLAN.fold.limit
INTEGER_LIMIT = bounds(PLAN).integer_limit
MAX_WEIGHT = PLAN.fold.max_weight

Script = Callable[[LocalTransport], Mapping[tuple[str, int], Act]]
"""(member, round) -> what this member's end of the wire does, given the honest wire."""

Attack = Callable[[Request], tuple[Reply, Body | None]]
"""What mallory answers to a request."""

Fault = Callable[[Task, dict[str, Any], Fit], Any]
"""What mallory's code returns in place of a fit, given what it was sent."""


def run(
    folder: Path,
    script: Script = lambda honest: {},
    mallory: Chaser | None = None,
    agreed: Plan = PLAN,
) -> Run:
    """The whole run. Raises what ended it."""
    done = Federation(
        folder=folder,
        plan=agreed,
        learners={
            "anna": Chaser(1.0),
            "bernd": Chaser(2.0),
            MALLORY: mallory or Chaser(5.0),
        },
        wrap=lambda honest, store: Scripted(honest, script(honest)),
    ).run()
    if done.error is not None:
        raise done.error
    return done


def does(act: Act, *rounds: int) -> Script:
    """Mallory does this, in ``ROUND`` or in the rounds given."""
    return lambda honest: {(MALLORY, number): act for number in rounds or (ROUND,)}


def says(attack: Attack) -> Act:
    """Mallory answers this."""

    async def act(request: Request, layout: Layout, accept: Accept) -> None:
        await accept(*attack(request))

    return act


async def stays_away(request: Request, layout: Layout, accept: Accept) -> None:
    """Mallory is known not to come."""
    raise Refused(Code.UNKNOWN_MEMBER, "is not there")


def outcome(run: Run) -> list[Any]:
    """What a run comes to, without who failed in it."""
    return [run.model, run.best, [(r["accepted"], r["metrics"]) for r in run.records]]


@cache
def without_her() -> list[Any]:
    """The outcome of the run in which she stayed away for the round."""
    with TemporaryDirectory() as folder:
        return outcome(run(Path(folder), does(stays_away)))


def refused_once(run: Run, code: Code) -> Event:
    """Check that she was refused, told why, left out of that round alone, and changed nothing."""
    (refused,) = run.of("update_refused")
    assert (refused["round"], refused["member"], refused["code"]) == (ROUND, MALLORY, code)
    assert run.records[ROUND - 1]["failed"] == {MALLORY: code}
    assert [r["accepted"] for r in run.records] == [ALL, HONEST, ALL, ALL]
    assert outcome(run) == without_her()
    return refused


def delta(**changes: Any) -> Tensors:
    """An update that would be fine, but for the changes; None leaves a tensor out."""
    tensors = {"w": np.full(3, 0.5), "steps": np.ones((), np.int64), **changes}
    return {name: np.asarray(array) for name, array in tensors.items() if array is not None}


def spiked(value: float, at: int = 1) -> Array:
    """A fine ``w``, but for one value."""
    w = np.full(3, 0.5)
    w[at] = value
    return w


def update(weight: Any = 4, **changes: Any) -> Attack:
    """Answer ``delta(**changes)``."""
    return lambda request: answer(request, delta(**changes), weight)


def measured(**changes: Any) -> Measurement:
    """A measurement that would be fine, but for the changes."""
    fields: dict[str, Any] = {"series": "train", "examples": 4, "values": {"speed": 0.5}}
    return Measurement(**(fields | changes))


def measurements(*given: Measurement) -> Attack:
    """Answer a fine update with these."""
    return lambda request: answer(request, delta(), measurements=given)


class Faulty(Chaser):
    """Mallory's own code, which goes wrong when it trains in ``ROUND``."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(5.0)
        self._fault = fault

    def run(self, task: Task, params: Tensors, pull: Pull) -> Fit:
        fit = super().run(task, params, pull)
        if task.round != ROUND or task.run != "fit":
            return fit
        sent: Any = params  # a user's code is not held to a Mapping
        result: Fit = self._fault(task, sent, fit)
        return result


def raising(error: BaseException) -> Fault:
    """The code raises."""

    def fault(task: Task, sent: dict[str, Any], fit: Fit) -> Any:
        raise error

    return fault


def returning(**changes: Any) -> Fault:
    """The code returns the honest fit, but for these fields."""
    return lambda task, sent, fit: replace(fit, **changes)


def with_params(**changes: Any) -> Fault:
    """The code returns the honest fit, but for these tensors."""
    return lambda task, sent, fit: replace(fit, params={**(fit.params or {}), **changes})
