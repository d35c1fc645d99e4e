# SPDX-License-Identifier: Apache-2.0
"""Hostile and broken answers: each is refused with its code, and the round goes on without it.

One member, mallory, misbehaves in round 2 of 3. The run must end with the model that it would have
had if she had stayed away in that round: nothing of what she sent may be in it.
"""

import asyncio
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from tests.support.local import Chaser, Federation, Run, Scripted, answer, plan

from fedclave.engine.ports import Accept
from fedclave.engine.spool import Body
from fedclave.errors import Code, Refused
from fedclave.messages import Failure, Fit, Measurement, Packet, Pull, Reply, Request, Task
from fedclave.tensors import Layout, Tensors
from fedclave.transport.local import LocalTransport

PLAN = plan(quorum={"minimum": 1, "fraction": 0.5, "deadline_s": 60.0})
ROUND = 2


def run(folder: Path, act: Any = None, mallory: Chaser | None = None, **options: Any) -> Run:
    """Anna, Bernd and mallory; ``act`` is what her end of the wire does in round 2."""
    learners = {"anna": Chaser(1.0), "bernd": Chaser(2.0), "mallory": mallory or Chaser(5.0)}
    acts = {("mallory", ROUND): act} if act else {}
    out = Federation(
        folder=folder,
        plan=options.pop("plan", PLAN),
        learners=learners,
        wrap=lambda honest, store: Scripted(honest, acts),
        **options,
    ).run()
    if out.error is not None:
        raise out.error
    return out


async def stay_away(request: Request, update: Layout, accept: Accept) -> None:
    raise Refused(Code.UNKNOWN_MEMBER, "is not there")


@cache
def without_her() -> str:
    """The final model of the run in which she stayed away."""
    with TemporaryDirectory() as folder:
        return run(Path(folder), stay_away).model


def delta(**changes: Any) -> Tensors:
    """An update that would be fine, but for the changes; None leaves a tensor out."""
    tensors = {"w": np.full(3, 0.5), "steps": np.ones((), np.int64), **changes}
    return {name: np.asarray(array) for name, array in tensors.items() if array is not None}


def measured(**changes: Any) -> Measurement:
    fields = {"series": "train", "examples": 4, "values": {"speed": 0.5}}
    return Measurement(**(fields | changes))


def spiked(value: float, at: int = 1) -> Any:
    w = np.full(3, 0.5)
    w[at] = value
    return w


Attack = Callable[[Request], tuple[Reply, Body | None]]


def update(weight: Any = 4, **changes: Any) -> Attack:
    return lambda request: answer(request, delta(**changes), weight)


def measurements(*given: Measurement) -> Attack:
    return lambda request: answer(request, delta(), measurements=given)


def without_body(request: Request) -> tuple[Reply, Body | None]:
    return answer(request, delta())[0], None


def without_packet(request: Request) -> tuple[Reply, Body | None]:
    return Reply(request=request.id), answer(request, delta())[1]


def to_another_request(request: Request) -> tuple[Reply, Body | None]:
    reply, body = answer(request, delta(), request="0" * 64)
    return reply, body


def failed(code: Code) -> Attack:
    failure = Failure(code=code, message="says mallory")
    return lambda request: (Reply(request=request.id, failure=failure), None)


