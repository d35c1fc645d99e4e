# SPDX-License-Identifier: Apache-2.0
"""What people see of a run: each state of a party, no line too long, nothing a peer made up."""

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from fedclave.cli.board import Board
from fedclave.cli.view import View, line, table
from fedclave.engine.events import FIELDS

BEGIN = datetime(2031, 5, 1, 12, tzinfo=UTC)
SAMPLE: dict[str, Any] = {
    "run_started": {"plan": "ab" * 32, "name": "digits", "round": 0, "rounds": 2,
                    "model": "cd" * 32, "size": 19_500, "resumed": False},
    "member_attested": {"member": "alice", "word": "VERIFIED", "measurement": "41aa" * 16,
                        "tcb": "UpToDate", "advisories": "", "collateral_age_s": 200_000,
                        "evidence": "ef" * 32, "certificate": "ab" * 32,
                        "policy": "cd" * 32, "reason": "", "expires": "2026-05-01T08:00:00Z"},
    "attestation": {"word": "SIMULATED", "measurement": "ab" * 32, "tcb": "UpToDate",
                    "advisories": "", "collateral_age_s": 0, "evidence": "ef" * 32,
                    "policy": "cd" * 32, "reason": "", "expires": "2026-05-01T08:00:00Z"},
    "policy": {"version": 2, "digest": "cd" * 32, "signers": ["ab" * 32]},
    "session_ended": {"member": "alice", "code": "ATT-REVOKED", "message": "it was revoked"},
    "trouble": {"message": "the policy's file is damaged"},
    "checkpoint_damaged": {"path": "save/models/ab.safetensors", "round": 1},
    "member_joined": {"member": "alice", "address": "ipv4:127.0.0.1:5000"},
    "member_left": {"member": "alice", "reason": "the connection was lost"},
    "peer_refused": {"peer": "mallory", "code": "unknown-member", "message": "not on the list"},
    "members_awaited": {"round": 1, "needed": 2, "away": ["bob"]},
    "round_opened": {"round": 1, "asked": {"alice": ["train"], "bob": ["train"]}, "needed": 1,
                     "deadline_s": 60.0, "model": "cd" * 32},
    "task_started": {"round": 1, "member": "alice", "task": "train"},
    "update_accepted": {"round": 1, "member": "alice", "weight": 392, "bytes": 19_000,
                        "metrics": {"validate/global/accuracy": 0.25,
                                    "validate/local/accuracy": 0.75}},
    "update_refused": {"round": 1, "member": "bob", "code": "not-finite", "message": "NaN in 'w'"},
    "round_closed": {"round": 1, "accepted": ["alice"], "failed": {"bob": "not-finite"},
                     "missing": [], "metrics": {"validate/global/accuracy": 0.25,
                                                "validate/global/loss": 1.5},
                     "bytes": {"up": 19_000, "down": 39_000}, "seconds": 0.5, "model": "ef" * 32},
    "best_model": {"round": 0, "metric": "validate/global/accuracy", "value": 0.25,
                   "model": "cd" * 32},
    "run_finished": {"rounds": 2, "model": "ef" * 32, "path": "/w/save/m.safetensors",
                     "word": None,
                     "best": "cd" * 32, "bytes": {"up": 38_000, "down": 78_000}, "seconds": 2.0},
    "run_stopped": {"round": 2, "message": "round 2 has no quorum. Start again"},
}  # fmt: skip


def event(kind: str, at_s: float = 0.0, **fields: Any) -> dict[str, Any]:
    """An event that the engine could have written."""
    sample = SAMPLE.get(kind, {})
    at = (BEGIN + timedelta(seconds=at_s)).isoformat()
    return {"v": 1, "time": at, "event": kind, **sample, **fields}


def board(*events: dict[str, Any], parties: tuple[str, ...] = ("alice", "bob")) -> Board:
    made = Board()
    for name in parties:
        made.party(name)
    for one in (event("run_started"), *events):
        made.update(one)
    return made


def joined(*events: dict[str, Any]) -> Board:
    """A board with both parties connected in round 1."""
    both = (event("member_joined", member=name) for name in ("alice", "bob"))
    return board(*both, event("round_opened"), *events)


def screen(of: Board, width: int = 80, height: int = 24, at_s: float = 0.0) -> str:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=False)
    with console.capture() as captured:
        console.print(table(of, BEGIN + timedelta(seconds=at_s), height))
    return captured.get()


