# SPDX-License-Identifier: Apache-2.0
"""Whole federations in one process: the engine's behaviour over rounds, without a wire."""

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from tests.support.local import NOW, TASKS, Chaser, Federation, Run, Scripted, bounds, plan

from fedclave.algorithms import assignment
from fedclave.engine import events
from fedclave.engine.aggregator import Aggregator
from fedclave.engine.events import FIELDS, Events
from fedclave.engine.notebook import Notebook
from fedclave.engine.ports import Accept
from fedclave.engine.spool import Spool
from fedclave.errors import Code, Refused, Unavailable, UserError
from fedclave.messages import Fit, Pull, Request, Task
from fedclave.tensors import Layout, Tensors, digest
from fedclave.transport.local import LocalTransport

TARGETS = {"anna": 1.0, "bernd": 2.0, "carla": 5.0}
QUICK = {"minimum": 1, "fraction": 0.5, "deadline_s": 0.3}


def chasers() -> dict[str, Chaser]:
    return {name: Chaser(target, int(4 * target)) for name, target in TARGETS.items()}


def federation(folder: Path, **options: Any) -> Federation:
    """Three chasers; further keywords are sections of the plan, or fields of ``Federation``."""
    fields = {k: options.pop(k) for k in ("members", "assign", "wrap") if k in options}
    learners = options.pop("learners", None) or chasers()
    return Federation(folder=folder, plan=plan(**options), learners=learners, **fields)


async def silent(request: Request, update: Layout, accept: Accept) -> None:
    """Never answers."""
    await asyncio.Event().wait()


def scripted(**acts: Any) -> Callable[[LocalTransport, Any], Scripted]:
    """``anna_2=act``: what anna does in round 2 in place of her work."""
    by_round = {(n.split("_")[0], int(n.split("_")[1])): act for n, act in acts.items()}
    return lambda honest, store: Scripted(honest, by_round)


def finished(run: Run) -> Run:
    if run.error is not None:
        raise run.error
    return run


# What a run comes to


def test_a_run_depends_on_the_plan_and_the_members_alone(tmp_path: Path) -> None:
    one = finished(federation(tmp_path / "1").run())
    backwards = dict(reversed(chasers().items()))
    other = finished(federation(tmp_path / "2", learners=backwards).run())
    assert (one.round, one.model) == (4, other.model)  # three rounds and the closing one
    assert [r["metrics"] for r in one.records] == [r["metrics"] for r in other.records]


def test_another_seed_ends_elsewhere(tmp_path: Path) -> None:
    one = finished(federation(tmp_path / "1").run())
    assert finished(federation(tmp_path / "2", seed=8).run()).model != one.model


def test_the_model_is_the_weighted_mean_of_the_members(tmp_path: Path) -> None:
    run = finished(federation(tmp_path, rounds=1, tasks={"train": {"run": "fit"}}).run())
    learners, total = chasers(), sum(c.examples for c in chasers().values())
    expected = np.zeros(3)
    for name, learner in learners.items():
        request = Request(
            plan=plan(rounds=1, tasks={"train": {"run": "fit"}}).digest,
            round=1,
            member=name,
            tasks=("train",),
            params=digest(learner.weights()),
            size=0,
        )
        task = Task(name="train", run="fit", round=1, seed=request.seed(7, "train"))
        fit = learner.run(task, learner.weights(), Pull())
        assert fit.params is not None
        expected += fit.params["w"] * learner.examples / total
    np.testing.assert_allclose(run.params["w"], expected, rtol=1e-7)
    assert int(run.params["steps"]) == 1


def test_a_finished_run_started_again_asks_nobody(tmp_path: Path) -> None:
    one = finished(federation(tmp_path).run())
    again = finished(federation(tmp_path).run())
    assert again.model == one.model
    assert [e["event"] for e in again.events] == ["run_started", "run_finished"]
    assert again.events[0]["resumed"] is True


def test_a_damaged_checkpoint_is_told_and_its_round_is_done_again(tmp_path: Path) -> None:
    one = finished(federation(tmp_path).run())
    path = Path(one.events[-1]["path"])
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    again = finished(federation(tmp_path).run())
    assert again.model == one.model
    (told,) = again.of("checkpoint_damaged")
    assert (told["path"], told["round"]) == (str(path), again.events[0]["round"])


def test_a_plan_that_only_measures_leaves_the_model_alone(tmp_path: Path) -> None:
    tasks = {"validate": {"run": "evaluate", "on": ["global"]}}
    run = finished(federation(tmp_path, tasks=tasks, rounds=2).run())
    assert run.model == digest(Chaser(0).weights())
    assert all(e["weight"] == e["bytes"] == 0 for e in run.of("update_accepted"))
    assert run.events[-1]["bytes"]["up"] == 0


