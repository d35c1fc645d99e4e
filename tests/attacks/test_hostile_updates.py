# SPDX-License-Identifier: Apache-2.0
"""A member that answers what it must not: told why, recorded, and without effect on the others.

The first half says to the aggregator what no collaborator of ours would say. The second half runs
our collaborator with a learner, the user's own code, that does what it must not.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support.local import Act, Chaser, Federation, Run, Scripted, answer, bounds, plan

from fedclave.engine import metrics
from fedclave.engine.ports import Accept
from fedclave.errors import Code, Refused
from fedclave.messages import Failure, Fit, Measurement, Pull, Reply, Request, Task
from fedclave.tensors import Layout, Tensors
from fedclave.transport.local import LocalTransport

TARGETS = {"anna": 1.0, "bernd": 2.0}
LIAR = "mallory"
QUORUM = {"minimum": 2, "fraction": 0.5, "deadline_s": 60.0}
SHORT = {**QUORUM, "deadline_s": 0.8}  # the honest have answered by then
PLAN = plan()
LIMIT = PLAN.fold.limit
INTEGER_LIMIT = bounds(PLAN).integer_limit
MAX_WEIGHT = PLAN.fold.max_weight

Acts = Mapping[tuple[str, int], Act]


def update(w: Any = (0.0, 0.0, 0.0), steps: int = 1) -> Tensors:
    """An update of the layout that the round asks for."""
    return {"w": np.asarray(w, np.float64), "steps": np.asarray(steps, np.int64)}


def run(
    folder: Path,
    liar: Chaser | None = None,
    script: Callable[[LocalTransport], Acts] = lambda honest: {},
    quorum: Mapping[str, Any] = QUORUM,
) -> Run:
    """A whole run of the honest two and, if there is one, the liar."""
    learners = {name: Chaser(target) for name, target in TARGETS.items()}
    done = Federation(
        folder=folder,
        plan=plan(quorum=dict(quorum)),
        learners=learners if liar is None else {**learners, LIAR: liar},
        wrap=lambda honest, store: Scripted(honest, script(honest)),
    ).run()
    if done.error is not None:
        raise done.error
    return done


def saying(act: Act) -> Callable[[LocalTransport], Acts]:
    """The liar does this in every round."""
    return lambda honest: {(LIAR, number): act for number in range(1, PLAN.rounds + 2)}


def outcome(run: Run) -> list[Any]:
    """What a run comes to, without who failed in it."""
    return [run.model, run.best, [(r["accepted"], r["metrics"]) for r in run.records]]


UPDATES: dict[str, tuple[Code, Tensors]] = {
    "nan": (Code.NOT_FINITE, update([0, 0, np.nan])),
    "infinite": (Code.NOT_FINITE, update([0, np.inf, 0])),
    "minus-infinite": (Code.NOT_FINITE, update([-np.inf, 0, 0])),
    "infinities-that-cancel": (Code.NOT_FINITE, update([-np.inf, np.inf, 0])),
    "overflowing-square": (Code.OUT_OF_RANGE, update([1e200, 0, 0])),
    "past-the-limit": (Code.OUT_OF_RANGE, update([0, 0, np.nextafter(LIMIT, np.inf)])),
    "past-the-limit-below": (Code.OUT_OF_RANGE, update([0, 0, -np.nextafter(LIMIT, np.inf)])),
    "integer-past-the-limit": (Code.OUT_OF_RANGE, update(steps=INTEGER_LIMIT + 1)),
    "least-integer": (Code.OUT_OF_RANGE, update(steps=-(2**63))),
    "no-tensors": (Code.WRONG_TENSORS, {}),
    "missing-name": (Code.WRONG_TENSORS, {"w": np.zeros(3)}),
    "other-name": (Code.WRONG_TENSORS, {"v": np.zeros(3), "steps": np.array(1)}),
    "further-name": (Code.WRONG_TENSORS, {**update(), "z": np.zeros(1)}),
    "shorter": (Code.WRONG_TENSORS, update([0, 0])),
    "longer": (Code.WRONG_TENSORS, update([0, 0, 0, 0])),
    "other-rank": (Code.WRONG_TENSORS, update([[0, 0, 0]])),
    "other-dtype": (Code.WRONG_TENSORS, {**update(), "w": np.zeros(3, np.float32)}),
    "other-dtype-of-equal-size": (Code.WRONG_TENSORS, {**update(), "w": np.zeros(3, np.int64)}),
}

WEIGHTS: dict[str, Any] = {
    "zero": 0,
    "negative": -1,
    "too-large": MAX_WEIGHT + 1,
    "huge": 2**63,
    "fraction": 0.5,
    "nan": float("nan"),
    "bool": True,
}


def measured(series: Any = "train", examples: Any = 4, **values: Any) -> Measurement:
    return Measurement(series=series, examples=examples, values=values)


MEASUREMENTS: dict[str, tuple[Code, tuple[Measurement, ...]]] = {
    "another-series": (Code.MALFORMED, (measured("validate/local", loss=0.0),)),
    "another-task": (Code.MALFORMED, (measured("payroll", loss=0.0),)),
    "a-series-twice": (Code.MALFORMED, (measured(loss=0.0), measured(loss=1.0))),
    "nan": (Code.NOT_FINITE, (measured(loss=float("nan")),)),
    "infinite": (Code.NOT_FINITE, (measured("validate/global", loss=float("-inf")),)),
    "too-many": (
        Code.MALFORMED,
        (measured(**{f"m{n}": 0.0 for n in range(metrics.MAX_METRICS + 1)}),),
    ),
    "negative-examples": (Code.MALFORMED, (measured(examples=-1),)),
    "too-many-examples": (Code.MALFORMED, (measured(examples=metrics.MAX_EXAMPLES + 1),)),
    "no-name": (Code.MALFORMED, (measured(**{"": 0.0}),)),
    "a-path-as-name": (Code.MALFORMED, (measured(**{"../loss": 0.0}),)),
    "control-characters-as-name": (Code.MALFORMED, (measured(**{"\x1b[2J": 0.0}),)),
    "long-name": (Code.MALFORMED, (measured(**{"n" * (metrics.MAX_NAME + 1): 0.0}),)),
}


def refused_in_every_round(run: Run, code: Code) -> None:
    refused = run.of("update_refused")
    assert [(e["round"], e["member"], e["code"]) for e in refused] == [
        (number, LIAR, code) for number in range(1, PLAN.rounds + 1)
    ]
    assert [r["failed"] for r in run.records] == [{LIAR: code}] * PLAN.rounds + [{}]


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run that the honest two have among themselves."""
    return run(tmp_path_factory.mktemp("without"))


