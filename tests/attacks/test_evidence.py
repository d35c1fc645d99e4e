# SPDX-License-Identifier: Apache-2.0
"""Who sends evidence that is another's, of another time, or no evidence at all but trouble.

The gate decides (``gate.vouch``), with both verifiers and a policy that admits the code. Quotes are
genuine, and about just what is said; what is said is hostile, and each is refused by the step that
it breaks. The quote's own forgeries are in ``vectors/test_quote_cases.py``.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.support.evidence import (
    CLAIMS,
    EXPECTED,
    NOW,
    QUOTE,
    SPKI,
    certificate,
    quote_about,
    quote_over,
    said,
)
from tests.support.policies import CODE
from tests.support.vouching import Door, opened

from fedclave.errors import Code, Refused
from fedclave.trust import cbor, claims, der, quotes, ratls

cbor2 = pytest.importorskip("cbor2", reason="evidence needs an extra: attest")
pytest.importorskip("dcap_qvl", reason="the second verifier is an extra: attest")


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with opened(tmp_path_factory.mktemp("door")) as made:
        yield made


def fields() -> dict[str, bytes]:
    return dict(cbor2.loads(said()))


def canonical(plain: object) -> bytes:
    return bytes(cbor2.dumps(plain, canonical=True))


def test_genuine_evidence_is_admitted(door: Door) -> None:
    standing = door.vouch(door.evidence())
    assert standing.claims == CLAIMS
    assert (standing.verdict.word, standing.verdict.measurement) == ("SIMULATED", CODE.hex())
    assert (standing.verdict.key, standing.verdict.name) == (CLAIMS.key.hex(), CLAIMS.name)


# Evidence of somebody else, or of another time


def test_relay_evidence_of_an_enclave_behind_the_attackers_key(door: Door) -> None:
    assert door.verdict(door.evidence(), replace(EXPECTED, key=b"m" * 32)) is Code.ATT_KEY_BINDING


def test_man_in_the_middle_lets_the_enclave_attest_to_himself(door: Door) -> None:
    assert door.verdict(door.evidence(peer=b"m" * 32)) is Code.ATT_KEY_BINDING


def test_reflection_of_the_verifiers_own_evidence(door: Door) -> None:
    own = door.evidence(key=EXPECTED.peer, peer=EXPECTED.key, role="collaborator", name="alice")
    assert door.verdict(own) is Code.ATT_KEY_BINDING
    _, told = ratls.decode(own)
    with pytest.raises(Refused, match="reflection"):
        claims.require(claims.decode(told), EXPECTED)


def test_replay_of_evidence_for_an_earlier_challenge(door: Door) -> None:
    assert door.verdict(door.evidence(nonce=b"m" * 32)) is Code.ATT_NONCE
    assert door.verdict(door.evidence(own_nonce=b"m" * 32)) is Code.ATT_NONCE


def test_the_two_nonces_cannot_be_exchanged(door: Door) -> None:
    swapped = door.evidence(nonce=CLAIMS.own_nonce, own_nonce=CLAIMS.nonce)
    assert door.verdict(swapped) is Code.ATT_NONCE


def test_evidence_of_another_role(door: Door) -> None:
    assert door.verdict(door.evidence(role="collaborator")) is Code.ATT_ROLE


def test_evidence_of_another_party(door: Door) -> None:
    assert door.verdict(door.evidence(name="mallory")) is Code.ATT_ROLE


def test_evidence_for_another_contract_policy_or_federation(door: Door) -> None:
    assert door.verdict(door.evidence(contract="e0" * 32)) is Code.ATT_CONTRACT
    assert door.verdict(door.evidence(policy="e0" * 32)) is Code.ATT_POLICY_VERSION
    assert door.verdict(door.evidence(federation="letters")) is Code.WRONG_FEDERATION


def test_claims_of_today_under_a_quote_of_yesterday(door: Door) -> None:
    old, _ = ratls.decode(door.evidence(nonce=b"m" * 32))
    assert door.verdict(ratls.encode(old, said())) is Code.ATT_KEY_BINDING


def test_claims_with_another_key_to_seal_to_under_the_enclaves_quote(door: Door) -> None:
    quote, _ = ratls.decode(door.evidence())
    assert door.verdict(ratls.encode(quote, said(hpke_key=b"m" * 32))) is Code.ATT_KEY_BINDING


@pytest.mark.parametrize("hours", [-1, 1], ids=["old", "of the future"])
def test_evidence_for_this_challenge_by_a_clock_that_is_an_hour_off(door: Door, hours: int) -> None:
    off = door.evidence(time=NOW + timedelta(hours=hours))
    assert door.verdict(off) is Code.ATT_NONCE
    assert door.verdict(off, now=NOW + timedelta(hours=hours)) is None


def test_a_quote_about_these_claims_that_no_platform_signed(door: Door) -> None:
    quote, told = ratls.decode(door.evidence())
    elsewhere = quote_over(quotes.parse(quote).body.report_data)
    assert door.verdict(ratls.encode(elsewhere, told)) is Code.ATT_CHAIN
    changed = quote.replace(CODE, b"m" * 32, 1)
    assert quotes.parse(changed).body.report_data == claims.report_data(told)
    assert door.verdict(ratls.encode(changed, told)) is Code.ATT_SIGNATURE


def test_a_genuine_enclave_that_runs_other_code(door: Door) -> None:
    assert door.verdict(door.about(said(), code=b"m" * 32)) is Code.ATT_MRENCLAVE


def test_a_simulated_enclave_where_nobody_said_to_bear_it(door: Door) -> None:
    assert door.verdict(door.evidence(), allow_simulated=False) is Code.ATT_SIMULATED


def test_evidence_that_was_good_is_not_after_its_time(door: Door) -> None:
    assert door.verdict(door.evidence(), now=NOW + timedelta(hours=1)) is Code.ATT_NONCE


def test_claims_in_the_certificate_of_who_copied_them() -> None:
    copied = said(key=b"k" * 32)
    one = ratls.read(certificate(ratls.extension(quote_about(copied), copied)))
    with pytest.raises(Refused) as refused:
        ratls.bound(one)
    assert refused.value.code is Code.ATT_KEY_BINDING


# Claims that bind nothing, or say it twice


def test_claims_without_pubkey_hash(door: Door) -> None:
    plain = fields()
    del plain["pubkey-hash"]
    assert door.verdict(door.about(canonical(plain))) is Code.ATT_KEY_BINDING
    told = cbor2.dumps(plain, canonical=True)
    one = ratls.RaTls(quote=quote_about(told), claims=told, legacy=False, spki=SPKI)
    with pytest.raises(Refused, match="pubkey-hash") as refused:
        ratls.bound(one)
    assert refused.value.code is Code.ATT_KEY_BINDING


def test_claims_with_an_empty_or_short_pubkey_hash(door: Door) -> None:
    for hashed in (b"", cbor2.dumps([]), cbor2.dumps([1, b""]), cbor2.dumps([1, CLAIMS.key[:16]])):
        assert (
            door.verdict(door.about(canonical({**fields(), "pubkey-hash": hashed})))
            is Code.ATT_MALFORMED
        )


def test_claims_with_a_hash_that_is_none(door: Door) -> None:
    for number in (0, 2, 3, 6, 9, 2**64 - 1):
        hashed = cbor2.dumps([number, CLAIMS.key])
        assert (
            door.verdict(door.about(canonical({**fields(), "pubkey-hash": hashed})))
            is Code.ATT_MALFORMED
        )


def entries(*names: str) -> bytes:
    """A map with these keys of ``CLAIMS`` in this order, each as often as it is named."""
    plain = fields()
    count = len(names)
    body = b"".join(cbor2.dumps(name) + cbor2.dumps(plain[name]) for name in names)
    return cbor2.dumps(dict.fromkeys(map(str, range(count))))[:1] + body


def test_a_key_that_stands_twice(door: Door) -> None:
    names = list(fields())
    assert door.verdict(door.about(entries(*names))) is None
    for name in names:
        twice = entries(*sorted([*names, name], key=cbor2.dumps))
        assert door.verdict(door.about(twice)) is Code.ATT_MALFORMED


def test_keys_in_another_order(door: Door) -> None:
    first, second, *rest = fields()
    assert door.verdict(door.about(entries(second, first, *rest))) is Code.ATT_MALFORMED


# CBOR that is not what it should be


@pytest.mark.parametrize(
    "told",
    [
        pytest.param(b"\xbf" + said()[1:] + b"\xff", id="indefinite map"),
        pytest.param(b"\xb8\x0d" + said()[1:], id="longer length of the map"),
        pytest.param(said() + b"\0", id="trailing zero"),
        pytest.param(said() + said(), id="twice"),
        pytest.param(said()[:-1], id="cut short"),
        pytest.param(b"\xd9\xd9\xf7" + said(), id="self-described"),
        pytest.param(
            said().replace(b"\x65nonce\x58\x20", b"\x65nonce\x59\0\x20"), id="longer length"
        ),
        pytest.param(b"\x81" * 10_000 + b"\0", id="10,000 arrays in each other"),
        pytest.param(b"\xa1\x61a" * 5_000 + b"\0", id="5,000 maps in each other"),
        pytest.param(b"\xc1" * 10_000 + b"\0", id="10,000 tags in each other"),
        pytest.param(bytes.fromhex("5b7fffffffffffffff"), id="bytes of 8 EiB"),
        pytest.param(bytes.fromhex("9b7fffffffffffffff"), id="array of 8 EiB"),
        pytest.param(bytes.fromhex("bb7fffffffffffffff"), id="map of 8 EiB"),
        pytest.param(bytes.fromhex("7bffffffffffffffff"), id="text of 16 EiB"),
        pytest.param(cbor2.dumps(cbor2.CBORTag(35, "(a+)+b")), id="regular expression"),
        pytest.param(cbor2.dumps(cbor2.CBORTag(5, [2**62, 3])), id="2 to the power of 2^62"),
        pytest.param(cbor2.dumps(cbor2.CBORTag(4, [10**9, 3])), id="3 * 10^(10^9)"),
        pytest.param(cbor2.dumps(2**4096), id="big number"),
        pytest.param(bytes.fromhex("d81c81d81d00"), id="array that contains itself"),
        pytest.param(bytes.fromhex("d9010081d81900"), id="reference to a string"),
        pytest.param(bytes.fromhex("f97e00"), id="not a number"),
        pytest.param(bytes.fromhex("a10102"), id="number as a key"),
        pytest.param(bytes.fromhex("a1410102"), id="bytes as a key"),
        pytest.param(bytes.fromhex("a161800102"), id="text that is no UTF-8"),
        pytest.param(b"\xff", id="break"),
        pytest.param(b"\x1c", id="reserved"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_cbor_that_no_claims_have(door: Door, told: bytes) -> None:
    assert door.verdict(door.about(told)) is Code.ATT_MALFORMED
    with pytest.raises(Refused):
        claims.binding(told)


@pytest.mark.parametrize("value", [None, True, 1, 1.5, "text", [b"a"], {"a": b"b"}, 2**70])
def test_a_claim_that_is_no_byte_string(door: Door, value: object) -> None:
    assert (
        door.verdict(door.about(canonical({**fields(), "fedclave-checkpoint": value})))
        is Code.ATT_MALFORMED
    )


def test_claims_over_16_kib(door: Door) -> None:
    big = {**fields(), "fedclave-checkpoint": bytes(claims.MAX_SIZE)}
    assert door.verdict(door.about(canonical(big))) is Code.ATT_MALFORMED
    many = fields() | {f"{number}": b"" for number in range(8_000)}
    assert door.verdict(door.about(canonical(many))) is Code.ATT_MALFORMED


def test_evidence_that_is_too_long_is_not_parsed() -> None:
    with pytest.raises(Refused, match="at most"):
        ratls.decode(ratls.encode(bytes(quotes.MAX_SIZE), bytes(claims.MAX_SIZE + 100)))


@pytest.mark.parametrize("at", [0, 1, 2])
def test_every_byte_of_the_tag_counts(door: Door, at: int) -> None:
    changed = bytearray(door.evidence())
    changed[at] ^= 0x01
    assert door.verdict(bytes(changed)) is Code.ATT_MALFORMED


def test_a_tag_inside_the_tag_is_refused(door: Door) -> None:
    inner = cbor2.CBORTag(60000, [QUOTE, said()])
    assert door.verdict(cbor2.dumps(cbor2.CBORTag(60000, inner))) is Code.ATT_MALFORMED
    held = cbor2.CBORTag(60000, [inner, said()])
    assert door.verdict(cbor2.dumps(held)) is Code.ATT_MALFORMED


def test_a_certificate_that_claims_more_than_it_has() -> None:
    raw = certificate(ratls.extension(QUOTE, said()))
    for at in range(0, 400):
        changed = bytearray(raw)
        changed[at] = 0xFF
        try:
            ratls.read(bytes(changed))
        except Refused as refused:
            assert refused.code is Code.ATT_MALFORMED


def test_a_thousand_extensions_are_not_read() -> None:
    many = certificate(*((f"1.2.3.{number}", b"") for number in range(1, 1001)))
    with pytest.raises(Refused, match="more than 64"):
        der.certificate(many)


def test_cbor_of_other_makers_is_as_strict_but_for_the_order() -> None:
    backwards = cbor2.dumps(dict(reversed(fields().items())))
    assert claims.binding(backwards).key_hash == CLAIMS.key
    with pytest.raises(Refused):
        cbor.decode(backwards, "claims", limit=claims.MAX_SIZE)