def test_tasks_of_ones_own_are_done_in_order_under_their_names(tmp_path: Path) -> None:
    tasks = {
        "audit": {"run": "evaluate", "on": ["local", "global"]},
        "finetune": {"run": "fit"},
    }
    learners = chasers()
    run = finished(federation(tmp_path, tasks=tasks, rounds=1, learners=learners).run())
    assert learners["anna"].done[:3] == [(1, "audit/global"), (1, "finetune"), (1, "audit/local")]
    metrics = run.records[0]["metrics"]
    assert set(metrics) == {"audit/global/loss", "audit/local/loss", "finetune/speed"}
    assert metrics["audit/local/loss"] < metrics["audit/global/loss"]


def test_metrics_are_means_weighted_by_examples(tmp_path: Path) -> None:
    run = finished(federation(tmp_path, rounds=1).run())
    total = sum(4 * t for t in TARGETS.values())
    expected = sum(4 * t * t**2 for t in TARGETS.values()) / total  # the loss of all zeros
    assert run.records[0]["metrics"]["validate/global/loss"] == pytest.approx(expected)


# Who takes part


def test_a_late_joiner_takes_part_from_the_next_round(tmp_path: Path) -> None:
    rounds: list[int] = []

    def members() -> list[str]:
        rounds.append(1)
        return ["anna", "bernd"] if len(rounds) == 1 else list(TARGETS)

    run = finished(federation(tmp_path, members=members).run())
    assert [r["accepted"] for r in run.records[:3]] == [
        ["anna", "bernd"],
        ["anna", "bernd", "carla"],
        ["anna", "bernd", "carla"],
    ]


def test_a_member_may_be_away_and_come_back_while_there_is_a_quorum(tmp_path: Path) -> None:
    fed = federation(tmp_path, quorum=QUICK, wrap=scripted(bernd_2=silent))
    run = finished(fed.run())
    assert [r["missing"] for r in run.records] == [[], ["bernd"], [], []]
    assert run.records[1]["accepted"] == ["anna", "carla"]


def test_a_round_is_not_closed_before_the_deadline_while_a_member_may_answer(
    tmp_path: Path,
) -> None:
    gate = asyncio.Event()

    def hold(honest: LocalTransport, store: Any) -> Scripted:
        async def slow(request: Request, update: Layout, accept: Accept) -> None:
            await gate.wait()
            await honest.ask(request, update, accept)

        async def last(request: Request, update: Layout, accept: Accept) -> None:
            await honest.ask(request, update, accept)
            gate.set()  # the quorum is there, and the slow one begins only now

        return Scripted(honest, {("anna", 1): slow, ("carla", 1): last})

    quorum = {"minimum": 1, "fraction": 0.1, "deadline_s": 60.0}
    run = finished(federation(tmp_path, rounds=1, quorum=quorum, wrap=hold).run())
    assert run.records[0]["accepted"] == ["anna", "bernd", "carla"]


def test_without_a_quorum_the_run_stops_and_goes_on_later_as_if_it_had_not(
    tmp_path: Path,
) -> None:
    undisturbed = finished(federation(tmp_path / "undisturbed", quorum=QUICK).run())
    absent = scripted(anna_2=silent, bernd_2=silent)
    stopped = federation(tmp_path / "run", quorum=QUICK, wrap=absent).run()
    assert isinstance(stopped.error, Unavailable)
    assert "round 2 has 1 of the 2 answers" in str(stopped.error)
    assert "Not heard: anna, bernd" in str(stopped.error)
    assert stopped.round == 1
    assert stopped.events[-1]["event"] == "run_stopped"
    assert stopped.events[-1]["round"] == 2
    resumed = finished(federation(tmp_path / "run", quorum=QUICK).run())
    assert resumed.model == undisturbed.model
    assert resumed.records[1]["metrics"] == undisturbed.records[1]["metrics"]


def test_too_many_failures_stop_the_round_at_once(tmp_path: Path) -> None:
    async def refuse(request: Request, update: Layout, accept: Accept) -> None:
        raise Refused(Code.UNKNOWN_MEMBER, "revoked")

    wrap = scripted(anna_1=refuse, bernd_1=refuse, carla_1=silent)
    quorum = {"minimum": 2, "fraction": 0.5, "deadline_s": 60.0}
    stopped = federation(tmp_path, quorum=quorum, wrap=wrap).run()
    assert isinstance(stopped.error, Unavailable)
    assert "Failed: anna (unknown-member), bernd (unknown-member)" in str(stopped.error)
    assert "Not heard: carla" in str(stopped.error)
    assert len(stopped.of("update_refused")) == 2


