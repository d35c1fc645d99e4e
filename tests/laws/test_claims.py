# SPDX-License-Identifier: Apache-2.0
"""Claims, evidence and certificates round-trip; no bytes make their parsers do but refuse."""

from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.evidence import QUOTE, SPKI, certificate, said

from fedclave.errors import Refused
from fedclave.trust import cbor, claims, der, ratls
from fedclave.trust.claims import Claims

cbor2 = pytest.importorskip("cbor2", reason="evidence needs an extra: attest")

HASHES = st.binary(min_size=32, max_size=32)
NAMES = st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,20}[a-z0-9])?", fullmatch=True)
CLAIMS = st.builds(
    Claims,
    role=st.sampled_from(["aggregator", "collaborator"]),
    name=NAMES,
    federation=NAMES,
    contract=HASHES.map(bytes.hex),
    policy=HASHES.map(bytes.hex),
    key=HASHES,
    peer=HASHES,
    nonce=HASHES,
    own_nonce=HASHES,
    time=st.datetimes(timezones=st.just(UTC)),
    hpke_key=HASHES,
    checkpoint=st.binary(max_size=300),
)
VALUES = st.recursive(
    st.integers(0, 2**64 - 1) | st.binary() | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner)
    ),
    max_leaves=8,
)
ANY = st.recursive(
    VALUES | st.none() | st.booleans() | st.floats() | st.integers(-(2**70), 2**70),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.builds(cbor2.CBORTag, st.integers(0, 2**16), inner)
    ),
    max_leaves=8,
)
SEEDS = {
    claims.decode: said(),
    claims.binding: said(),
    ratls.decode: ratls.encode(QUOTE, said()),
    ratls.read: certificate(ratls.extension(QUOTE, said())),
    der.certificate: certificate(("1.2.3.4", b"value")),
}


@given(CLAIMS)
def test_claims_decode_to_themselves_from_one_encoding(made: Claims) -> None:
    encoded = claims.encode(made)
    assert claims.decode(encoded) == made
    assert claims.encode(claims.decode(encoded)) == encoded


@given(CLAIMS, CLAIMS)
def test_different_claims_have_different_report_data(one: Claims, other: Claims) -> None:
    same = claims.report_data(claims.encode(one)) == claims.report_data(claims.encode(other))
    assert same == (one == other)


@given(st.datetimes(timezones=st.just(UTC)))
def test_any_time_is_told_in_whole_seconds(time: datetime) -> None:
    assert claims.decode(said(time=time)).time == time.replace(microsecond=0)


@given(VALUES)
def test_what_is_encoded_as_cbor_decodes_to_itself(value: cbor.Value) -> None:
    with suppress(Refused):  # for its depth
        assert cbor.decode(cbor.encode(value), "it", limit=2**20) == value


@given(ANY)
def test_what_any_encoder_writes_is_refused_or_has_that_one_form(value: object) -> None:
    data = cbor2.dumps(value, canonical=False)
    with suppress(Refused):
        assert cbor.encode(cbor.decode(data, "it", limit=2**20)) == data


@given(st.sampled_from(list(SEEDS)), st.data())
def test_changed_bytes_are_refused_or_parsed_and_nothing_else(
    parse: "type[object]", data: st.DataObject
) -> None:
    raw = bytearray(SEEDS[parse])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        cut = data.draw(st.integers(0, 8))
        raw[at : at + cut] = data.draw(st.binary(max_size=8))
        if not raw:
            break
    with suppress(Refused):
        parse(bytes(raw))


@given(st.sampled_from(list(SEEDS)), st.binary(max_size=200))
def test_any_bytes_are_refused_or_parsed_and_nothing_else(
    parse: "type[object]", raw: bytes
) -> None:
    with suppress(Refused):
        parse(raw)


@given(st.integers(0, 2**20))
def test_no_changed_bit_of_claims_goes_unseen(number: int) -> None:
    """Another encoding is other claims, or none."""
    at = number % (len(said()) * 8)
    raw = bytearray(said())
    raw[at // 8] ^= 1 << at % 8
    with suppress(Refused):
        assert claims.encode(claims.decode(bytes(raw))) == bytes(raw) != said()


def test_the_certificates_key_is_the_one_that_is_hashed() -> None:
    assert der.certificate(certificate()).spki == SPKI
