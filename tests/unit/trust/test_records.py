# SPDX-License-Identifier: Apache-2.0
"""Records of the log: one value has one form, and SIMULATED is said wherever it led."""

import dataclasses
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from fedclave import canonical
from fedclave.errors import Code, Refused
from fedclave.trust import records
from fedclave.trust.judgement import Word

AT = datetime(2031, 5, 1, 9, 30, 59, tzinfo=UTC)
A, B, C, D = (digit * 64 for digit in "abcd")
PART = records.Part(name="anna", word=Word.SIMULATED, packet=A, weight=12, outcome="folded")
ABSENT = records.Part(name="bernd", word=Word.VERIFIED, packet=None, weight=None, outcome="absent")
LATE = records.Part(name="carla", word=Word.VERIFIED, packet=B, weight=3, outcome=Code.LATE)
ROUND = records.RoundRecord(
    at=AT,
    contract=A,
    plan=B,
    round=3,
    word=Word.SIMULATED,
    members=(PART, ABSENT, LATE),
    aggregate=C,
    model_before=D,
    model_after=A,
    codec={"name": "dense", "bits": 32},
    privacy={},
)
ADMISSION = records.AdmissionRecord(
    at=AT,
    peer="anna",
    role="collaborator",
    certificate=A,
    word=Word.SIMULATED,
    measurement=B,
    tcb_status="UpToDate",
    evidence=C,
    policy=D,
)
RECORDS: list[records.Record] = [
    records.ContractRecord(at=AT, contract=A, plan=B, author=C),
    records.PolicyRecord(at=AT, version=7, policy=A, signers=(B, C)),
    ADMISSION,
    records.RefusalRecord(at=AT, code=Code.ATT_MRENCLAVE, peer="eve", word=None, message="é runs"),
    records.RefusalRecord(at=AT, code=Code.NO_CERTIFICATE, peer=None, word=None, message=""),
    records.ReleaseRecord(
        at=AT, to="anna", purpose="data-key", word=Word.SIMULATED, key=A, object=B, transcript=C
    ),
    ROUND,
]  # fmt: skip


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.type)
def test_a_record_comes_back_from_its_bytes(record: records.Record) -> None:
    entry = records.encode(record)
    assert records.decode(entry) == record
    assert canonical.decode(entry)["type"] == record.type


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.type)
def test_a_key_more_or_less_is_refused(record: records.Record) -> None:
    fields = canonical.decode(records.encode(record))
    for changed in ({**fields, "more": 1}, {k: v for k, v in fields.items() if k != "at"}):
        with pytest.raises(Refused) as caught:
            records.decode(canonical.encode(changed))
        assert caught.value.code is Code.MALFORMED


@pytest.mark.parametrize("record", [ADMISSION, RECORDS[5], ROUND], ids=lambda one: one.type)
def test_what_a_simulated_verdict_led_to_says_so(record: Any) -> None:
    assert canonical.decode(records.encode(record))["word"] == "SIMULATED"


def test_a_round_cannot_pass_over_a_simulated_member() -> None:
    for word in (Word.VERIFIED, Word.NOT_ATTESTED):
        with pytest.raises(ValueError, match="a member that is less"):
            dataclasses.replace(ROUND, word=word)
    fields = canonical.decode(records.encode(ROUND))
    with pytest.raises(Refused, match="a member that is less"):
        records.decode(canonical.encode({**fields, "word": "VERIFIED"}))


def test_a_simulated_aggregator_marks_a_round_of_verified_members() -> None:
    alone = dataclasses.replace(ROUND, members=(ABSENT, LATE))
    assert alone.word is Word.SIMULATED


def test_an_attested_peer_has_all_that_its_evidence_says() -> None:
    for field in ("measurement", "tcb_status", "evidence", "policy"):
        with pytest.raises(ValueError, match="needs measurement"):
            dataclasses.replace(ADMISSION, **{field: None})
    plain = dataclasses.replace(
        ADMISSION, word=Word.NOT_ATTESTED, measurement=None, tcb_status=None, evidence=None
    )
    assert records.decode(records.encode(plain)) == plain


