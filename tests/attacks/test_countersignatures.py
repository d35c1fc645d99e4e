# SPDX-License-Identifier: Apache-2.0
"""What a party runs is what its authors signed and its own owner accepted, and nothing else."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedclave.errors import Code, Refused
from fedclave.trust import dsse, gate
from fedclave.trust.contract import ACCEPTANCE_TYPE, CONTRACT_TYPE, Acceptance, Contract, File

AUTHOR, OWNER, MALLORY = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 3, 4))
PLAN = "ab" * 32
CONTRACT = Contract(
    federation="kit", plan=PLAN, files=(File(path="src/a.py", size=1, sha256="0" * 64),)
)
ACCEPTED = Acceptance(contract=CONTRACT.id, federation="kit", party="anna")


def contract(of: Contract = CONTRACT, *keys: Ed25519PrivateKey) -> dsse.Envelope:
    envelope = dsse.Envelope(type=CONTRACT_TYPE, payload=of.bytes, signatures=())
    for key in keys or (AUTHOR,):
        envelope = dsse.add(envelope, key)
    return envelope


def acceptance(of: Acceptance = ACCEPTED, key: Ed25519PrivateKey = OWNER) -> dsse.Envelope:
    return dsse.sign(ACCEPTANCE_TYPE, of.bytes, key)


def accept(signed: dsse.Envelope, given: dsse.Envelope, **how: Any) -> gate.SignedContract:
    usual = {
        "authors": [AUTHOR.public_key()],
        "owner": OWNER.public_key(),
        "party": "anna",
        "federation": "kit",
        "plan": PLAN,
    }
    return gate.accept(signed, given, **(usual | how))


def test_a_contract_that_all_stand_by_is_accepted() -> None:
    accepted = accept(contract(), acceptance())
    assert (accepted.id, accepted.party) == (CONTRACT.id, "anna")


Case = Callable[[], gate.SignedContract]
ATTACKS: dict[str, tuple[Code, Case]] = {
    "a contract that somebody else signed": (
        Code.BAD_SIGNATURE,
        lambda: accept(contract(CONTRACT, MALLORY), acceptance()),
    ),
    "no trusted author": (
        Code.BAD_SIGNATURE,
        lambda: accept(contract(), acceptance(), authors=[]),
    ),
    "an acceptance in place of a contract": (
        Code.BAD_SIGNATURE,
        lambda: accept(dsse.sign(ACCEPTANCE_TYPE, ACCEPTED.bytes, AUTHOR), acceptance()),
    ),
    "a contract in place of an acceptance": (
        Code.BAD_SIGNATURE,
        lambda: accept(contract(), contract(CONTRACT, OWNER)),
    ),
    "another federation's contract": (
        Code.WRONG_FEDERATION,
        lambda: accept(contract(), acceptance(), federation="other"),
    ),
    "a contract about another plan": (
        Code.WRONG_PLAN,
        lambda: accept(contract(), acceptance(), plan="cd" * 32),
    ),
    "a countersignature of another owner": (
        Code.BAD_SIGNATURE,
        lambda: accept(contract(), acceptance(ACCEPTED, MALLORY)),
    ),
    "the author countersigns for the owner": (
        Code.BAD_SIGNATURE,
        lambda: accept(contract(), acceptance(ACCEPTED, AUTHOR)),
    ),
    "an acceptance of an earlier contract": (
        Code.WRONG_CONTRACT,
        lambda: accept(contract(), acceptance(replace(ACCEPTED, contract="0" * 64))),
    ),
    "an acceptance for another site of the same owner": (
        Code.WRONG_CONTRACT,
        lambda: accept(contract(), acceptance(replace(ACCEPTED, party="bernd"))),
    ),
    "an acceptance for another federation": (
        Code.WRONG_CONTRACT,
        lambda: accept(contract(), acceptance(replace(ACCEPTED, federation="x"))),
    ),
    "a signed text that is no contract": (
        Code.MALFORMED,
        lambda: accept(dsse.sign(CONTRACT_TYPE, b"{}", AUTHOR), acceptance()),
    ),
    "an owner who signed something else": (
        Code.MALFORMED,
        lambda: accept(contract(), dsse.sign(ACCEPTANCE_TYPE, CONTRACT.bytes, OWNER)),
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_each_is_refused_with_its_code(attack: str) -> None:
    code, case = ATTACKS[attack]
    with pytest.raises(Refused) as caught:
        case()
    assert caught.value.code is code