def test_a_round_that_asks_fewer_than_the_quorum_does_not_begin(tmp_path: Path) -> None:
    quorum = {"minimum": 4, "fraction": 0.5, "deadline_s": 60.0}
    run = federation(tmp_path, quorum=quorum).run()
    assert isinstance(run.error, Unavailable)
    assert "the quorum is 4, more than the members that are asked (3: " in str(run.error)
    assert run.of("round_opened") == []


def test_more_members_than_the_fold_is_made_for_do_not_begin(tmp_path: Path) -> None:
    run = federation(tmp_path, fold={"max_members": 2}).run()
    assert isinstance(run.error, Unavailable)
    assert "fold.max_members is 2" in str(run.error)


def test_a_sample_of_the_members_is_asked(tmp_path: Path) -> None:
    run = finished(federation(tmp_path, assignment={"sample": 0.34}).run())
    assert [len(r["accepted"]) for r in run.records[:3]] == [1, 1, 1]


def test_random_groups_are_asked_for_their_own_tasks(tmp_path: Path) -> None:
    groups = [
        {"name": "trainers", "tasks": ["train"], "share": 0.67},
        {"name": "judges", "tasks": ["validate"], "share": 0.33},
    ]
    run = finished(federation(tmp_path, assignment={"groups": groups}).run())
    for opened in run.of("round_opened")[:3]:
        assert sorted(opened["asked"].values()) == [["train"], ["train"], ["validate/global"]]
    assert {e["weight"] for e in run.of("update_accepted", round=1)} != {0}


def test_a_users_rule_decides_and_its_mistake_ends_the_run(tmp_path: Path) -> None:
    def alternate(round_: int, members: Sequence[str], rng: Random) -> dict[str, list[str]]:
        if round_ == 3:
            return {"eve": ["train"]}
        return {members[round_ % 3]: ["train"]}

    rule = assignment.user_rule(alternate, list(TASKS), 7)
    run = federation(tmp_path, assign=rule).run()
    assert isinstance(run.error, UserError)
    assert [r["accepted"] for r in run.records] == [["bernd"], ["carla"]]


def test_an_interrupted_round_keeps_whom_it_asked(tmp_path: Path) -> None:
    absent = scripted(anna_2=silent, bernd_2=silent)
    members = ["anna", "bernd", "carla"]
    stopped = federation(tmp_path, quorum=QUICK, wrap=absent, members=lambda: members[:2])
    stopped_run = stopped.run()
    assert stopped_run.error is not None
    resumed = finished(federation(tmp_path, quorum=QUICK, members=lambda: members).run())
    assert resumed.records[1]["accepted"] == ["anna", "bernd"]  # as it was opened
    assert resumed.records[2]["accepted"] == members


def test_an_interrupted_round_no_longer_waits_for_who_was_taken_off_the_list(
    tmp_path: Path,
) -> None:
    absent = scripted(anna_2=silent, bernd_2=silent)
    assert federation(tmp_path, quorum=QUICK, wrap=absent).run().error is not None
    remaining = federation(tmp_path, quorum=QUICK, members=lambda: ["anna", "carla"])
    assert finished(remaining.run()).records[1]["accepted"] == ["anna", "carla"]


# The closing evaluation and the best model


def test_the_last_record_measures_the_final_model(tmp_path: Path) -> None:
    run = finished(federation(tmp_path).run())
    weights = {name: 4 * target for name, target in TARGETS.items()}
    losses = {n: float(np.mean((run.params["w"] - t) ** 2)) for n, t in TARGETS.items()}
    expected = sum(losses[n] * weights[n] for n in TARGETS) / sum(weights.values())
    assert run.records[3]["metrics"] == {"validate/global/loss": pytest.approx(expected)}
    assert (
        run.of("round_closed", round=4)[0]["model"] == run.of("round_closed", round=3)[0]["model"]
    )


def test_a_plan_without_measures_has_no_closing_evaluation(tmp_path: Path) -> None:
    run = finished(federation(tmp_path, tasks={"train": {"run": "fit"}}).run())
    assert run.round == 3


def test_the_closing_evaluation_asks_those_of_the_last_round(tmp_path: Path) -> None:
    run = finished(federation(tmp_path, quorum=QUICK, wrap=scripted(bernd_3=silent)).run())
    assert run.of("round_opened", round=4)[0]["asked"] == {
        "anna": ["validate/global"],
        "carla": ["validate/global"],
    }