@pytest.mark.parametrize(("code", "delta"), UPDATES.values(), ids=UPDATES)
def test_a_hostile_update_is_refused_and_changes_nothing(
    tmp_path: Path, without: Run, code: Code, delta: Tensors
) -> None:
    async def act(request: Request, layout: Layout, accept: Accept) -> None:
        await accept(*answer(request, delta))

    disturbed = run(tmp_path, Chaser(9.0), saying(act))
    refused_in_every_round(disturbed, code)
    assert outcome(disturbed) == outcome(without)


@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS)
def test_a_hostile_weight_is_refused_and_changes_nothing(
    tmp_path: Path, without: Run, weight: Any
) -> None:
    async def act(request: Request, layout: Layout, accept: Accept) -> None:
        await accept(*answer(request, update([100, 100, 100]), weight=weight))

    disturbed = run(tmp_path, Chaser(9.0), saying(act))
    refused_in_every_round(disturbed, Code.BAD_WEIGHT)
    assert outcome(disturbed) == outcome(without)


@pytest.mark.parametrize(("code", "measurements"), MEASUREMENTS.values(), ids=MEASUREMENTS)
def test_hostile_measurements_take_the_update_with_them(
    tmp_path: Path, without: Run, code: Code, measurements: tuple[Measurement, ...]
) -> None:
    async def act(request: Request, layout: Layout, accept: Accept) -> None:
        await accept(*answer(request, update([1, 1, 1]), measurements=measurements))

    disturbed = run(tmp_path, Chaser(9.0), saying(act))
    refused_in_every_round(disturbed, code)
    assert outcome(disturbed) == outcome(without)


def test_an_answer_without_an_update_is_refused(tmp_path: Path, without: Run) -> None:
    async def act(request: Request, layout: Layout, accept: Accept) -> None:
        await accept(Reply(request=request.id), None)

    disturbed = run(tmp_path, Chaser(9.0), saying(act))
    refused_in_every_round(disturbed, Code.MALFORMED)
    assert outcome(disturbed) == outcome(without)


