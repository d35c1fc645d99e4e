# SPDX-License-Identifier: Apache-2.0
"""Who sends evidence that is another's, of another time, or no evidence at all but trouble.

Each is refused by the step that it breaks, with nothing but ``Refused``. The quote's own forgeries
are in ``vectors/test_quote_cases.py``; here quotes parse, and what is around them is hostile.
"""

from dataclasses import replace

import pytest
from cryptography import x509
from tests.support.evidence import (
    CLAIMS,
    EXPECTED,
    QUOTE,
    SPKI,
    certificate,
    quote_about,
    said,
)

from fedclave.errors import Code, Refused
from fedclave.trust import cbor, claims, der, quotes, ratls
from fedclave.trust.claims import Expected

cbor2 = pytest.importorskip("cbor2", reason="evidence needs an extra: attest")


def verdict(evidence: bytes, expected: Expected = EXPECTED) -> Code | None:
    """What is decided of evidence before its quote is verified; None: it may go on."""
    try:
        quote, told = ratls.decode(evidence)
        claimed = claims.decode(told)
        claims.check_report_data(quotes.parse(quote).body.report_data, told)
        claims.require(claimed, expected)
    except Refused as refused:
        return refused.code
    return None


def evidence(**changes: object) -> bytes:
    return ratls.encode(quote_about(said(**changes)), said(**changes))


def fields() -> dict[str, bytes]:
    return dict(cbor2.loads(said()))


def about(plain: object, *, canonical: bool = True) -> bytes:
    """Evidence over claims that say anything, with a quote that is really about them."""
    told = cbor2.dumps(plain, canonical=canonical)
    return ratls.encode(quote_about(told), told)


def about_bytes(told: bytes) -> bytes:
    return ratls.encode(quote_about(told), told)


def test_genuine_evidence_goes_on() -> None:
    assert verdict(evidence()) is None


# Evidence of somebody else, or of another time


def test_relay_evidence_of_an_enclave_behind_the_attackers_key() -> None:
    assert verdict(evidence(), replace(EXPECTED, key=b"m" * 32)) is Code.ATT_KEY_BINDING


def test_man_in_the_middle_lets_the_enclave_attest_to_himself() -> None:
    assert verdict(evidence(peer=b"m" * 32)) is Code.ATT_KEY_BINDING


def test_reflection_of_the_verifiers_own_evidence() -> None:
    own = evidence(key=EXPECTED.peer, peer=EXPECTED.key, role="collaborator", name="alice")
    assert verdict(own) is Code.ATT_KEY_BINDING
    _, told = ratls.decode(own)
    with pytest.raises(Refused, match="reflection"):
        claims.require(claims.decode(told), EXPECTED)


def test_replay_of_evidence_for_an_earlier_challenge() -> None:
    assert verdict(evidence(nonce=b"m" * 32)) is Code.ATT_NONCE
    assert verdict(evidence(own_nonce=b"m" * 32)) is Code.ATT_NONCE


def test_the_two_nonces_cannot_be_exchanged() -> None:
    swapped = evidence(nonce=CLAIMS.own_nonce, own_nonce=CLAIMS.nonce)
    assert verdict(swapped) is Code.ATT_NONCE


def test_evidence_of_another_role() -> None:
    assert verdict(evidence(role="collaborator")) is Code.ATT_ROLE


def test_evidence_of_another_party() -> None:
    assert verdict(evidence(name="mallory")) is Code.ATT_ROLE


def test_evidence_for_another_contract_policy_or_federation() -> None:
    assert verdict(evidence(contract="e0" * 32)) is Code.ATT_CONTRACT
    assert verdict(evidence(policy="e0" * 32)) is Code.ATT_POLICY
    assert verdict(evidence(federation="letters")) is Code.WRONG_FEDERATION


def test_claims_of_today_under_a_quote_of_yesterday() -> None:
    old = quote_about(said(nonce=b"m" * 32))
    assert verdict(ratls.encode(old, said())) is Code.ATT_KEY_BINDING


def test_claims_in_the_certificate_of_who_copied_them() -> None:
    copied = said(key=b"k" * 32)
    one = ratls.read(certificate(ratls.extension(quote_about(copied), copied)))
    with pytest.raises(Refused) as refused:
        ratls.bound(one)
    assert refused.value.code is Code.ATT_KEY_BINDING


# Claims that bind nothing, or say it twice