def test_nobody_can_stop_the_closing_evaluation(tmp_path: Path) -> None:
    async def broken(request: Request, update: Layout, accept: Accept) -> None:
        raise Refused(Code.UNKNOWN_MEMBER, "revoked")

    wrap = scripted(anna_4=silent, bernd_4=broken, carla_4=silent)
    run = finished(federation(tmp_path, quorum=QUICK, wrap=wrap).run())
    assert run.events[-1]["event"] == "run_finished"
    assert run.records[3]["failed"] == {"bernd": "unknown-member"}
    assert run.records[3]["missing"] == ["anna", "carla"]


def test_a_closing_evaluation_that_nobody_comes_to_ends_at_the_deadline(tmp_path: Path) -> None:
    class Deserted(Scripted):
        async def present(self, members: int) -> None:
            if self.traffic.down and members:
                await asyncio.Event().wait()  # all have left after the first round

    wrap = scripted(anna_2=silent, bernd_2=silent, carla_2=silent)

    def deserted(honest: LocalTransport, store: Any) -> Scripted:
        return Deserted(honest, wrap(honest, store)._acts)

    run = finished(federation(tmp_path, rounds=1, quorum=QUICK, wrap=deserted).run())
    assert run.events[-1]["event"] == "run_finished"
    assert run.records[1]["missing"] == ["anna", "bernd", "carla"]


@pytest.mark.parametrize(("direction", "better"), [("max", max), ("min", min)])
def test_the_best_model_is_the_one_that_measured_best(
    direction: str, better: Callable[[Sequence[float]], float], tmp_path: Path
) -> None:
    class Moody(Chaser):
        """Measures what a list says, whatever the model."""

        moods = (0.5, 0.9, 0.1, 0.7)

        def run(self, task: Task, params: Tensors, pull: Pull) -> Fit:
            if task.run == "evaluate":
                return Fit(examples=4, metrics={"loss": self.moods[task.round - 1]})
            return super().run(task, params, pull)

    best = {"metric": "validate/global/loss", "direction": direction}
    learners = {name: Moody(target) for name, target in TARGETS.items()}
    run = finished(federation(tmp_path, best=best, learners=learners).run())
    assert run.best is not None
    at = Moody.moods.index(better(Moody.moods))  # round n measures the model of round n - 1
    assert (run.best.round, run.best.value) == (at, Moody.moods[at])
    opened = run.of("round_opened", round=at + 1)[0]
    assert run.best.model == opened["model"] == run.events[-1]["best"]
    assert (tmp_path / "save" / "models" / f"{run.best.model}.safetensors").is_file()


def test_an_equal_measure_keeps_the_earlier_model(tmp_path: Path) -> None:
    class Constant(Chaser):
        def run(self, task: Task, params: Tensors, pull: Pull) -> Fit:
            fit = super().run(task, params, pull)
            return fit if fit.params else Fit(examples=4, metrics={"loss": 1.0})

    run = finished(federation(tmp_path, learners={"anna": Constant(1.0)}).run())
    assert run.best is not None and run.best.round == 0
    assert len(run.of("best_model")) == 1


# State that a learner keeps


def test_what_a_learner_keeps_survives_the_process(tmp_path: Path) -> None:
    undisturbed = finished(federation(tmp_path / "undisturbed", quorum=QUICK, rounds=4).run())
    folder = tmp_path / "run"
    for away in ({"anna_2": silent, "bernd_2": silent}, {"carla_4": silent, "anna_4": silent}):
        absent = scripted(**away)
        run = federation(folder, quorum=QUICK, rounds=4, wrap=absent).run()  # new learners
        assert run.error is not None
    assert finished(federation(folder, quorum=QUICK, rounds=4).run()).model == undisturbed.model


def test_a_member_that_is_seldom_asked_keeps_its_state(tmp_path: Path) -> None:
    def seldom(round_: int, members: Sequence[str], rng: Random) -> dict[str, list[str]]:
        return {members[0]: ["train"]} if round_ in (1, 5) else {members[1]: ["train"]}

    rule = assignment.user_rule(seldom, list(TASKS), 7)
    learners = chasers()
    seen: list[float] = []
    kept = learners["anna"].remember

    def remember(memory: Tensors) -> None:
        seen.append(float(memory["speed"][0]) if memory else 0.0)
        kept(memory)

    learners["anna"].remember = remember  # type: ignore[method-assign]
    finished(federation(tmp_path, rounds=5, assign=rule, learners=learners).run())
    assert seen[0] == 0.0 and seen[1] != 0.0