def test_a_promised_update_that_never_came_is_refused(tmp_path: Path, without: Run) -> None:
    async def act(request: Request, layout: Layout, accept: Accept) -> None:
        reply, _ = answer(request, update())
        await accept(reply, None)

    disturbed = run(tmp_path, Chaser(9.0), saying(act))
    refused_in_every_round(disturbed, Code.MALFORMED)
    assert outcome(disturbed) == outcome(without)


def test_an_answer_to_another_request_is_refused(tmp_path: Path, without: Run) -> None:
    async def act(request: Request, layout: Layout, accept: Accept) -> None:
        await accept(*answer(replace(request, round=request.round + 1), update()))

    disturbed = run(tmp_path, Chaser(9.0), saying(act))
    refused_in_every_round(disturbed, Code.NOT_ASKED)
    assert outcome(disturbed) == outcome(without)


def test_a_failure_that_brings_an_update_along_is_a_failure(tmp_path: Path, without: Run) -> None:
    async def act(request: Request, layout: Layout, accept: Accept) -> None:
        failure = Failure(code=Code.TASK_FAILED, message="it is not here")
        await accept(*answer(request, update([1, 1, 1]), failure=failure))

    disturbed = run(tmp_path, Chaser(9.0), saying(act))
    refused_in_every_round(disturbed, Code.TASK_FAILED)
    assert outcome(disturbed) == outcome(without)


def test_an_update_to_a_task_that_only_measures_is_refused(tmp_path: Path) -> None:
    async def act(request: Request, layout: Layout, accept: Accept) -> None:
        await accept(*answer(request, update([1, 1, 1])))

    undisturbed = run(tmp_path / "without", Chaser(9.0))
    closing = PLAN.rounds + 1
    disturbed = run(tmp_path / "with", Chaser(9.0), lambda honest: {(LIAR, closing): act})
    assert disturbed.records[-1]["failed"] == {LIAR: Code.MALFORMED}
    assert disturbed.model == undisturbed.model


def test_a_second_answer_is_refused_and_the_first_one_counts(tmp_path: Path) -> None:
    told: list[Code] = []

    def script(honest: LocalTransport) -> Acts:
        async def twice(request: Request, layout: Layout, accept: Accept) -> None:
            await honest.ask(request, layout, accept)
            try:
                await accept(*answer(request, update([100, 100, 100])))
            except Refused as refused:
                told.append(refused.code)
            answered.set()

        async def after_it(request: Request, layout: Layout, accept: Accept) -> None:
            await answered.wait()
            await honest.ask(request, layout, accept)

        answered = asyncio.Event()
        return {(LIAR, 1): twice, ("anna", 1): after_it}

    expected = run(tmp_path / "once", Chaser(9.0))
    disturbed = run(tmp_path / "twice", Chaser(9.0), script)
    assert told == [Code.DUPLICATE]
    (refused,) = disturbed.of("update_refused")
    assert (refused["round"], refused["member"], refused["code"]) == (1, LIAR, Code.DUPLICATE)
    assert outcome(disturbed) == outcome(expected)


def test_of_two_answers_at_once_one_counts(tmp_path: Path, without: Run) -> None:
    async def both(request: Request, layout: Layout, accept: Accept) -> None:
        same = [accept(*answer(request, update([1, 1, 1]))) for _ in range(2)]
        told.append(await asyncio.gather(*same, return_exceptions=True))

    async def one(request: Request, layout: Layout, accept: Accept) -> None:
        await accept(*answer(request, update([1, 1, 1])))

    told: list[list[Any]] = []
    expected = run(tmp_path / "once", Chaser(9.0), lambda honest: {(LIAR, 1): one})
    disturbed = run(tmp_path / "twice", Chaser(9.0), lambda honest: {(LIAR, 1): both})
    codes = [error.code for error in told[0] if isinstance(error, Refused)]
    assert codes == [Code.DUPLICATE]
    assert outcome(disturbed) == outcome(expected) != outcome(without)


