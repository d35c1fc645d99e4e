# SPDX-License-Identifier: Apache-2.0
"""Hostile and broken answers: each is refused with its code, and the round goes on without it.

One member, mallory, misbehaves in round 2 of 3. The run must come to what it would have come to if
she had stayed away in that round: nothing of what she sent may be in it. The first part says to the
aggregator what no collaborator of ours would say; the second runs our collaborator with a learner,
the user's own code, that does what it must not.
"""

import asyncio
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support.local import Chaser, Run, Sent, answer, plan
from tests.support.mallory import (
    ALL,
    HONEST,
    INTEGER_LIMIT,
    LIMIT,
    MALLORY,
    MAX_WEIGHT,
    PLAN,
    QUORUM,
    ROUND,
    SHORT,
    Attack,
    Fault,
    Faulty,
    delta,
    does,
    measured,
    measurements,
    outcome,
    raising,
    refused_once,
    returning,
    run,
    says,
    spiked,
    stays_away,
    update,
    with_params,
    without_her,
)

from fedclave.engine import metrics
from fedclave.engine.ports import Accept
from fedclave.engine.spool import Body, Spool
from fedclave.errors import Code, Refused
from fedclave.messages import Failure, Fit, Pull, Reply, Request, Task
from fedclave.tensors import Layout, Tensors, encode, layout_of
from fedclave.transport.local import LocalTransport

# What she says


def fails(code: Code) -> Attack:
    failure = Failure(code=code, message="says mallory")
    return lambda request: (Reply(request=request.id, failure=failure), None)


def fails_and_sends(request: Request) -> tuple[Reply, Body]:
    failure = Failure(code=Code.TASK_FAILED, message="it is not here")
    return answer(request, delta(), failure=failure)


def sends_nothing(request: Request) -> tuple[Reply, None]:
    return Reply(request=request.id), None


def sends_no_packet(request: Request) -> tuple[Reply, Body]:
    return Reply(request=request.id), answer(request, delta())[1]


def sends_no_body(request: Request) -> tuple[Reply, None]:
    return answer(request, delta())[0], None


def lies_about_the_size(request: Request) -> tuple[Reply, Body]:
    """Nothing is sized from the claim: the body's own layout is what is judged."""
    reply, body = answer(request, delta(w=np.zeros(4)))
    assert reply.packet is not None
    lie = replace(reply.packet, size=layout_of(delta()).size)
    return replace(reply, packet=lie), body


def answers_another(request: Request) -> tuple[Reply, Body]:
    return answer(request, delta(), request="0" * 64)


def answers_the_next(request: Request) -> tuple[Reply, Body]:
    return answer(replace(request, round=request.round + 1), delta())


MANY = {f"m{n}": 0.0 for n in range(metrics.MAX_METRICS + 1)}
PAST = float(np.nextafter(LIMIT, np.inf))