def test_claims_without_pubkey_hash() -> None:
    plain = fields()
    del plain["pubkey-hash"]
    assert verdict(about(plain)) is Code.ATT_KEY_BINDING
    told = cbor2.dumps(plain, canonical=True)
    one = ratls.RaTls(quote=quote_about(told), claims=told, legacy=False, spki=SPKI)
    with pytest.raises(Refused, match="pubkey-hash") as refused:
        ratls.bound(one)
    assert refused.value.code is Code.ATT_KEY_BINDING


def test_claims_with_an_empty_or_short_pubkey_hash() -> None:
    for hashed in (b"", cbor2.dumps([]), cbor2.dumps([1, b""]), cbor2.dumps([1, CLAIMS.key[:16]])):
        assert verdict(about({**fields(), "pubkey-hash": hashed})) is Code.ATT_MALFORMED


def test_claims_with_a_hash_that_is_none() -> None:
    for number in (0, 2, 3, 6, 9, 2**64 - 1):
        hashed = cbor2.dumps([number, CLAIMS.key])
        assert verdict(about({**fields(), "pubkey-hash": hashed})) is Code.ATT_MALFORMED


def entries(*names: str) -> bytes:
    """A map with these keys of ``CLAIMS`` in this order, each as often as it is named."""
    plain = fields()
    count = len(names)
    body = b"".join(cbor2.dumps(name) + cbor2.dumps(plain[name]) for name in names)
    return cbor2.dumps(dict.fromkeys(map(str, range(count))))[:1] + body


def test_a_key_that_stands_twice() -> None:
    names = list(fields())
    assert verdict(about_bytes(entries(*names))) is None
    for name in names:
        twice = entries(*sorted([*names, name], key=cbor2.dumps))
        assert verdict(about_bytes(twice)) is Code.ATT_MALFORMED


def test_keys_in_another_order() -> None:
    first, second, *rest = fields()
    assert verdict(about_bytes(entries(second, first, *rest))) is Code.ATT_MALFORMED


def test_two_evidence_extensions() -> None:
    good = ratls.extension(quote_about(said()), said())
    raw = certificate(good, ("2.23.133.5.4.8", good[1]))
    last = x509.ObjectIdentifier("2.23.133.5.4.8")
    assert last in [one.oid for one in x509.load_der_x509_certificate(raw).extensions]
    doubled = raw.replace(b"\x67\x81\x05\x05\x04\x08", b"\x67\x81\x05\x05\x04\x09")
    assert doubled != raw
    with pytest.raises(Refused, match=r"2\.23\.133\.5\.4\.9 stands twice") as refused:
        ratls.read(doubled)
    assert refused.value.code is Code.ATT_MALFORMED


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
def test_cbor_that_no_claims_have(told: bytes) -> None:
    assert verdict(about_bytes(told)) is Code.ATT_MALFORMED
    with pytest.raises(Refused):
        claims.binding(told)


@pytest.mark.parametrize("value", [None, True, 1, 1.5, "text", [b"a"], {"a": b"b"}, 2**70])
def test_a_claim_that_is_no_byte_string(value: object) -> None:
    assert verdict(about({**fields(), "fedclave-checkpoint": value})) is Code.ATT_MALFORMED


def test_claims_over_16_kib() -> None:
    big = {**fields(), "fedclave-checkpoint": bytes(claims.MAX_SIZE)}
    assert verdict(about(big)) is Code.ATT_MALFORMED
    many = fields() | {f"{number}": b"" for number in range(8_000)}
    assert verdict(about(many)) is Code.ATT_MALFORMED


def test_evidence_that_is_too_long_is_not_parsed() -> None:
    with pytest.raises(Refused, match="at most"):
        ratls.decode(ratls.encode(bytes(quotes.MAX_SIZE), bytes(claims.MAX_SIZE + 100)))


@pytest.mark.parametrize("at", [0, 1, 2])
def test_every_byte_of_the_tag_counts(at: int) -> None:
    changed = bytearray(evidence())
    changed[at] ^= 0x01
    assert verdict(bytes(changed)) is Code.ATT_MALFORMED


def test_a_tag_inside_the_tag_is_refused() -> None:
    inner = cbor2.CBORTag(60000, [QUOTE, said()])
    assert verdict(cbor2.dumps(cbor2.CBORTag(60000, inner))) is Code.ATT_MALFORMED
    held = cbor2.CBORTag(60000, [inner, said()])
    assert verdict(cbor2.dumps(held)) is Code.ATT_MALFORMED


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