def row(of: Board, name: str) -> list[str]:
    return next(text.split() for text in screen(of).splitlines() if text.startswith(name))


def test_samples_are_events_of_the_engine() -> None:
    assert {kind: set(fields) for kind, fields in SAMPLE.items()} == {
        kind: set(fields) for kind, fields in FIELDS.items()
    }


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([], "asked"),
        ([event("task_started")], "training"),
        ([event("task_started", task="validate/local")], "validating"),
        ([event("update_accepted")], "reported"),
        ([event("update_refused", member="alice", code="late")], "late"),
        ([event("update_refused", member="alice")], "refused (not-finite)"),
        ([event("round_closed", missing=["alice"])], "late"),
        ([event("member_left")], "away"),
        ([event("member_left"), event("member_joined")], "ready"),
        ([event("update_accepted"), event("run_finished")], "done"),
        ([event("update_accepted"), event("run_finished"), event("member_left")], "done"),
    ],
)
def test_each_state_of_a_party_is_shown(events: list[dict[str, Any]], state: str) -> None:
    assert f"alice       {state}" in screen(joined(*events))


def test_a_row_tells_examples_and_both_accuracies() -> None:
    assert row(joined(event("update_accepted")), "alice") == [
        "alice", "reported", "392", "0.250", "0.750", "NOT", "ATTESTED"]  # fmt: skip


def test_the_own_accuracy_stays_when_only_the_global_model_is_measured() -> None:
    closing = event("update_accepted", weight=0, metrics={"validate/global/accuracy": 0.5})
    shown = row(joined(event("update_accepted"), closing), "alice")
    assert shown[2:5] == ["392", "0.500", "0.750"]


def test_the_header_tells_round_figures_traffic_and_time() -> None:
    shown = screen(joined(event("round_closed"), event("round_opened", round=2)), at_s=65)
    for part in ("digits", "round 2 of 2", "accuracy 0.250", "loss 1.500", "up 19.0 kB",
                 "down 39.0 kB", "time 1:05"):  # fmt: skip
        assert part in shown


def test_what_each_party_has_proved_is_shown() -> None:
    assert "aggregator NOT ATTESTED" in screen(joined())
    assert "aggregator SIMULATED 41aa41aa" in screen(
        joined({**event("member_attested"), "event": "attestation", "word": "SIMULATED"})
    )
    shown = screen(joined(event("member_attested")), width=120)
    assert "VERIFIED 41aa41aa UpToDate 2d" in shown
    assert row(joined(event("member_attested")), "bob")[-2:] == ["NOT", "ATTESTED"]


@pytest.mark.parametrize("word", ["VERIFIED", "SIMULATED"])
def test_a_line_of_the_log_tells_what_a_party_has_proved(word: str) -> None:
    (told,) = plain(event("member_attested", word=word))
    assert told == f"alice is {word}: 41aa41aa UpToDate 2d"


def test_who_waits_is_told_where_and_for_how_many() -> None:
    waiting = board(event("listening", address="localhost:8443"), event("member_joined"))
    assert "waiting for parties: 1 of 2 connected" in screen(waiting)
    assert "listening on localhost:8443" in screen(waiting)


@pytest.mark.parametrize(
    ("last", "words"),
    [
        (event("round_opened", round=3), "final evaluation"),
        (event("run_finished", at_s=5), "finished after 2 of 2 rounds"),
        (event("run_stopped"), "stopped after 2 of 2 rounds"),
    ],
)
def test_the_end_of_a_run_is_named(last: dict[str, Any], words: str) -> None:
    assert words in screen(joined(event("round_closed", round=2), last), at_s=99)


def test_the_clock_stops_with_the_run() -> None:
    assert "time 0:05" in screen(joined(event("run_finished", at_s=5)), at_s=99)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_nothing_is_wider_than_the_screen(width: int) -> None:
    wordy = event("peer_refused", message="long " * 80)
    shown = screen(joined(wordy, event("listening", address="host.example.org:8443")), width)
    assert max(map(len, shown.splitlines())) <= width
    assert "unknown-member" in shown


def test_two_hundred_parties_fit_on_a_small_screen() -> None:
    names = tuple(f"party-{n:03}" for n in range(200))
    many = board(parties=names)
    for name in names:
        many.update(event("member_joined", member=name))
    shown = screen(many, height=24).splitlines()
    assert len(shown) <= 22
    assert any(text.startswith("and 1") and "ready" in text for text in shown)