def test_a_refused_answer_cannot_be_mended(tmp_path: Path, without: Run) -> None:
    told: list[Code] = []

    async def insist(request: Request, layout: Layout, accept: Accept) -> None:
        for w in ([np.nan, 0, 0], [0, 0, 0]):
            try:
                await accept(*answer(request, update(w)))
            except Refused as refused:
                told.append(refused.code)

    disturbed = run(tmp_path, Chaser(9.0), saying(insist))
    assert told[0] == Code.NOT_FINITE
    assert set(told[1::2]) <= {Code.DUPLICATE, Code.LATE}
    assert disturbed.records[0]["failed"] == {LIAR: Code.NOT_FINITE}
    assert outcome(disturbed) == outcome(without)


def test_a_late_answer_is_refused_and_changes_nothing(tmp_path: Path, without: Run) -> None:
    kept: list[tuple[Request, Accept]] = []
    told: list[Code] = []

    async def keep(request: Request, layout: Layout, accept: Accept) -> None:
        kept.append((request, accept))

    async def bring_the_last(request: Request, layout: Layout, accept: Accept) -> None:
        late, to = kept[0]
        try:
            await to(*answer(late, update([100, 100, 100])))
        except Refused as refused:
            told.append(refused.code)
        raise Refused(Code.TASK_FAILED, "enough for today")

    script = {(LIAR, 1): keep, (LIAR, 2): bring_the_last, (LIAR, 3): bring_the_last}
    disturbed = run(tmp_path, Chaser(9.0), lambda honest: script, quorum=SHORT)
    assert told == [Code.LATE, Code.LATE]
    late = disturbed.of("update_refused", round=1)
    assert [(e["member"], e["code"]) for e in late] == [(LIAR, Code.LATE)] * 2
    assert disturbed.records[0]["missing"] == [LIAR]
    assert [r["accepted"] for r in disturbed.records] == [["anna", "bernd"]] * 4
    assert disturbed.model == without.model


# Through our own collaborator: the learner is the user's code


class Faulty(Chaser):
    """Does as it should, except in round 1."""

    def __init__(self, fault: Callable[[Fit, dict[str, Any]], Any]) -> None:
        super().__init__(9.0)
        self._fault = fault

    def run(self, task: Task, params: Tensors, pull: Pull) -> Fit:
        fit = super().run(task, params, pull)
        faulty = task.round == 1 and task.run == "fit"
        given: Any = params  # a user's code is not held to a Mapping
        return self._fault(fit, given) if faulty else fit


def raises(fit: Fit, params: dict[str, Any]) -> Fit:
    raise ZeroDivisionError("no data in this fold")


def leaves(fit: Fit, params: dict[str, Any]) -> Fit:
    raise SystemExit(1)


def trains_in_place(fit: Fit, params: dict[str, Any]) -> Fit:
    params["w"] += 1.0
    return fit


RAISING: dict[str, tuple[Callable[[Fit, dict[str, Any]], Any], str]] = {
    "raises": (raises, "ZeroDivisionError: no data in this fold"),
    "leaves-the-process": (leaves, "SystemExit: 1"),
    "trains-in-place": (trains_in_place, "read-only"),
}


def with_params(**params: Any) -> Callable[[Fit, dict[str, Any]], Fit]:
    return lambda fit, _: replace(fit, params={**(fit.params or {}), **params})


def with_examples(examples: Any) -> Callable[[Fit, dict[str, Any]], Fit]:
    return lambda fit, _: replace(fit, examples=examples)


def with_metrics(**values: Any) -> Callable[[Fit, dict[str, Any]], Fit]:
    return lambda fit, _: replace(fit, metrics=values)