# When it is not a member's fault


def test_a_failing_disk_ends_the_run_and_is_told(tmp_path: Path) -> None:
    async def broken(request: Request, update: Layout, accept: Accept) -> None:
        raise OSError(5, "Input/output error")

    run = federation(tmp_path, wrap=scripted(anna_2=broken, bernd_2=silent)).run()
    assert isinstance(run.error, OSError)
    assert finished(federation(tmp_path).run()).round == 4


def test_a_cancelled_run_leaves_nothing_running_and_goes_on_later(tmp_path: Path) -> None:
    undisturbed = finished(federation(tmp_path / "undisturbed").run())
    fed = federation(tmp_path / "run")

    async def interrupted() -> None:
        asked = asyncio.Event()

        async def hang(request: Request, update: Layout, accept: Accept) -> None:
            asked.set()
            await asyncio.Event().wait()

        store = fed.store()
        notebooks = {name: Notebook(fed.folder / name) for name in fed.learners}
        members = {n: fed.collaborator(fed.learners[n], notebooks[n]) for n in fed.learners}
        store.begin(Chaser(0).weights(), {})
        honest = LocalTransport(members, store, Spool(fed.folder / "spool"))
        transport = Scripted(honest, {("bernd", 2): hang})
        aggregator = Aggregator(fed.rules(), store, transport, Events(None, lambda: NOW))
        running = asyncio.create_task(aggregator.run())
        await asked.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert asyncio.all_tasks() == {asyncio.current_task()}
        for opened in (store, *notebooks.values()):
            opened.close()

    asyncio.run(interrupted())
    assert finished(federation(tmp_path / "run").run()).model == undisturbed.model


def test_there_is_no_run_without_an_initial_model(tmp_path: Path) -> None:
    fed = federation(tmp_path)

    async def run() -> None:
        store = fed.store()
        transport = LocalTransport({}, store, Spool(tmp_path / "spool"))
        try:
            await Aggregator(fed.rules(), store, transport, Events(None, lambda: NOW)).run()
        finally:
            store.close()

    with pytest.raises(UserError, match="fx plan initialize"):
        asyncio.run(run())


def test_a_member_of_another_process_is_unknown_here(tmp_path: Path) -> None:
    fed = federation(tmp_path, quorum=QUICK, members=lambda: [*TARGETS, "dora"])
    run = finished(fed.run())
    assert run.records[0]["failed"] == {"dora": "unknown-member"}


# Events


def test_events_are_those_of_the_schema_and_the_file_holds_them_all(tmp_path: Path) -> None:
    run = finished(federation(tmp_path, quorum=QUICK, wrap=scripted(bernd_2=silent)).run())
    for event in run.events:
        assert event.keys() - {"v", "time", "event"} == FIELDS[event["event"]].keys()
        assert (event["v"], event["time"]) == (1, "2030-01-01T00:00:00+00:00")
    assert list(events.read(tmp_path / "events.jsonl")) == run.events
    kinds = [e["event"] for e in run.events]
    assert kinds[0] == "run_started" and kinds[-1] == "run_finished"
    assert kinds.count("round_opened") == kinds.count("round_closed") == 4
    json.dumps(run.events, allow_nan=False)


def test_bytes_are_those_that_crossed(tmp_path: Path) -> None:
    run = finished(federation(tmp_path, rounds=1).run())
    size = run.events[0]["size"]
    closed = run.of("round_closed", round=1)[0]["bytes"]
    assert closed == {"up": sum(e["bytes"] for e in run.of("update_accepted")), "down": 3 * size}
    total = run.events[-1]["bytes"]
    assert total["down"] == 2 * 3 * size  # the closing evaluation too


def test_a_run_that_was_killed_within_a_line_goes_on_in_a_readable_file(tmp_path: Path) -> None:
    stopped = federation(tmp_path, quorum=QUICK, wrap=scripted(anna_2=silent, bernd_2=silent)).run()
    log = tmp_path / "events.jsonl"
    log.write_bytes(log.read_bytes()[:-20])
    before = list(events.read(log))
    assert before == stopped.events[:-1]
    resumed = finished(federation(tmp_path, quorum=QUICK).run())
    assert list(events.read(log)) == [*before, *resumed.events]


def test_bounds_come_from_the_plan() -> None:
    agreed = plan(fold={"limit": 2.0, "max_weight": 8, "max_members": 4})
    assert bounds(agreed).fraction_bits == 56