def test_the_latest_three_notices_stay_in_sight() -> None:
    refusals = [event("peer_refused", peer=f"peer-{n}") for n in range(5)]
    shown = screen(joined(*refusals))
    assert [f"peer-{n}" in shown for n in range(5)] == [False, False, True, True, True]


@pytest.mark.parametrize("kind", ["peer_refused", "update_refused", "member_left"])
def test_escape_codes_of_a_peer_reach_neither_log_nor_table(kind: str) -> None:
    hostile = "\x1b[2J\x07\n\x9b31m"
    fields = {"message": hostile, "code": hostile, "reason": hostile, "peer": hostile}
    sent = event(kind, **{k: v for k, v in fields.items() if k in SAMPLE[kind]})
    for shown in (line(sent) or "", screen(joined(sent)).replace("\n", "")):
        assert shown.isprintable()


def test_events_of_a_later_version_are_passed_over() -> None:
    before = screen(joined())
    assert screen(joined(event("comet_seen", tail=True))) == before
    assert line(event("comet_seen")) is None


def plain(*events: dict[str, Any]) -> list[str]:
    out = io.StringIO()
    with View(Console(file=out, width=40), now=lambda: BEGIN) as view:
        for one in events:
            view(one)
    return out.getvalue().splitlines()


def test_off_a_terminal_each_round_is_one_plain_line_whatever_the_width() -> None:
    closed = [event("round_closed", round=n, missing=["bob"]) for n in (1, 2, 3)]
    started, *rounds = plain(event("run_started"), *closed)
    assert started == "digits begins: 2 rounds, a model of 19.5 kB, plan abababababab"
    rest = "accuracy 0.250, loss 1.500, 1 reported, late bob, failed bob, up 19.0 kB, down 39.0 kB"
    assert rounds == [
        f"{which}, {rest}, 0.50 s" for which in ("round 1/2", "round 2/2", "final evaluation")
    ]


def test_off_a_terminal_goodbyes_after_the_end_are_not_told() -> None:
    told = plain(event("member_left"), event("run_finished"), event("member_left"))
    assert [text.split()[0] for text in told] == ["alice", "finished:"]


def test_the_end_of_a_run_says_how_the_parties_stood() -> None:
    (told,) = plain(event("run_finished", word="SIMULATED"))
    assert told == "finished: 2 rounds in 2.0 s, SIMULATED, model /w/save/m.safetensors"
    (told,) = plain(event("run_finished"))
    assert told == "finished: 2 rounds in 2.0 s, model /w/save/m.safetensors"


def test_who_is_waited_for_is_told() -> None:
    (few,) = plain(event("members_awaited"))
    assert few == "round 1 opens with 2 members; not connected: bob"
    (many,) = plain(event("members_awaited", away=[f"site{n}" for n in range(10)]))
    assert many.endswith("site6, site7 and 2 more")
    assert row(board(event("members_awaited", away=["carol"])), "carol")[1] == "away"


def test_a_damaged_checkpoint_is_named_and_stays_in_sight() -> None:
    (told,) = plain(event("checkpoint_damaged"))
    expected = "save/models/ab.safetensors is missing or damaged; the run goes on after round 1"
    assert told == expected
    assert expected in screen(board(event("checkpoint_damaged")), width=120)


def test_a_resumed_run_says_from_where() -> None:
    (told,) = plain(event("run_started", round=1, resumed=True))
    assert told.startswith("digits goes on after round 1 of 2 rounds")


def test_on_a_terminal_the_table_is_redrawn_in_place_and_stays() -> None:
    out = io.StringIO()
    console = Console(file=out, width=80, height=24, force_terminal=True, _environ={})
    with View(console, now=lambda: BEGIN, members=("alice", "bob")) as view:
        view(event("run_started"))
        view(event("round_opened"))
        view(event("update_accepted"))
    text = out.getvalue()
    assert "\x1b[2K" in text and "\x1b[1A" in text  # erase the line, go up one
    assert text.count("reported") >= 1
    assert text.rindex("\x1b[?25h") > text.rindex("reported")  # the cursor is back


def test_a_dumb_terminal_gets_plain_lines() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, _environ={"TERM": "dumb"})
    with View(console, now=lambda: BEGIN) as view:
        view(event("round_closed"))
    assert "\x1b" not in out.getvalue() and out.getvalue().startswith("round 1/?, acc")
