# SPDX-License-Identifier: Apache-2.0
"""Evidence goes into a certificate and comes out of it, and belongs to its key or is refused."""

import hashlib

import pytest
from tests.support.evidence import (
    CLAIMS,
    QUOTE,
    SPKI,
    certificate,
    quote_about,
    quote_over,
    said,
)

from fedclave.errors import Code, Refused
from fedclave.trust import cbor, claims, ratls

cbor2 = pytest.importorskip("cbor2", reason="evidence needs an extra: attest")

OWN_KEY = hashlib.sha256(SPKI).digest() + bytes(32)
COLLATERAL_OID = "2.23.133.5.4.2"


def code_of(evidence: bytes) -> Code:
    with pytest.raises(Refused) as refused:
        ratls.decode(evidence)
    return refused.value.code


def test_evidence_is_what_interoperable_ra_tls_says() -> None:
    tagged = cbor2.loads(ratls.encode(b"quote", b"claims"))
    assert (tagged.tag, list(tagged.value)) == (60000, [b"quote", b"claims"])


def test_what_is_encoded_decodes_to_itself() -> None:
    assert ratls.decode(ratls.encode(QUOTE, said())) == (QUOTE, said())


@pytest.mark.parametrize(
    "evidence",
    [
        b"",
        cbor.encode([b"q", b"c"]),
        cbor.encode(cbor.Tagged(60001, [b"q", b"c"])),
        cbor.encode(cbor.Tagged(60000, [b"q"])),
        cbor.encode(cbor.Tagged(60000, [b"q", b"c", b""])),
        cbor.encode(cbor.Tagged(60000, [b"q", "c"])),
        cbor.encode(cbor.Tagged(60000, {"q": b"c"})),
        cbor.encode(cbor.Tagged(60000, b"q")),
        ratls.encode(b"q", b"c") + b"\0",
        ratls.encode(b"q", b"c")[:-1],
        b"\xd9\xea\x60\x9f\x41q\x41c\xff",
        b"\xda\x00\x00\xea\x60\x82\x41q\x41c",
        bytes(ratls.MAX_SIZE + 1),
    ],
)
def test_what_is_no_pair_under_the_tag_is_refused(evidence: bytes) -> None:
    assert code_of(evidence) is Code.ATT_MALFORMED


def test_the_longest_quote_with_the_longest_claims_is_read() -> None:
    longest = bytes(ratls.quotes.MAX_SIZE), bytes(claims.MAX_SIZE)
    assert ratls.decode(ratls.encode(*longest)) == longest


def test_a_certificate_carries_evidence_for_its_key() -> None:
    quote = quote_about(said())
    found = ratls.read(certificate(ratls.extension(quote, said())))
    assert found == ratls.RaTls(quote=quote, claims=said(), legacy=False, spki=SPKI)
    assert ratls.bound(found).body.report_data == claims.report_data(said())


def test_the_legacy_form_is_bound_to_the_key_itself() -> None:
    found = ratls.read(certificate((ratls.LEGACY_OID, quote_over(OWN_KEY))))
    assert (found.legacy, found.claims) == (True, None)
    assert ratls.bound(found).body.report_data == OWN_KEY


def test_the_standard_form_counts_where_both_are() -> None:
    quote = quote_about(said())
    both = certificate((ratls.LEGACY_OID, QUOTE), ratls.extension(quote, said()))
    assert ratls.bound(ratls.read(both)).body.report_data == claims.report_data(said())


def test_a_good_legacy_form_does_not_help_a_bad_standard_one() -> None:
    wrong = (ratls.OID, cbor.encode([QUOTE, said()]))
    with pytest.raises(Refused) as refused:
        ratls.read(certificate((ratls.LEGACY_OID, quote_over(OWN_KEY)), wrong))
    assert refused.value.code is Code.ATT_MALFORMED


def test_collateral_in_a_certificate_is_passed_over() -> None:
    endorsed = certificate((COLLATERAL_OID, b"\xff"), ratls.extension(QUOTE, said()))
    assert ratls.read(endorsed).claims == said()


def test_a_certificate_without_evidence_is_refused() -> None:
    with pytest.raises(Refused, match="carries no evidence") as refused:
        ratls.read(certificate((COLLATERAL_OID, b"")))
    assert refused.value.code is Code.ATT_MALFORMED


def binding_code(quote: bytes, told: bytes | None) -> Code:
    one = ratls.RaTls(quote=quote, claims=told, legacy=told is None, spki=SPKI)
    with pytest.raises(Refused) as refused:
        ratls.bound(one)
    return refused.value.code


def test_evidence_of_another_key_is_refused() -> None:
    other = said(key=b"k" * 32)
    assert binding_code(quote_about(other), other) is Code.ATT_KEY_BINDING
    assert binding_code(quote_over(b"k" * 32 + bytes(32)), None) is Code.ATT_KEY_BINDING


def test_a_quote_about_other_claims_is_refused() -> None:
    assert binding_code(quote_about(said(nonce=b"m" * 32)), said()) is Code.ATT_KEY_BINDING


def test_the_rest_of_the_report_data_is_zero() -> None:
    assert binding_code(quote_over(OWN_KEY[:32] + b"x" * 32), None) is Code.ATT_KEY_BINDING
    padded = claims.report_data(said())[:32] + b"x" * 32
    assert binding_code(quote_over(padded), said()) is Code.ATT_KEY_BINDING


def test_claims_of_other_makers_may_stand_in_any_order() -> None:
    foreign = cbor2.dumps({"pubkey-hash": cbor2.dumps([1, CLAIMS.key]), "nonce": b"n", "a": b""})
    one = ratls.RaTls(quote=quote_about(foreign), claims=foreign, legacy=False, spki=SPKI)
    assert ratls.bound(one).body.report_data == claims.report_data(foreign)


def test_a_quote_that_does_not_parse_is_refused() -> None:
    assert binding_code(b"quote", said()) is Code.ATT_MALFORMED