@pytest.mark.parametrize(
    ("record", "change"),
    [
        (ROUND, {"round": 0}),
        (ROUND, {"round": 1.0}),
        (ROUND, {"round": True}),
        (ROUND, {"aggregate": A[:-1]}),
        (ROUND, {"aggregate": A.upper()}),
        (ROUND, {"aggregate": A + "\n"}),
        (ROUND, {"members": [LATE, PART]}),
        (ROUND, {"members": [PART, PART]}),
        (ROUND, {"codec": None}),
        (ADMISSION, {"peer": "a b"}),
        (ADMISSION, {"peer": "anna\n"}),
        (ADMISSION, {"role": "king"}),
        (ADMISSION, {"word": "FINE"}),
        (ADMISSION, {"measurement": "ab" * 40}),
        (ADMISSION, {"at": "2031-05-01T09:30:59+00:00"}),
        (ADMISSION, {"at": "2031-05-01T09:30:59.5Z"}),
        (ADMISSION, {"at": "2031-05-01T11:30:59+02:00"}),
        (ADMISSION, {"at": 1935394259}),
        (ADMISSION, {"type": "round"}),
        (ADMISSION, {"type": "other"}),
        (RECORDS[3], {"code": "no-such-code"}),
        (RECORDS[3], {"message": "two\nlines"}),
        (RECORDS[3], {"message": "\u202eright to left"}),
        (RECORDS[3], {"message": "x" * 301}),
        (RECORDS[1], {"version": 0}),
        (RECORDS[1], {"signers": [A, 1]}),
    ],
)
def test_a_value_that_cannot_be_is_refused(record: Any, change: dict[str, Any]) -> None:
    fields = canonical.decode(records.encode(record))
    whole = json.loads(json.dumps({**fields, **change}, default=lambda p: vars(p)))
    with pytest.raises(Refused) as caught:
        records.decode(canonical.encode(whole))
    assert caught.value.code is Code.MALFORMED


@pytest.mark.parametrize(
    "entry",
    [b"", b"{}", b"[]", b"null", b"\xff", b'{"type":"round"}', b'{"type":1}', b"[" * 100000,
     b'{"type": "round"}', records.encode(ROUND) + b" ", records.encode(ROUND)[:-1]],
)  # fmt: skip
def test_bytes_that_are_no_record_are_refused(entry: bytes) -> None:
    with pytest.raises(Refused) as caught:
        records.decode(entry)
    assert caught.value.code is Code.MALFORMED


def test_what_was_folded_has_a_packet_and_a_weight() -> None:
    for change in ({"packet": None}, {"weight": None}, {"weight": 0}):
        with pytest.raises(ValueError, match=r"packet|greater"):
            dataclasses.replace(PART, **change)


def test_a_time_is_written_in_utc_whatever_zone_it_came_in() -> None:
    made: Callable[..., records.Record] = records.ContractRecord
    abroad = AT.astimezone(timezone(timedelta(hours=2)))
    record = made(at=abroad, contract=A, plan=B, author=C)
    assert b'"2031-05-01T09:30:59Z"' in records.encode(record)
    later = made(at=abroad.replace(microsecond=999_999), contract=A, plan=B, author=C)
    assert later == record  # whole seconds
    for wrong in (AT.replace(tzinfo=None), AT.replace(year=999)):
        with pytest.raises(ValueError, match="a time has a zone"):
            made(at=wrong, contract=A, plan=B, author=C)


def test_what_is_not_attested_shows_no_evidence() -> None:
    made: Callable[..., records.Record] = records.AdmissionRecord
    bare = {
        "at": AT, "peer": "anna", "role": "collaborator", "certificate": A,
        "word": records.Word.NOT_ATTESTED, "measurement": None, "tcb_status": None,
        "evidence": None, "policy": B,
    }  # fmt: skip
    assert records.decode(records.encode(made(**bare))) == made(**bare)
    for claim in ({"measurement": A}, {"tcb_status": "UpToDate"}, {"evidence": A}):
        with pytest.raises(ValueError, match="NOT ATTESTED"):
            made(**{**bare, **claim})


def test_a_peers_message_becomes_one_short_line() -> None:
    assert records.shortened("a\x1b[31m\nb\u202e") == "a [31m b "
    assert len(records.shortened("x" * 1000)) == records.MAX_MESSAGE


@pytest.mark.parametrize(
    "at", ["9999-12-31T23:59:59-23:59", "1969-12-31T23:59:59Z", "0001-01-01T00:00:00+23:59"]
)
def test_a_time_that_utc_has_not_is_refused(at: str) -> None:
    fields = canonical.decode(records.encode(ADMISSION))
    with pytest.raises(Refused) as caught:
        records.decode(canonical.encode({**fields, "at": at}))
    assert caught.value.code is Code.MALFORMED