HOSTILE: dict[str, tuple[Code, Attack]] = {
    "nan": (Code.NOT_FINITE, update(w=spiked(np.nan))),
    "nan-first": (Code.NOT_FINITE, update(w=spiked(np.nan, 0))),
    "nan-last": (Code.NOT_FINITE, update(w=spiked(np.nan, 2))),
    "infinity": (Code.NOT_FINITE, update(w=spiked(np.inf))),
    "minus-infinity": (Code.NOT_FINITE, update(w=spiked(-np.inf))),
    "minus-infinity-first": (Code.NOT_FINITE, update(w=spiked(-np.inf, 0))),
    "infinities-that-cancel": (Code.NOT_FINITE, update(w=[-np.inf, np.inf, 0.0])),
    "beyond-the-limit": (Code.OUT_OF_RANGE, update(w=spiked(LIMIT + 0.1))),
    "just-past-the-limit": (Code.OUT_OF_RANGE, update(w=spiked(PAST, 2))),
    "just-past-the-limit-below": (Code.OUT_OF_RANGE, update(w=spiked(-PAST, 2))),
    "overflowing-square": (Code.OUT_OF_RANGE, update(w=spiked(1e200, 0))),
    "largest-float": (Code.OUT_OF_RANGE, update(w=spiked(-1.7e308))),
    "integer-past-the-limit": (Code.OUT_OF_RANGE, update(steps=INTEGER_LIMIT + 1)),
    "huge-integer": (Code.OUT_OF_RANGE, update(steps=np.int64(2**62))),
    "smallest-integer": (Code.OUT_OF_RANGE, update(steps=np.int64(-(2**63)))),
    "no-tensors": (Code.WRONG_TENSORS, update(w=None, steps=None)),
    "a-tensor-less": (Code.WRONG_TENSORS, update(steps=None)),
    "a-tensor-more": (Code.WRONG_TENSORS, update(backdoor=np.zeros(3))),
    "another-name": (Code.WRONG_TENSORS, update(w=None, v=np.zeros(3))),
    "shorter": (Code.WRONG_TENSORS, update(w=np.zeros(2))),
    "longer": (Code.WRONG_TENSORS, update(w=np.zeros(4))),
    "another-rank": (Code.WRONG_TENSORS, update(w=np.zeros((3, 1)))),
    "another-rank-in-front": (Code.WRONG_TENSORS, update(w=np.zeros((1, 3)))),
    "another-dtype": (Code.WRONG_TENSORS, update(w=np.zeros(3, np.float32))),
    "another-dtype-of-equal-size": (Code.WRONG_TENSORS, update(w=np.zeros(3, np.int64))),
    "integers-as-floats": (Code.WRONG_TENSORS, update(steps=np.float64(1))),
    "lies-about-the-size": (Code.WRONG_TENSORS, lies_about_the_size),
    "weight-0": (Code.BAD_WEIGHT, update(weight=0)),
    "weight-minus-1": (Code.BAD_WEIGHT, update(weight=-1)),
    "weight-negative": (Code.BAD_WEIGHT, update(weight=-4)),
    "weight-too-large": (Code.BAD_WEIGHT, update(weight=MAX_WEIGHT + 1)),
    "weight-huge": (Code.BAD_WEIGHT, update(weight=2**63)),
    "weight-wraps": (Code.BAD_WEIGHT, update(weight=2**64 + 4)),
    "weight-bool": (Code.BAD_WEIGHT, update(weight=True)),
    "weight-float": (Code.BAD_WEIGHT, update(weight=4.0)),
    "weight-fraction": (Code.BAD_WEIGHT, update(weight=0.5)),
    "weight-nan": (Code.BAD_WEIGHT, update(weight=float("nan"))),
    "nothing": (Code.MALFORMED, sends_nothing),
    "no-packet": (Code.MALFORMED, sends_no_packet),
    "no-upload": (Code.MALFORMED, sends_no_body),
    "another-request": (Code.NOT_ASKED, answers_another),
    "the-next-rounds-request": (Code.NOT_ASKED, answers_the_next),
    "another-series": (Code.MALFORMED, measurements(measured(series="validate/local"))),
    "another-task": (Code.MALFORMED, measurements(measured(series="payroll"))),
    "a-series-twice": (Code.MALFORMED, measurements(measured(), measured())),
    "metric-nan": (Code.NOT_FINITE, measurements(measured(values={"speed": np.nan}))),
    "metric-infinite": (Code.NOT_FINITE, measurements(measured(values={"speed": -np.inf}))),
    "metric-infinite-of-an-evaluation": (
        Code.NOT_FINITE,
        measurements(measured(series="validate/global", values={"loss": -np.inf})),
    ),
    "metric-nameless": (Code.MALFORMED, measurements(measured(values={"": 1.0}))),
    "metric-is-a-path": (Code.MALFORMED, measurements(measured(values={"../x": 1.0}))),
    "metric-escapes": (Code.MALFORMED, measurements(measured(values={"\x1b[2J": 1.0}))),
    "metric-endless": (
        Code.MALFORMED,
        measurements(measured(values={"x" * (metrics.MAX_NAME + 1): 1.0})),
    ),
    "too-many-metrics": (Code.MALFORMED, measurements(measured(values=MANY))),
    "examples-negative": (Code.MALFORMED, measurements(measured(examples=-1))),
    "examples-too-many": (
        Code.MALFORMED,
        measurements(measured(examples=metrics.MAX_EXAMPLES + 1)),
    ),
    "examples-huge": (Code.MALFORMED, measurements(measured(examples=2**60))),
    "says-it-failed": (Code.TASK_FAILED, fails(Code.TASK_FAILED)),
    "says-it-failed-and-sends": (Code.TASK_FAILED, fails_and_sends),
    "says-it-is-late": (Code.LATE, fails(Code.LATE)),
    "says-it-is-twice": (Code.DUPLICATE, fails(Code.DUPLICATE)),
}