RETURNING: dict[str, tuple[Code, Callable[[Fit, dict[str, Any]], Any]]] = {
    "nan": (Code.NOT_FINITE, with_params(w=np.array([0, np.nan, 0]))),
    "infinite": (Code.NOT_FINITE, with_params(w=np.full(3, np.inf))),
    "diverged": (Code.OUT_OF_RANGE, with_params(w=np.full(3, 2 * LIMIT))),
    "counter-past-the-limit": (
        Code.OUT_OF_RANGE,
        with_params(steps=np.array(INTEGER_LIMIT + 1, np.int64)),
    ),
    "other-shape": (Code.WRONG_TENSORS, with_params(w=np.zeros((3, 1)))),
    "other-dtype": (Code.WRONG_TENSORS, with_params(w=np.zeros(3, np.float32))),
    "further-name": (Code.WRONG_TENSORS, with_params(v=np.zeros(3))),
    "missing-name": (
        Code.WRONG_TENSORS,
        lambda fit, _: replace(fit, params={"w": np.zeros(3)}),
    ),
    "lists-for-arrays": (Code.WRONG_TENSORS, with_params(w=[0.0, 0.0, 0.0])),
    "no-params": (Code.TASK_FAILED, lambda fit, _: replace(fit, params=None)),
    "no-fit": (Code.MALFORMED, lambda fit, _: None),
    "zero-examples": (Code.BAD_WEIGHT, with_examples(0)),
    "negative-examples": (Code.BAD_WEIGHT, with_examples(-5)),
    "huge-examples": (Code.BAD_WEIGHT, with_examples(MAX_WEIGHT + 1)),
    "fraction-of-examples": (Code.BAD_WEIGHT, with_examples(0.5)),
    "bool-for-examples": (Code.BAD_WEIGHT, with_examples(True)),
    "nan-metric": (
        Code.NOT_FINITE,
        with_metrics(loss=float("nan")),
    ),
    "text-for-metric": (Code.MALFORMED, with_metrics(loss="low")),
    "too-many-metrics": (
        Code.MALFORMED,
        with_metrics(**{f"m{n}": 0.0 for n in range(metrics.MAX_METRICS + 1)}),
    ),
}


def failed_once_and_went_on(run: Run, code: Code) -> str:
    """The message of the only refusal, which was in round 1."""
    (refused,) = run.of("update_refused")
    assert (refused["round"], refused["member"], refused["code"]) == (1, LIAR, code)
    assert run.records[0]["failed"] == {LIAR: code}
    assert [r["accepted"] for r in run.records] == [
        ["anna", "bernd"],
        *[["anna", "bernd", LIAR]] * 3,
    ]
    message: str = refused["message"]
    return message


def first_model(run: Run) -> Any:
    return run.of("round_closed", round=1)[0]["model"]


@pytest.mark.parametrize(("fault", "said"), RAISING.values(), ids=RAISING)
def test_a_learner_that_raises_fails_its_round_and_its_traceback_stays_at_home(
    tmp_path: Path, without: Run, fault: Callable[..., Any], said: str
) -> None:
    disturbed = run(tmp_path, Faulty(fault))
    message = failed_once_and_went_on(disturbed, Code.TASK_FAILED)
    log = (tmp_path / LIAR / "failures.log").read_text()
    assert log.startswith("task 'train' in round 1\nTraceback")
    assert said in log
    assert "Traceback" not in message
    assert first_model(disturbed) == first_model(without)


@pytest.mark.parametrize(("code", "fault"), RETURNING.values(), ids=RETURNING)
def test_a_learner_that_returns_what_it_must_not_fails_its_round(
    tmp_path: Path, without: Run, code: Code, fault: Callable[..., Any]
) -> None:
    disturbed = run(tmp_path, Faulty(fault))
    failed_once_and_went_on(disturbed, code)
    assert first_model(disturbed) == first_model(without)


def test_a_learner_that_answers_in_the_mapping_that_it_was_sent_counts_as_any_other(
    tmp_path: Path,
) -> None:
    def reuse(fit: Fit, params: dict[str, Any]) -> Fit:
        params.update(fit.params or {})
        return replace(fit, params=params)

    expected = run(tmp_path / "own", Chaser(9.0))
    assert outcome(run(tmp_path / "reused", Faulty(reuse))) == outcome(expected)


def test_measuring_cannot_change_the_update(tmp_path: Path) -> None:
    class Centering(Chaser):
        """Changes the trained params in place when it measures them."""

        def run(self, task: Task, params: Tensors, pull: Pull) -> Fit:
            if task.on == "local" and task.round == 1:
                np.subtract(params["w"], 1.0, out=params["w"])
            return super().run(task, params, pull)

    tasks = {"train": {"run": "fit"}, "validate": {"run": "evaluate", "on": ["local"]}}
    learners = {**{name: Chaser(target) for name, target in TARGETS.items()}, LIAR: Centering(9.0)}
    agreed = plan(tasks=tasks, quorum=QUORUM)
    done = Federation(folder=tmp_path, plan=agreed, learners=learners).run()
    assert done.records[0]["failed"] == {LIAR: Code.TASK_FAILED}
    assert "read-only" in (tmp_path / LIAR / "failures.log").read_text()
