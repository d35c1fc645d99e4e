# SPDX-License-Identifier: Apache-2.0
"""Claims have one encoding, and are required to be about this channel."""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from tests.support.evidence import CLAIMS, EXPECTED, NOW, SPKI, said

from fedclave.errors import Code, Refused
from fedclave.trust import cbor, claims

cbor2 = pytest.importorskip("cbor2", reason="evidence needs an extra: attest")


def test_what_is_encoded_decodes_to_itself() -> None:
    assert claims.decode(claims.encode(CLAIMS)) == CLAIMS


def test_the_encoding_is_a_map_of_texts_to_byte_strings() -> None:
    fields = cbor2.loads(said())
    assert {type(key) for key in fields} == {str}
    assert {type(value) for value in fields.values()} == {bytes}


def test_the_encoding_is_in_the_order_of_rfc_8949() -> None:
    keys = list(cbor2.loads(said()))
    assert keys == sorted(keys, key=cbor2.dumps)
    assert len(keys) == 13


def test_another_implementation_reads_the_key_and_the_nonce() -> None:
    fields = cbor2.loads(said())
    assert cbor2.loads(fields["pubkey-hash"]) == [1, hashlib.sha256(SPKI).digest()]
    assert fields["nonce"] == CLAIMS.nonce


def test_time_is_kept_in_whole_seconds_of_utc() -> None:
    zone = timezone(timedelta(hours=2))
    made = replace(CLAIMS, time=datetime(2031, 5, 1, 14, 0, 0, 999_999, tzinfo=zone))
    assert made == CLAIMS
    assert made.time.tzinfo is UTC
    assert cbor2.loads(claims.encode(made))["fedclave-time"] == b"2031-05-01T12:00:00Z"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("role", "director"),
        ("name", "a b"),
        ("federation", ""),
        ("contract", "C0" * 32),
        ("policy", "d0" * 31),
        ("key", b"k" * 31),
        ("peer", b""),
        ("nonce", b"n" * 33),
        ("own_nonce", b"n" * 16),
        ("hpke_key", b"h" * 33),
        ("time", datetime(2031, 5, 1)),
    ],
)
def test_claims_that_cannot_be_said_are_not_made(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field if field != "name" else "party"):
        replace(CLAIMS, **{field: value})  # type: ignore[arg-type]


def test_claims_over_16_kib_are_not_made() -> None:
    with pytest.raises(ValueError, match="16384"):
        said(checkpoint=bytes(claims.MAX_SIZE))


def test_a_checkpoint_may_be_as_long_as_all_claims_allow() -> None:
    longest = claims.MAX_SIZE - len(said(checkpoint=bytes(256))) + 256
    assert len(said(checkpoint=bytes(longest))) == claims.MAX_SIZE
    assert claims.decode(said(checkpoint=bytes(longest))).checkpoint == bytes(longest)


def changed(**fields: object) -> bytes:
    """Claims with some of their fields replaced; None takes one away."""
    plain = cbor2.loads(said()) | {name.replace("_", "-"): one for name, one in fields.items()}
    return cbor2.dumps({k: v for k, v in plain.items() if v is not None}, canonical=True)


@pytest.mark.parametrize(
    ("encoded", "code", "words"),
    [
        (changed(fedclave_version=b"fl-attest/2"), Code.ATT_UNSUPPORTED, "fl-attest/1"),
        (changed(fedclave_version=None), Code.ATT_UNSUPPORTED, "fl-attest/1"),
        (changed(nonce=None), Code.ATT_MALFORMED, "'nonce' is missing"),
        (changed(fedclave_role=None), Code.ATT_MALFORMED, "'fedclave-role' is missing"),
        (changed(more=b""), Code.ATT_MALFORMED, "'more' is not one of theirs"),
        (changed(nonce="text"), Code.ATT_MALFORMED, "texts to byte strings"),
        (changed(fedclave_role=b"boss"), Code.ATT_MALFORMED, "boss"),
        (changed(fedclave_name=b"\xff"), Code.ATT_MALFORMED, "ascii"),
        (changed(fedclave_contract=b"c"), Code.ATT_MALFORMED, "contract"),
        (changed(fedclave_time=b"2031-05-01T12:00:00"), Code.ATT_MALFORMED, "time"),
        (changed(fedclave_time=b"2031-05-01T12:00:00+00:00"), Code.ATT_MALFORMED, "time"),
        (changed(fedclave_time=b"2031-05-01T12:00:00.5Z"), Code.ATT_MALFORMED, "time"),
        (changed(fedclave_time=b"2031-13-01T12:00:00Z"), Code.ATT_MALFORMED, "month"),
        (changed(pubkey_hash=cbor.encode([7, bytes(48)])), Code.ATT_MALFORMED, "sha384"),
        (changed(pubkey_hash=cbor.encode([2, bytes(32)])), Code.ATT_MALFORMED, "sha256"),
        (changed(pubkey_hash=cbor.encode([1, bytes(31)])), Code.ATT_MALFORMED, "sha256"),
        (changed(pubkey_hash=cbor.encode([1, bytes(32), 1])), Code.ATT_MALFORMED, "sha256"),
        (changed(pubkey_hash=b"\xff"), Code.ATT_MALFORMED, "pubkey-hash"),
        (cbor.encode([said()]), Code.ATT_MALFORMED, "map"),
        (b"", Code.ATT_MALFORMED, "claims"),
    ],
)
def test_what_encode_does_not_make_is_refused(encoded: bytes, code: Code, words: str) -> None:
    with pytest.raises(Refused, match=words) as refused:
        claims.decode(encoded)
    assert refused.value.code is code