@pytest.mark.parametrize(("code", "attack"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_answer_is_refused_and_the_round_goes_on(
    tmp_path: Path, code: Code, attack: Attack
) -> None:
    told: list[Code] = []
    bodies: list[Body | None] = []

    async def act(request: Request, layout: Layout, accept: Accept) -> None:
        reply, body = attack(request)
        bodies.append(body)
        try:
            await accept(reply, body)
        except Refused as refused:
            told.append(refused.code)
            raise

    refused_once(run(tmp_path, does(act)), code)
    assert told == [code]
    assert all(body.dropped for body in bodies if isinstance(body, Sent))


def test_an_upload_of_other_bytes_than_promised_does_not_become_a_body(tmp_path: Path) -> None:
    async def act(request: Request, layout: Layout, accept: Accept) -> None:
        spool = Spool(tmp_path / "arriving")
        upload = spool.begin(MALLORY, "0" * 64, layout)
        upload.write(bytes(layout.size))
        spool.commit(MALLORY, upload)

    refused_once(run(tmp_path / "run", does(act)), Code.WRONG_DIGEST)


def test_an_update_to_a_task_that_only_measures_is_refused(tmp_path: Path) -> None:
    tasks = {"validate": {"run": "evaluate", "on": ["global"]}}
    agreed = plan(tasks=tasks, quorum=QUORUM)
    disturbed = run(tmp_path, does(says(update())), agreed=agreed)
    assert disturbed.records[ROUND - 1]["failed"] == {MALLORY: Code.MALFORMED}


def test_an_update_to_the_closing_evaluation_is_refused(tmp_path: Path) -> None:
    closing = PLAN.rounds + 1
    disturbed = run(tmp_path / "with", does(says(update()), closing))
    assert disturbed.records[-1]["failed"] == {MALLORY: Code.MALFORMED}
    assert disturbed.model == run(tmp_path / "without").model


# When she says it


@pytest.mark.parametrize("when", ["at-once", "after-the-verdict"])
def test_a_second_answer_is_refused_and_the_first_one_counts(tmp_path: Path, when: str) -> None:
    told: list[Code] = []

    def script(honest: LocalTransport) -> Any:
        async def insist(request: Request, accept: Accept) -> None:
            with pytest.raises(Refused) as refused:
                await accept(*answer(request, delta(w=np.full(3, 99.0))))
            told.append(refused.value.code)

        async def twice(request: Request, layout: Layout, accept: Accept) -> None:
            async def first(reply: Reply, body: Body | None) -> None:
                await accept(reply, body)
                if when == "at-once":
                    await insist(request, accept)

            await honest.ask(request, layout, first)
            if when == "after-the-verdict":
                await insist(request, accept)
            answered.set()

        async def after_it(request: Request, layout: Layout, accept: Accept) -> None:
            await answered.wait()
            await honest.ask(request, layout, accept)

        answered = asyncio.Event()
        return {(MALLORY, ROUND): twice, ("anna", ROUND): after_it}

    disturbed = run(tmp_path / "twice", script)
    assert told == [Code.DUPLICATE]
    (refused,) = disturbed.of("update_refused")
    assert (refused["round"], refused["member"], refused["code"]) == (ROUND, MALLORY, "duplicate")
    assert outcome(disturbed) == outcome(run(tmp_path / "once"))


@pytest.mark.parametrize("second", [0.5, 99.0], ids=["the-same", "another"])
def test_of_two_answers_at_the_same_time_one_counts(tmp_path: Path, second: float) -> None:
    told: list[Any] = []

    async def both(request: Request, layout: Layout, accept: Accept) -> None:
        two = (answer(request, delta()), answer(request, delta(w=np.full(3, second))))
        told.extend(await asyncio.gather(*(accept(*one) for one in two), return_exceptions=True))

    disturbed = run(tmp_path / "both", does(both))
    first, other = told
    assert first is None
    assert isinstance(other, Refused) and other.code is Code.DUPLICATE
    assert outcome(disturbed) == outcome(run(tmp_path / "one", does(says(update()))))
    assert outcome(disturbed) != without_her()


def test_a_bad_answer_beside_a_good_one_does_not_push_it_out(tmp_path: Path) -> None:
    """What races with an answer that is being judged must not fail its member."""

    def script(honest: LocalTransport) -> Any:
        async def both(request: Request, layout: Layout, accept: Accept) -> None:
            async def racing(reply: Reply, body: Body | None) -> None:
                bad = answer(request, delta(w=spiked(np.nan)), request="0" * 64)
                good, _ = await asyncio.gather(
                    accept(reply, body), accept(*bad), return_exceptions=True
                )
                assert good is None

            await honest.ask(request, layout, racing)

        return {(MALLORY, ROUND): both}

    disturbed = run(tmp_path / "both", script)
    assert disturbed.records[ROUND - 1]["accepted"] == ALL
    assert outcome(disturbed) == outcome(run(tmp_path / "good"))


def test_a_refused_answer_cannot_be_mended(tmp_path: Path) -> None:
    told: list[Code] = []

    async def insist(request: Request, layout: Layout, accept: Accept) -> None:
        for w in (spiked(np.nan), np.zeros(3)):
            try:
                await accept(*answer(request, delta(w=w)))
            except Refused as refused:
                told.append(refused.code)

    disturbed = run(tmp_path, does(insist))
    assert told[0] is Code.NOT_FINITE
    assert told[1] in (Code.DUPLICATE, Code.LATE)
    assert disturbed.records[ROUND - 1]["failed"] == {MALLORY: Code.NOT_FINITE}
    assert outcome(disturbed) == without_her()


@pytest.mark.parametrize("then", ["is-honest", "stays-away"])
def test_an_answer_after_its_round_is_late_and_in_no_round(tmp_path: Path, then: str) -> None:
    agreed = plan(quorum=SHORT)
    told: list[Code] = []

    def script(honest: LocalTransport) -> Any:
        kept: list[tuple[Request, Accept]] = []

        async def hold(request: Request, layout: Layout, accept: Accept) -> None:
            kept.append((request, accept))
            await asyncio.Event().wait()

        async def bring(request: Request, layout: Layout, accept: Accept) -> None:
            old, to = kept[0]
            with pytest.raises(Refused) as refused:
                await to(*answer(old, delta(w=np.full(3, 99.0))))
            told.append(refused.value.code)
            await (honest.ask if then == "is-honest" else stays_away)(request, layout, accept)

        return {(MALLORY, 1): hold, (MALLORY, 2): bring, (MALLORY, 3): bring}

    away = (1,) if then == "is-honest" else (1, 2, 3)
    disturbed = run(tmp_path / "late", script, agreed=agreed)
    assert told == [Code.LATE, Code.LATE]
    late = disturbed.of("update_refused", code="late")
    assert [(e["round"], e["member"]) for e in late] == [(1, MALLORY)] * 2
    assert disturbed.records[0]["missing"] == [MALLORY]
    expected = run(tmp_path / "away", does(stays_away, *away), agreed=agreed)
    assert outcome(disturbed) == outcome(expected)


def test_a_refusal_after_the_deadline_is_recorded_and_stops_nobody(tmp_path: Path) -> None:
    """The deadline passes while another's update is being judged."""

    def script(honest: LocalTransport) -> Any:
        judging, over = asyncio.Event(), asyncio.Event()

        async def slow(request: Request, layout: Layout, accept: Accept) -> None:
            class Slow(Body):
                def blocks(self) -> Iterator[Any]:
                    loop.call_soon_threadsafe(judging.set)
                    asyncio.run_coroutine_threadsafe(over.wait(), loop).result()
                    yield from super().blocks()

            loop = asyncio.get_running_loop()
            reply, _ = answer(request, delta())
            await accept(reply, Slow(layout, bytearray(encode(delta()))))

        async def gone(request: Request, layout: Layout, accept: Accept) -> None:
            await judging.wait()
            await asyncio.sleep(SHORT["deadline_s"])  # the round waits for the judgement only
            asyncio.get_running_loop().call_soon(over.set)
            raise Refused(Code.UNKNOWN_MEMBER, "revoked")

        return {("anna", ROUND): slow, (MALLORY, ROUND): gone}

    disturbed = run(tmp_path, script, agreed=plan(quorum=SHORT))
    (refused,) = disturbed.of("update_refused", round=ROUND)
    assert (refused["member"], refused["code"]) == (MALLORY, "unknown-member")
    assert disturbed.records[ROUND - 1]["accepted"] == HONEST
    assert disturbed.records[ROUND - 1]["missing"] == [MALLORY]


# What her own code does, through our collaborator


def trains_in_place(task: Task, sent: dict[str, Any], fit: Fit) -> Any:
    sent["w"] += 1.0
    return fit


def writes_into_it(task: Task, sent: dict[str, Any], fit: Fit) -> Any:
    sent["w"][0] = 99.0
    return fit


def leaves(task: Task, sent: dict[str, Any], fit: Fit) -> Any:
    sys.exit("no licence")


RAISING: dict[str, tuple[Fault, str]] = {
    "raises": (raising(ValueError("no such column")), "ValueError: no such column"),
    "divides-by-zero": (
        raising(ZeroDivisionError("no data in this fold")),
        "ZeroDivisionError: no data in this fold",
    ),
    "asserts": (raising(AssertionError()), "AssertionError"),
    "stops-iteration": (raising(StopIteration()), "StopIteration"),
    "exits": (raising(SystemExit(0)), "SystemExit: 0"),
    "exits-with-1": (raising(SystemExit(1)), "SystemExit: 1"),
    "exits-with-words": (leaves, "SystemExit: no licence"),
    "runs-out-of-memory": (raising(MemoryError()), "MemoryError"),
    "says-odd-things": (raising(ValueError("\udcff\x1b[2J")), "ValueError"),
    "writes-into-it": (writes_into_it, "read-only"),
    "trains-in-place": (trains_in_place, "read-only"),
    "metrics-none": (returning(metrics=None), "AttributeError"),
}

RETURNING: dict[str, tuple[Code, Fault]] = {
    "nan": (Code.NOT_FINITE, with_params(w=spiked(np.nan))),
    "infinite": (Code.NOT_FINITE, with_params(w=spiked(np.inf))),
    "infinite-everywhere": (Code.NOT_FINITE, with_params(w=np.full(3, np.inf))),
    "diverged": (Code.OUT_OF_RANGE, with_params(w=spiked(1e9))),
    "diverged-everywhere": (Code.OUT_OF_RANGE, with_params(w=np.full(3, 2 * LIMIT))),
    "counter-past-the-limit": (
        Code.OUT_OF_RANGE,
        with_params(steps=np.array(INTEGER_LIMIT + 2, np.int64)),
    ),
    "longer": (Code.WRONG_TENSORS, with_params(w=np.zeros(4))),
    "another-rank": (Code.WRONG_TENSORS, with_params(w=np.zeros((3, 1)))),
    "another-dtype": (Code.WRONG_TENSORS, with_params(w=np.zeros(3, np.float32))),
    "other-names": (Code.WRONG_TENSORS, returning(params={"v": np.zeros(3)})),
    "a-tensor-more": (Code.WRONG_TENSORS, with_params(v=np.zeros(3))),
    "a-tensor-less": (Code.WRONG_TENSORS, returning(params={"w": np.zeros(3)})),
    "a-list": (Code.WRONG_TENSORS, with_params(w=[0.0] * 3)),
    "no-params": (Code.TASK_FAILED, returning(params=None)),
    "no-fit": (Code.MALFORMED, lambda task, sent, fit: None),
    "no-data": (Code.BAD_WEIGHT, returning(examples=0)),
    "negative": (Code.BAD_WEIGHT, returning(examples=-4)),
    "too-many": (Code.BAD_WEIGHT, returning(examples=MAX_WEIGHT + 1)),
    "half-an-example": (Code.BAD_WEIGHT, returning(examples=0.5)),
    "bool-for-examples": (Code.BAD_WEIGHT, returning(examples=True)),
    "metric-nan": (Code.NOT_FINITE, returning(metrics={"loss": float("nan")})),
    "metric-text": (Code.MALFORMED, returning(metrics={"loss": "low"})),
    "metric-slash": (Code.MALFORMED, returning(metrics={"a/b": 1.0})),
    "metric-escapes": (Code.MALFORMED, returning(metrics={"\x1b[2J": 1.0})),
    "too-many-metrics": (Code.MALFORMED, returning(metrics=MANY)),
}


@pytest.mark.parametrize(("fault", "traced"), RAISING.values(), ids=RAISING)
def test_code_that_raises_fails_its_round_and_its_traceback_stays_at_home(
    tmp_path: Path, fault: Fault, traced: str
) -> None:
    refused = refused_once(run(tmp_path, mallory=Faulty(fault)), Code.TASK_FAILED)
    log = (tmp_path / MALLORY / "failures.log").read_text(encoding="utf-8")
    assert log.startswith(f"task 'train' in round {ROUND}\nTraceback")
    assert traced in log
    assert "failures.log" in refused["message"]
    assert "Traceback" not in refused["message"]
    assert "no licence" not in refused["message"]


@pytest.mark.parametrize(("code", "fault"), RETURNING.values(), ids=RETURNING)
def test_code_that_returns_what_it_must_not_fails_its_round(
    tmp_path: Path, code: Code, fault: Fault
) -> None:
    refused_once(run(tmp_path, mallory=Faulty(fault)), code)
    assert not (tmp_path / MALLORY / "failures.log").exists()


@pytest.mark.parametrize("part", ["memory-raises", "memory-of-objects", "remember-raises"])
def test_broken_memory_is_reported_and_the_next_round_goes_on(tmp_path: Path, part: str) -> None:
    class Forgetful(Chaser):
        def memory(self) -> Tensors:
            if self.done[-1][0] != ROUND or part == "remember-raises":
                return super().memory()
            if part == "memory-raises":
                raise KeyError("momentum")
            return {"speed": np.array([object()])}

        def remember(self, memory: Tensors) -> None:
            if part == "remember-raises" and len(self.done) == 2:
                self.done.append((ROUND, "failed to remember"))
                raise KeyError("momentum")
            super().remember(memory)

    refused_once(run(tmp_path, mallory=Forgetful(5.0)), Code.TASK_FAILED)
    assert (tmp_path / MALLORY / "failures.log").is_file()


def test_code_that_answers_in_the_mapping_that_it_was_sent_counts_as_any_other(
    tmp_path: Path,
) -> None:
    def reuse(task: Task, sent: dict[str, Any], fit: Fit) -> Any:
        sent.update(fit.params or {})
        return replace(fit, params=sent)

    reused: Run = run(tmp_path / "reused", mallory=Faulty(reuse))
    assert outcome(reused) == outcome(run(tmp_path / "own"))


def test_measuring_cannot_change_the_update(tmp_path: Path) -> None:
    class Centering(Chaser):
        """Changes the trained params in place when it measures them."""

        def run(self, task: Task, params: Tensors, pull: Pull) -> Fit:
            if task.on == "local" and task.round == 1:
                np.subtract(params["w"], 1.0, out=params["w"])
            return super().run(task, params, pull)

    tasks = {"train": {"run": "fit"}, "validate": {"run": "evaluate", "on": ["local"]}}
    done = run(tmp_path, mallory=Centering(5.0), agreed=plan(tasks=tasks, quorum=QUORUM))
    assert done.records[0]["failed"] == {MALLORY: Code.TASK_FAILED}
    assert "read-only" in (tmp_path / MALLORY / "failures.log").read_text()
