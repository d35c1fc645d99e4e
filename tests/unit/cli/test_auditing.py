# SPDX-License-Identifier: Apache-2.0
"""What happens in a run, as the records that the log gets of it."""

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fedclave.cli.auditing import Ledger
from fedclave.trust import records, signing
from fedclave.trust.judgement import Word
from fedclave.trust.log import Log
from fedclave.trust.records import AdmissionRecord, PolicyRecord, RefusalRecord

AT = "2031-05-01T09:30:00+00:00"
ATTESTED = {
    "time": AT, "event": "member_attested", "member": "anna", "word": "SIMULATED",
    "measurement": "ab" * 32, "tcb": "UpToDate", "evidence": "cd" * 32, "certificate": "ef" * 32,
    "policy": "12" * 32,
}  # fmt: skip


@pytest.fixture
def log(tmp_path: Path) -> Any:
    with Log(tmp_path / "log", signing.generate(), "kit") as made:
        yield made


def written(log: Log, *events: dict[str, Any]) -> list[Any]:
    terms: Any = SimpleNamespace(contract="ab" * 32)
    plan: Any = None
    ledger = Ledger(log, plan, terms, Word.SIMULATED, 0)
    for event in events:
        ledger.take(event)
    return [records.decode(entry) for entry in log.entries(0, log.size)]


def test_a_session_that_ends_is_a_refusal_of_that_member(log: Log) -> None:
    ended = {
        "time": AT, "event": "session_ended", "member": "anna", "code": "ATT-REVOKED",
        "message": "a certificate of the platform was revoked",
    }  # fmt: skip
    admitted, refused = written(log, ATTESTED, ended)
    assert isinstance(admitted, AdmissionRecord)
    assert isinstance(refused, RefusalRecord)
    assert (refused.peer, refused.code, refused.word) == ("anna", "ATT-REVOKED", Word.SIMULATED)


@pytest.mark.parametrize(
    ("peer", "named"),
    [("bob", "bob"), ("127.0.0.1:50000", None), ("[::1]:50000", None), ("", None)],
    ids=["certified", "address", "address6", "nothing"],
)
def test_who_was_not_admitted_is_named_by_its_certificate_and_has_no_word(
    log: Log, peer: str, named: str | None
) -> None:
    (refused,) = written(
        log, {"time": AT, "event": "peer_refused", "peer": peer, "code": "late", "message": "x"}
    )
    assert (refused.peer, refused.word) == (named, None)


def test_a_policy_that_takes_effect_in_a_run_is_logged(log: Log) -> None:
    (policy,) = written(
        log,
        {"time": AT, "event": "policy", "version": 2, "digest": "34" * 32, "signers": ["56" * 32]},
    )
    assert policy == PolicyRecord(
        at=datetime(2031, 5, 1, 9, 30, tzinfo=UTC),
        version=2,
        policy="34" * 32,
        signers=("56" * 32,),
    )


def test_other_events_are_no_records(log: Log) -> None:
    assert written(log, {"time": AT, "event": "task_started", "member": "anna"}) == []