def test_report_data_is_the_hash_then_zeros() -> None:
    assert claims.report_data(b"said") == hashlib.sha256(b"said").digest() + bytes(32)


@pytest.mark.parametrize("at", [0, 31, 32, 63])
def test_every_byte_of_the_report_data_counts(at: int) -> None:
    good = bytearray(claims.report_data(said()))
    claims.check_report_data(bytes(good), said())
    good[at] ^= 1
    with pytest.raises(Refused, match="not about these claims") as refused:
        claims.check_report_data(bytes(good), said())
    assert refused.value.code is Code.ATT_KEY_BINDING


def test_report_data_of_another_length_is_refused() -> None:
    with pytest.raises(Refused):
        claims.check_report_data(claims.report_data(said())[:32], said())


def test_claims_as_expected_are_let_through() -> None:
    claims.require(CLAIMS, EXPECTED)
    claims.require(replace(CLAIMS, name="other"), replace(EXPECTED, name=None))


STEPS = [
    ("key", b"x" * 32, Code.ATT_KEY_BINDING, "relay"),
    ("peer", b"x" * 32, Code.ATT_KEY_BINDING, "in between"),
    ("nonce", b"x" * 32, Code.ATT_NONCE, "of this side"),
    ("own_nonce", b"x" * 32, Code.ATT_NONCE, "that the peer gave"),
    ("federation", "letters", Code.WRONG_FEDERATION, "'letters', expected 'digits'"),
    ("role", "collaborator", Code.ATT_ROLE, "collaborator, expected aggregator"),
    ("name", "mallory", Code.ATT_ROLE, "'mallory'.*'agg'"),
    ("contract", "e0" * 32, Code.ATT_CONTRACT, "e0e0e0e0e0e0.*c0c0c0c0c0c0"),
    ("policy", "e0" * 32, Code.ATT_POLICY_VERSION, "e0e0e0e0e0e0.*d0d0d0d0d0d0"),
]


@pytest.mark.parametrize(("field", "value", "code", "words"), STEPS)
def test_what_is_about_something_else_is_refused_by_its_code(
    field: str, value: object, code: Code, words: str
) -> None:
    with pytest.raises(Refused, match=words) as refused:
        claims.require(replace(CLAIMS, **{field: value}), EXPECTED)  # type: ignore[arg-type]
    assert refused.value.code is code


@pytest.mark.parametrize("first", range(len(STEPS)))
def test_the_first_step_that_fails_gives_the_code(first: int) -> None:
    wrong = {field: value for field, value, _, _ in STEPS[first:]}
    with pytest.raises(Refused, match=STEPS[first][3]):
        claims.require(replace(CLAIMS, **wrong), EXPECTED)  # type: ignore[arg-type]


def test_binding_reads_claims_of_other_makers() -> None:
    hashed = hashlib.sha384(SPKI).digest()
    foreign = cbor2.dumps({"z": b"", "pubkey-hash": cbor2.dumps([7, hashed]), "nonce": b"1"})
    found = claims.binding(foreign)
    assert found == (7, hashed, b"1")
    assert found.holds(SPKI)
    assert not found.holds(SPKI[:-1])


def test_binding_says_when_there_is_no_nonce() -> None:
    found = claims.binding(cbor2.dumps({"pubkey-hash": cbor2.dumps([1, CLAIMS.key])}))
    assert found.nonce is None
    assert found.holds(SPKI)


def test_the_time_of_claims_is_what_its_maker_says() -> None:
    assert claims.decode(said(time=NOW + timedelta(hours=1))).time == NOW + timedelta(hours=1)
