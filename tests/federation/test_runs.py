# SPDX-License-Identifier: Apache-2.0
"""Who is asked in which round, what interrupts a run, and what its events say of it.

Beside ``test_local``: rules of assignment over whole runs, and interruptions within one process.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from tests.support.local import NOW, TASKS, Act, Chaser, Federation, Run, Scripted, answer, plan

from fedclave.algorithms import assignment
from fedclave.engine import events
from fedclave.engine.aggregator import Aggregator
from fedclave.engine.events import FIELDS, Event, Events
from fedclave.engine.notebook import Notebook
from fedclave.engine.ports import Accept
from fedclave.engine.spool import Body, Spool
from fedclave.errors import Bug, Code, Unavailable
from fedclave.messages import Request
from fedclave.plan import Plan
from fedclave.tensors import Layout, encode
from fedclave.transport.local import LocalTransport

NAMES = ("anna", "bernd", "carla", "dora")
DEADLINE_S = 0.8  # the others have answered by then
QUICK = {"minimum": 1, "fraction": 0.5, "deadline_s": DEADLINE_S}


def federation(folder: Path, agreed: Plan, **fields: Any) -> Federation:
    learners = {name: Chaser(number + 1.0) for number, name in enumerate(NAMES)}
    return Federation(folder=folder, plan=agreed, learners=learners, **fields)


def finished(run: Run) -> Run:
    if run.error is not None:
        raise run.error
    return run


def asked(run: Run) -> list[dict[str, list[str]]]:
    """Round by round, without the closing evaluation: member -> steps."""
    opened = run.of("round_opened")
    return [event["asked"] for event in opened[: len(opened) - 1]]


def scripted(acts: Mapping[tuple[str, int], Act]) -> Callable[..., Scripted]:
    """(member, round) -> what it does in place of its work."""
    return lambda honest, store: Scripted(honest, acts)


async def silent(request: Request, update: Layout, accept: Accept) -> None:
    await asyncio.Event().wait()


# Who is asked


def test_samples_differ_between_rounds_and_not_between_runs(tmp_path: Path) -> None:
    agreed = plan(rounds=8, assignment={"sample": 0.5})
    first = finished(federation(tmp_path / "first", agreed).run())
    second = finished(federation(tmp_path / "second", agreed).run())
    drawn = [tuple(members) for members in asked(first)]
    assert all(len(members) == 2 for members in drawn)
    assert len(set(drawn)) > 1
    assert asked(second) == asked(first)
    assert second.model == first.model


def test_random_groups_differ_between_rounds_and_leave_nobody_out(tmp_path: Path) -> None:
    groups = [
        {"name": "trainers", "tasks": ["train"], "share": 0.5},
        {"name": "judges", "tasks": ["validate"], "share": 0.5},
    ]
    run = finished(federation(tmp_path, plan(rounds=8, assignment={"groups": groups})).run())
    trainers = []
    for members in asked(run):
        assert sorted(members) == sorted(NAMES)
        trainers.append(tuple(sorted(m for m, steps in members.items() if steps == ["train"])))
    assert all(len(members) == 2 for members in trainers)
    assert len(set(trainers)) > 1


def test_listed_groups_do_their_own_tasks_and_a_judge_does_not_move_the_model(
    tmp_path: Path,
) -> None:
    groups = [
        {"name": "trainers", "tasks": ["train"], "members": ["anna", "bernd"]},
        {"name": "judges", "tasks": ["validate"], "members": ["bernd", "carla"]},
    ]
    run = finished(federation(tmp_path, plan(rounds=1, assignment={"groups": groups})).run())
    assert asked(run) == [
        {
            "anna": ["train"],
            "bernd": ["validate/global", "train"],
            "carla": ["validate/global"],
        }
    ]
    weights = {e["member"]: e["weight"] for e in run.of("update_accepted", round=1)}
    assert weights == {"anna": 4, "bernd": 4, "carla": 0}
    assert int(run.params["steps"]) == 1
    closing_round = run.of("round_opened", round=2)[0]
    assert sorted(closing_round["asked"]) == ["bernd", "carla"]  # anna measures nothing


def test_the_users_own_rule_decides_with_the_rounds_own_randomness(tmp_path: Path) -> None:
    drawn: dict[str, list[float]] = {"first": [], "second": []}

    def run(name: str) -> Run:
        def one_of_them(round_: int, members: Sequence[str], rng: Random) -> dict[str, list[str]]:
            drawn[name].append(rng.random())
            return {members[round_ % len(members)]: ["train", "validate"]}

        rule = assignment.user_rule(one_of_them, list(TASKS), 7)
        return finished(federation(tmp_path / name, plan(), assign=rule).run())

    first = run("first")
    assert [list(members) for members in asked(first)] == [["bernd"], ["carla"], ["dora"]]
    assert run("second").model == first.model
    assert drawn["first"] == drawn["second"]
    assert len(set(drawn["first"])) == len(drawn["first"])


# What interrupts a run


def test_another_aggregator_goes_on_with_the_same_store_after_a_lost_quorum(
    tmp_path: Path,
) -> None:
    made = federation(tmp_path, plan(quorum={**QUICK, "minimum": 3}))
    seen: list[Event] = []

    async def run() -> str:
        sink = Events(None, lambda: NOW, seen.append)
        with closing(made.store()) as store, closing(sink):
            store.begin(made.learners["anna"].weights(), {})
            notebooks = {name: Notebook(tmp_path / name) for name in NAMES}
            members = {n: made.collaborator(made.learners[n], notebooks[n]) for n in NAMES}
            honest = LocalTransport(members, store, Spool(tmp_path / "spool"))
            away = Scripted(honest, {("anna", 2): silent, ("bernd", 2): silent})
            with pytest.raises(Unavailable, match="round 2 has 2 of the 3 answers"):
                await Aggregator(made.rules(), store, away, sink).run()
            final = await Aggregator(made.rules(), store, honest, sink).run()
            for notebook in notebooks.values():
                notebook.close()
            return final.model

    undisturbed = federation(tmp_path / "undisturbed", made.plan)
    assert asyncio.run(run()) == finished(undisturbed.run()).model
    started = [e for e in seen if e["event"] == "run_started"]
    assert [(e["round"], e["resumed"]) for e in started] == [(0, False), (1, True)]


def test_who_answered_before_the_crash_does_not_train_twice(tmp_path: Path) -> None:
    agreed = plan(quorum={**QUICK, "minimum": 3})
    absent = {("anna", 2): silent, ("bernd", 2): silent}
    made = federation(tmp_path, agreed, wrap=scripted(absent))
    assert isinstance(made.run().error, Unavailable)
    resumed = federation(tmp_path, agreed)
    finished(resumed.run())
    done: dict[str, Any] = dict(resumed.learners)
    assert (2, "train") in done["anna"].done
    assert (2, "train") not in done["carla"].done
    assert (3, "train") in done["carla"].done


def test_an_answer_in_time_counts_even_if_its_judgement_ends_after_the_deadline(
    tmp_path: Path,
) -> None:
    gate = threading.Event()

    class Held(Body):
        """Is read only when the deadline has passed."""

        def blocks(self) -> Iterator[tuple[str, int, Any]]:
            gate.wait()
            yield from super().blocks()

    async def slow(request: Request, update: Layout, accept: Accept) -> None:
        asyncio.get_running_loop().call_later(1.25 * DEADLINE_S, gate.set)
        delta = {"w": np.ones(3), "steps": np.ones((), np.int64)}
        reply, _ = answer(request, delta)
        await accept(reply, Held(update, bytearray(encode(delta))))

    acts = {("anna", 1): slow, ("bernd", 1): silent}
    run = finished(federation(tmp_path, plan(rounds=1, quorum=QUICK), wrap=scripted(acts)).run())
    assert "anna" in run.records[0]["accepted"]
    assert run.records[0]["missing"] == ["bernd"]
    assert run.of("update_refused") == []


def test_a_member_that_ends_without_an_answer_is_missing(tmp_path: Path) -> None:
    async def ends(request: Request, update: Layout, accept: Accept) -> None:
        return None

    wrap = scripted({("anna", 1): ends})
    run = finished(federation(tmp_path, plan(rounds=1, quorum=QUICK), wrap=wrap).run())
    assert run.records[0]["missing"] == ["anna"]
    assert run.records[0]["accepted"] == ["bernd", "carla", "dora"]


# Events


def test_an_events_file_cut_anywhere_is_read_up_to_its_last_whole_line(tmp_path: Path) -> None:
    run = finished(federation(tmp_path, plan(rounds=1)).run())
    log = tmp_path / "events.jsonl"
    whole = log.read_bytes()
    last_but_one = whole.rfind(b"\n", 0, whole.rfind(b"\n", 0, -1)) + 1
    for end in range(last_but_one, len(whole) + 1):
        log.write_bytes(whole[:end])
        assert list(events.read(log)) == run.events[: whole[:end].count(b"\n")]


def test_an_event_that_is_not_of_the_schema_is_a_bug(tmp_path: Path) -> None:
    with closing(Events(tmp_path / "events.jsonl", lambda: NOW)) as sink:
        for name, fields in (
            ("round_exploded", {}),
            ("member_left", {"member": "anna"}),
            ("member_left", {"member": "anna", "reason": "gone", "mood": "sad"}),
        ):
            with pytest.raises(Bug, match=name):
                sink.emit(name, **fields)
    assert list(events.read(tmp_path / "events.jsonl")) == []


def test_every_event_of_a_disturbed_run_has_the_fields_of_the_schema(tmp_path: Path) -> None:
    async def wrong(request: Request, update: Layout, accept: Accept) -> None:
        await accept(*answer(request, {"w": np.zeros(2)}))

    acts = {("anna", 1): wrong, ("bernd", 2): silent, ("carla", 2): silent, ("dora", 2): silent}
    agreed = plan(quorum=QUICK)
    stopped = federation(tmp_path, agreed, wrap=scripted(acts)).run()
    assert isinstance(stopped.error, Unavailable)
    resumed = finished(federation(tmp_path, agreed).run())
    seen = [*stopped.events, *resumed.events]
    assert {e["event"] for e in seen} == FIELDS.keys() - {
        "checkpoint_damaged",
        "member_attested",  # these are a wire's
        "attestation",
        "policy",
        "session_ended",
        "member_joined",
        "trouble",
        "member_left",
        "members_awaited",
        "peer_refused",
        "task_started",
    }
    for event in seen:
        assert event.keys() == {"v", "time", "event", *FIELDS[event["event"]]}
    assert stopped.of("update_refused")[0]["code"] == Code.WRONG_TENSORS
    assert list(events.read(tmp_path / "events.jsonl")) == seen
