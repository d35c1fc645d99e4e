# SPDX-License-Identifier: Apache-2.0
"""How far a run has come: what a member believes, keeps and countersigns."""

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.support import ca

from fedclave import canonical
from fedclave.errors import Code, Refused
from fedclave.trust import stated
from fedclave.trust.stated import Remembered, Statement

PLAN = "a" * 64
OWN = Ed25519PrivateKey.from_private_bytes(b"o" * 32)


def said(round_: int, model: str = "m", key: Ed25519PrivateKey = OWN, **fields: str) -> Statement:
    named = {"plan": PLAN, "contract": "c" * 64, "head": "", **fields}
    return stated.state(key, round_=round_, model=model * 64, **named)


@pytest.fixture
def anna(tmp_path: Path) -> Remembered:
    """A member that knows of round 5."""
    one = Remembered(tmp_path / "stated/anna/plan.json", PLAN)
    one.accept(said(5).raw)
    return one


@pytest.mark.parametrize("number", [5, 6, 100])
def test_a_run_that_goes_on_is_believed_and_remembered(number: int, anna: Remembered) -> None:
    anna.accept(said(number).raw)
    known = anna.newest()
    assert known is not None
    assert known.round == number


OLDER = {
    "the round before": said(4),
    "the beginning": said(0),
    "another model of the same round": said(5, model="n"),
}


@pytest.mark.parametrize("case", OLDER)
def test_what_was_set_back_is_refused_and_forgets_nothing(case: str, anna: Remembered) -> None:
    before = anna.newest()
    with pytest.raises(Refused, match="Its operator has to restore the newest copy") as refused:
        anna.accept(OLDER[case].raw)
    assert refused.value.code is Code.SET_BACK
    assert anna.newest() == before


def test_another_key_is_refused_whatever_it_states(anna: Remembered) -> None:
    with pytest.raises(Refused, match="its state was thrown away") as refused:
        anna.accept(said(9, key=Ed25519PrivateKey.generate()).raw)
    assert refused.value.code is Code.BAD_SIGNATURE


def test_another_plans_run_is_refused(anna: Remembered) -> None:
    with pytest.raises(Refused) as refused:
        anna.accept(said(9, plan="b" * 64).raw)
    assert refused.value.code is Code.WRONG_PLAN


def changed(**fields: Any) -> bytes:
    whole = canonical.decode(said(6).raw)
    whole["said"].update(fields)
    return canonical.encode(whole)


HOSTILE = {
    "nothing": (b"", Code.MALFORMED),
    "garbage": (b"\xff" * 64, Code.MALFORMED),
    "no map": (b"[]", Code.MALFORMED),
    "too long": (b" " * 20000, Code.MALFORMED),
    "not canonical": (said(6).raw + b" ", Code.MALFORMED),
    "no signature": (canonical.encode({"said": {}}), Code.MALFORMED),
    "another type": (changed(type="fedclave-stated/2"), Code.MALFORMED),
    "a key more": (changed(more=1), Code.MALFORMED),
    "a round that is a text": (changed(round="6"), Code.MALFORMED),
    "a round that is true": (changed(round=True), Code.MALFORMED),
    "a negative round": (changed(round=-1), Code.MALFORMED),
    "a model that is a number": (changed(model=1), Code.MALFORMED),
    "a key that is none": (changed(key="00"), Code.MALFORMED),
    "another round": (changed(round=7), Code.BAD_SIGNATURE),
    "another model": (changed(model="n" * 64), Code.BAD_SIGNATURE),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_no_aggregator_signed_is_refused(case: str, anna: Remembered) -> None:
    raw, code = HOSTILE[case]
    before = anna.newest()
    with pytest.raises(Refused) as refused:
        anna.accept(raw)
    assert refused.value.code is code
    assert anna.newest() == before


def test_a_damaged_memory_is_not_taken_for_none(anna: Remembered, tmp_path: Path) -> None:
    path = tmp_path / "stated/anna/plan.json"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Refused, match=r"plan.json is damaged"):
        anna.accept(said(6).raw)


def test_a_countersignature_is_of_one_key_and_one_statement(tmp_path: Path) -> None:
    authority = ca.create(tmp_path)
    one, other = ca.certify(authority, name="anna"), ca.certify(authority, name="bernd")
    signature = stated.countersign(one.private_key, said(5).raw)
    stated.check_countersigned(one.chain, said(5).raw, signature)
    for pem, raw in ((other.chain, said(5).raw), (one.chain, said(6).raw)):
        with pytest.raises(Refused) as refused:
            stated.check_countersigned(pem, raw, signature)
        assert refused.value.code is Code.BAD_SIGNATURE
