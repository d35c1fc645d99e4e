# SPDX-License-Identifier: Apache-2.0
"""What became of a collaborator's rounds is told at the end."""

from pathlib import Path
from typing import Any

import pytest

from fedclave.cli.tally import Tally
from fedclave.errors import UserError

ASKED: dict[str, Any] = {"event": "request", "tasks": ["train"]}
FAILED: dict[str, Any] = {"event": "failure", "code": "task-failed", "message": "ValueError"}
ACCEPTED: dict[str, Any] = {"event": "verdict", "code": None, "message": "accepted"}
REFUSED: dict[str, Any] = {"event": "verdict", "code": "task-failed", "message": "noted"}
LATE: dict[str, Any] = {"event": "verdict", "code": "late", "message": "closed"}


def tally(folder: Path, *rounds: tuple[dict[str, Any], ...]) -> Tally:
    """After rounds 1, 2, ... with these notices."""
    made = Tally("alice", folder / "failures.log")
    for number, notices in enumerate(rounds, 1):
        for notice in (ASKED, *notices):
            made.take({**notice, "round": number} if notice in (ASKED, FAILED) else notice)
    return made


def test_rounds_are_counted_as_they_ended(tmp_path: Path) -> None:
    made = tally(tmp_path, (ACCEPTED,), (FAILED, REFUSED), (LATE,), (ACCEPTED,))
    assert made.lines() == [
        "requests: 2 answered, 1 failed here, 1 refused by the aggregator",
        "last failure: round 2: task-failed: ValueError",
        "last refusal: round 3: late: closed",
    ]
    made.require_an_answer()


def test_a_round_that_was_asked_again_and_answered_has_not_failed(tmp_path: Path) -> None:
    made = tally(tmp_path, (FAILED, REFUSED))
    for notice in ({**ASKED, "round": 1}, ACCEPTED):
        made.take(notice)
    assert made.lines() == ["requests: 1 answered"]


def test_the_verdict_on_a_failure_is_no_news(tmp_path: Path) -> None:
    assert tally(tmp_path, (FAILED,)).repeats(REFUSED)
    assert not tally(tmp_path, (LATE,)).repeats(LATE)


def test_nothing_but_failures_is_the_users_mistake_and_names_the_traceback(tmp_path: Path) -> None:
    (tmp_path / "failures.log").touch()
    made = tally(tmp_path, (FAILED, REFUSED), (FAILED, REFUSED))
    with pytest.raises(
        UserError, match=r"no round .2 requests.*round 2: task-failed.*failures\.log"
    ):
        made.require_an_answer()


def test_who_was_never_asked_has_nothing_to_tell(tmp_path: Path) -> None:
    made = tally(tmp_path)
    assert made.lines() == []
    made.require_an_answer()