HOSTILE: dict[str, tuple[Attack, Code]] = {
    "nan": (update(w=spiked(np.nan)), Code.NOT_FINITE),
    "nan-first": (update(w=spiked(np.nan, 0)), Code.NOT_FINITE),
    "nan-last": (update(w=spiked(np.nan, 2)), Code.NOT_FINITE),
    "infinity": (update(w=spiked(np.inf)), Code.NOT_FINITE),
    "minus-infinity": (update(w=spiked(-np.inf)), Code.NOT_FINITE),
    "beyond-the-limit": (update(w=spiked(256.1)), Code.OUT_OF_RANGE),
    "largest-float": (update(w=spiked(-1.7e308)), Code.OUT_OF_RANGE),
    "huge-integer": (update(steps=np.int64(2**62)), Code.OUT_OF_RANGE),
    "smallest-integer": (update(steps=np.int64(-(2**63))), Code.OUT_OF_RANGE),
    "another-name": (update(w=None, v=np.zeros(3)), Code.WRONG_TENSORS),
    "a-tensor-less": (update(steps=None), Code.WRONG_TENSORS),
    "a-tensor-more": (update(backdoor=np.zeros(3)), Code.WRONG_TENSORS),
    "another-shape": (update(w=np.zeros(4)), Code.WRONG_TENSORS),
    "another-rank": (update(w=np.zeros((3, 1))), Code.WRONG_TENSORS),
    "another-dtype": (update(w=np.zeros(3, np.float32)), Code.WRONG_TENSORS),
    "integers-as-floats": (update(steps=np.float64(1)), Code.WRONG_TENSORS),
    "weight-0": (update(weight=0), Code.BAD_WEIGHT),
    "weight-negative": (update(weight=-4), Code.BAD_WEIGHT),
    "weight-huge": (update(weight=2**20 + 1), Code.BAD_WEIGHT),
    "weight-wraps": (update(weight=2**64 + 4), Code.BAD_WEIGHT),
    "weight-bool": (update(weight=True), Code.BAD_WEIGHT),
    "weight-float": (update(weight=4.0), Code.BAD_WEIGHT),
    "no-upload": (without_body, Code.MALFORMED),
    "no-packet": (without_packet, Code.MALFORMED),
    "another-request": (to_another_request, Code.NOT_ASKED),
    "another-series": (measurements(measured(series="validate/local")), Code.MALFORMED),
    "a-series-twice": (measurements(measured(), measured()), Code.MALFORMED),
    "metric-nan": (measurements(measured(values={"speed": np.nan})), Code.NOT_FINITE),
    "metric-infinite": (measurements(measured(values={"speed": -np.inf})), Code.NOT_FINITE),
    "metric-nameless": (measurements(measured(values={"": 1.0})), Code.MALFORMED),
    "metric-of-another": (measurements(measured(values={"../x": 1.0})), Code.MALFORMED),
    "metric-escapes": (measurements(measured(values={"\x1b[2J": 1.0})), Code.MALFORMED),
    "metric-endless": (measurements(measured(values={"x" * 65: 1.0})), Code.MALFORMED),
    "too-many-metrics": (
        measurements(measured(values={str(n): 1.0 for n in range(65)})),
        Code.MALFORMED,
    ),
    "examples-negative": (measurements(measured(examples=-1)), Code.MALFORMED),
    "examples-huge": (measurements(measured(examples=2**60)), Code.MALFORMED),
    "says-it-failed": (failed(Code.TASK_FAILED), Code.TASK_FAILED),
    "says-it-is-late": (failed(Code.LATE), Code.LATE),
    "says-it-is-twice": (failed(Code.DUPLICATE), Code.DUPLICATE),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_answer_is_refused_and_the_round_goes_on(name: str, tmp_path: Path) -> None:
    attack, code = HOSTILE[name]
    told: list[Code] = []
    bodies: list[Body | None] = []

    async def act(request: Request, update: Layout, accept: Accept) -> None:
        reply, body = attack(request)
        bodies.append(body)
        try:
            await accept(reply, body)
        except Refused as refused:
            told.append(refused.code)
            raise

    out = run(tmp_path, act)
    assert told == [code]
    assert [e["code"] for e in out.of("update_refused")] == [code]
    assert out.records[1]["failed"] == {"mallory": code}
    assert out.records[1]["accepted"] == ["anna", "bernd"]
    assert out.records[2]["accepted"] == ["anna", "bernd", "mallory"]  # she may come back
    assert out.model == without_her()
    assert all(body is None or not body._content for body in bodies)  # no memory is held


def test_an_answer_that_comes_twice_counts_once(tmp_path: Path) -> None:
    honest = run(tmp_path / "honest")
    codes: list[Code] = []

    def wrap(local: LocalTransport, store: Any) -> Scripted:
        async def twice(request: Request, update: Layout, accept: Accept) -> None:
            async def again(reply: Reply, body: Body | None) -> None:
                await accept(reply, body)
                with pytest.raises(Refused) as refused:
                    await accept(*answer(request, delta(w=np.full(3, 99.0))))
                codes.append(refused.value.code)

            await local.ask(request, update, again)

        return Scripted(local, {("mallory", ROUND): twice})

    out = _run_with(wrap, tmp_path / "twice")
    assert codes == [Code.DUPLICATE]
    assert out.of("update_refused", code="duplicate")[0]["member"] == "mallory"
    assert out.records[1]["accepted"] == ["anna", "bernd", "mallory"]
    assert out.model == honest.model


def test_two_answers_at_once_count_once(tmp_path: Path) -> None:
    honest = run(tmp_path / "honest")
    outcomes: list[Any] = []

    def wrap(local: LocalTransport, store: Any) -> Scripted:
        async def both(request: Request, update: Layout, accept: Accept) -> None:
            async def racing(reply: Reply, body: Body | None) -> None:
                other = answer(request, delta(w=np.full(3, 99.0)))
                outcomes.extend(
                    await asyncio.gather(
                        accept(reply, body), accept(*other), return_exceptions=True
                    )
                )

            await local.ask(request, update, racing)

        return Scripted(local, {("mallory", ROUND): both})

    out = _run_with(wrap, tmp_path / "both")
    assert outcomes[0] is None
    assert isinstance(outcomes[1], Refused) and outcomes[1].code is Code.DUPLICATE
    assert out.model == honest.model


def test_a_bad_answer_beside_a_good_one_does_not_push_it_out(tmp_path: Path) -> None:
    """What races with an answer that is being judged must not fail its member."""
    honest = run(tmp_path / "honest")

    def wrap(local: LocalTransport, store: Any) -> Scripted:
        async def both(request: Request, update: Layout, accept: Accept) -> None:
            async def racing(reply: Reply, body: Body | None) -> None:
                bad = answer(request, delta(w=spiked(np.nan)), request="0" * 64)
                good, _ = await asyncio.gather(
                    accept(reply, body), accept(*bad), return_exceptions=True
                )
                assert good is None

            await local.ask(request, update, racing)

        return Scripted(local, {("mallory", ROUND): both})

    out = _run_with(wrap, tmp_path / "both")
    assert out.records[1]["accepted"] == ["anna", "bernd", "mallory"]
    assert out.model == honest.model


def test_an_answer_after_its_round_is_late_and_in_no_round(tmp_path: Path) -> None:
    quick = plan(quorum={"minimum": 1, "fraction": 0.5, "deadline_s": 0.3})
    codes: list[Code] = []

    def wrap(local: LocalTransport, store: Any) -> Scripted:
        kept: list[tuple[Request, Accept]] = []

        async def hold(request: Request, update: Layout, accept: Accept) -> None:
            kept.append((request, accept))
            await asyncio.Event().wait()

        async def late(request: Request, update: Layout, accept: Accept) -> None:
            old, then = kept[0]
            with pytest.raises(Refused) as refused:
                await then(*answer(old, delta(w=np.full(3, 99.0))))
            codes.append(refused.value.code)
            await local.ask(request, update, accept)

        return Scripted(local, {("mallory", 2): hold, ("mallory", 3): late})

    out = _run_with(wrap, tmp_path / "late", plan=quick)
    reference = run(tmp_path / "reference", stay_away, plan=quick)
    assert codes == [Code.LATE]
    assert out.of("update_refused", code="late")[0]["round"] == 2
    assert out.records[1]["missing"] == ["mallory"]
    assert out.model == reference.model


def test_a_refusal_after_the_deadline_is_recorded_and_stops_nobody(tmp_path: Path) -> None:
    """The deadline passes while another's update is being judged."""
    quick = plan(quorum={"minimum": 1, "fraction": 0.3, "deadline_s": 0.3})

    def wrap(local: LocalTransport, store: Any) -> Scripted:
        judging, over = asyncio.Event(), asyncio.Event()

        async def slow(request: Request, update: Layout, accept: Accept) -> None:
            class Slow(Body):
                def blocks(self) -> Any:
                    loop.call_soon_threadsafe(judging.set)
                    asyncio.run_coroutine_threadsafe(over.wait(), loop).result()
                    yield from super().blocks()

            loop = asyncio.get_running_loop()
            reply, body = answer(request, delta())
            await accept(reply, Slow(body.layout, body._content))

        async def gone(request: Request, update: Layout, accept: Accept) -> None:
            await judging.wait()
            await asyncio.sleep(0.4)  # past the deadline: the round waits for the judgement only
            asyncio.get_running_loop().call_soon(over.set)
            raise Refused(Code.UNKNOWN_MEMBER, "revoked")

        return Scripted(local, {("anna", ROUND): slow, ("mallory", ROUND): gone})

    out = _run_with(wrap, tmp_path, plan=quick)
    assert out.of("update_refused", member="mallory")[0]["code"] == "unknown-member"
    assert len(out.of("update_refused", round=ROUND)) == 1
    assert out.records[1]["accepted"] == ["anna", "bernd"]
    assert out.records[1]["missing"] == ["mallory"]


def test_an_update_where_only_a_measure_was_asked_is_refused(tmp_path: Path) -> None:
    measures = plan(
        tasks={"validate": {"run": "evaluate", "on": ["global"]}},
        quorum={"minimum": 1, "fraction": 0.5, "deadline_s": 60.0},
    )

    async def act(request: Request, update: Layout, accept: Accept) -> None:
        await accept(*answer(request, delta()))

    out = run(tmp_path, act, plan=measures)
    assert out.records[1]["failed"] == {"mallory": "malformed"}


def test_a_packet_of_other_bytes_is_refused_by_the_spool(tmp_path: Path) -> None:
    """The digest is promised first: other bytes do not become a body."""
    codes: list[Code] = []

    def wrap(local: LocalTransport, store: Any) -> Scripted:
        async def act(request: Request, update: Layout, accept: Accept) -> None:
            upload = local._spool.begin("mallory", "0" * 64, update)
            upload.write(bytes(update.size))
            try:
                local._spool.commit("mallory", upload)
            except Refused as refused:
                codes.append(refused.code)
                raise

        return Scripted(local, {("mallory", ROUND): act})

    out = _run_with(wrap, tmp_path)
    assert codes == [Code.WRONG_DIGEST]
    assert out.model == without_her()


def test_an_honest_packet_that_lies_about_its_size_is_what_it_is(tmp_path: Path) -> None:
    """Nothing is sized from the claim: the body's own layout is what is judged."""

    async def act(request: Request, update: Layout, accept: Accept) -> None:
        reply, body = answer(request, delta(w=np.zeros(4)))
        assert reply.packet is not None
        lie = Packet(digest=reply.packet.digest, size=update.size, weight=4)
        await accept(Reply(request=request.id, packet=lie), body)

    out = run(tmp_path, act)
    assert out.records[1]["failed"] == {"mallory": "wrong-tensors"}
    assert out.model == without_her()


def _run_with(wrap: Any, folder: Path, **options: Any) -> Run:
    learners = {"anna": Chaser(1.0), "bernd": Chaser(2.0), "mallory": Chaser(5.0)}
    out = Federation(
        folder=folder, plan=options.pop("plan", PLAN), learners=learners, wrap=wrap
    ).run()
    if out.error is not None:
        raise out.error
    return out


# The same through the real collaborator: code of the user's own that goes wrong


class Broken(Chaser):
    """Does as ``wrong`` says when it trains in round 2."""

    def __init__(self, wrong: Callable[[Task, Tensors, Fit], Any]) -> None:
        super().__init__(5.0)
        self.wrong = wrong

    def run(self, task: Task, params: Tensors, pull: Pull) -> Fit:
        fit = super().run(task, params, pull)
        if task.round == ROUND and task.run == "fit":
            result: Fit = self.wrong(task, params, fit)
            return result
        return fit


def raising(error: BaseException) -> Callable[[Task, Tensors, Fit], Any]:
    def wrong(task: Task, params: Tensors, fit: Fit) -> Any:
        raise error

    return wrong


def returning(**changes: Any) -> Callable[[Task, Tensors, Fit], Any]:
    """The honest fit, but for these fields; ``w`` replaces a tensor."""

    def wrong(task: Task, params: Tensors, fit: Fit) -> Any:
        fields = {**vars(fit), **{k: v for k, v in changes.items() if k != "w"}}
        if "w" in changes:
            fields["params"] = {**(fit.params or {}), "w": changes["w"]}
        return Fit(**fields)

    return wrong


def writes_into_the_received(task: Task, params: Tensors, fit: Fit) -> Any:
    params["w"][0] = 99.0
    return fit


BROKEN: dict[str, tuple[Callable[[Task, Tensors, Fit], Any], Code, str]] = {
    "raises": (raising(ValueError("no such column")), Code.TASK_FAILED, "no such column"),
    "asserts": (raising(AssertionError()), Code.TASK_FAILED, "AssertionError"),
    "stops-iteration": (raising(StopIteration()), Code.TASK_FAILED, "StopIteration"),
    "exits": (raising(SystemExit(0)), Code.TASK_FAILED, "SystemExit"),
    "runs-out-of-memory": (raising(MemoryError()), Code.TASK_FAILED, "MemoryError"),
    "says-odd-things": (raising(ValueError("\udcff\x1b[2J")), Code.TASK_FAILED, "ValueError"),
    "writes-into-it": (writes_into_the_received, Code.TASK_FAILED, "read-only"),
    "metrics-none": (returning(metrics=None), Code.TASK_FAILED, "AttributeError"),
    "nan": (returning(w=spiked(np.nan)), Code.NOT_FINITE, ""),
    "infinite": (returning(w=spiked(np.inf)), Code.NOT_FINITE, ""),
    "diverged": (returning(w=spiked(1e9)), Code.OUT_OF_RANGE, ""),
    "other-shape": (returning(w=np.zeros(4)), Code.WRONG_TENSORS, ""),
    "other-dtype": (returning(w=np.zeros(3, np.float32)), Code.WRONG_TENSORS, ""),
    "other-names": (returning(params={"v": np.zeros(3)}), Code.WRONG_TENSORS, ""),
    "a-list": (returning(w=[0.0] * 3), Code.WRONG_TENSORS, ""),
    "no-params": (returning(params=None), Code.TASK_FAILED, ""),
    "no-fit": (lambda task, params, fit: None, Code.MALFORMED, ""),
    "no-data": (returning(examples=0), Code.BAD_WEIGHT, ""),
    "negative": (returning(examples=-4), Code.BAD_WEIGHT, ""),
    "too-many": (returning(examples=2**20 + 1), Code.BAD_WEIGHT, ""),
    "half-an-example": (returning(examples=0.5), Code.BAD_WEIGHT, ""),
    "metric-nan": (returning(metrics={"loss": float("nan")}), Code.NOT_FINITE, ""),
    "metric-text": (returning(metrics={"loss": "low"}), Code.MALFORMED, ""),
    "metric-slash": (returning(metrics={"a/b": 1.0}), Code.MALFORMED, ""),
    "metric-escapes": (returning(metrics={"\x1b[2J": 1.0}), Code.MALFORMED, ""),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_code_is_reported_and_the_next_round_goes_on(name: str, tmp_path: Path) -> None:
    wrong, code, traced = BROKEN[name]
    out = run(tmp_path, mallory=Broken(wrong))
    assert out.records[1]["failed"] == {"mallory": code}
    assert [e["code"] for e in out.of("update_refused")] == [code]
    assert out.records[2]["accepted"] == ["anna", "bernd", "mallory"]
    assert out.model == without_her()  # also what she keeps between rounds is as it was
    log = tmp_path / "mallory" / "failures.log"
    if traced:
        text = log.read_text(encoding="utf-8")
        assert "task 'train' in round 2" in text and traced in text
        assert "failures.log" in out.of("update_refused")[0]["message"]
    else:
        assert not log.exists()


@pytest.mark.parametrize("part", ["memory-raises", "memory-of-objects", "remember-raises"])
def test_broken_memory_is_reported_and_the_next_round_goes_on(part: str, tmp_path: Path) -> None:
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

    out = run(tmp_path, mallory=Forgetful(5.0))
    assert out.records[1]["failed"] == {"mallory": "task-failed"}
    assert out.records[2]["accepted"] == ["anna", "bernd", "mallory"]
    assert out.model == without_her()
    assert (tmp_path / "mallory" / "failures.log").is_file()


def test_a_run_does_not_end_with_the_exit_of_a_learner(tmp_path: Path) -> None:
    def leave(task: Task, params: Tensors, fit: Fit) -> Any:
        sys.exit("no licence")

    out = run(tmp_path, mallory=Broken(leave))
    message = out.of("update_refused")[0]["message"]
    assert "SystemExit" in message and "no licence" not in message
