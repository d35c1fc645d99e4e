# SPDX-License-Identifier: Apache-2.0
"""The SGX extension of a PCK certificate, read as strict DER."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.dcap_pki import FMSPC, extension, field, integer, tlv

from fedclave.errors import Code, Refused
from fedclave.trust import pckext

GOOD = extension(bytes(range(16)), pce_svn=0x1234)


def test_every_field_is_read() -> None:
    found = pckext.parse(GOOD)
    assert found.components == found.cpu_svn == found.ppid == bytes(range(16))
    assert (found.pce_svn, found.pce_id, found.fmspc, found.sgx_type) == (
        0x1234,
        bytes(2),
        FMSPC,
        1,
    )
    assert found.platform_instance_id == b"instance        "
    assert (found.dynamic_platform, found.cached_keys, found.smt_enabled) == (False, False, True)


def test_what_a_processor_ca_leaves_out_is_unknown_and_not_false() -> None:
    found = pckext.parse(extension(flags=False))
    assert found.platform_instance_id is None
    assert (found.dynamic_platform, found.cached_keys, found.smt_enabled) == (None, None, None)


def test_a_field_of_a_later_specification_is_passed_over() -> None:
    assert pckext.parse(extension(extra=field(tlv(4, b"new"), 8))) == pckext.parse(extension())


@pytest.mark.parametrize(
    "der",
    [
        b"",
        extension(extra=field(tlv(4, FMSPC), 4)),
        extension(fmspc=FMSPC[:5]),
        extension(pce_id=b"\0"),
        extension(components=bytes(15)),
        extension(components=bytes(17)),
        extension(pce_svn=0x10000),
        extension(extra=tlv(0x30, tlv(6, b"\x2a\x03\x08") + tlv(4, b""))),
        extension(extra=tlv(0x30, tlv(6, bytes.fromhex("2a864886f84d010d0108")))),
        extension(extra=integer(1)),
        GOOD + b"\0",
        tlv(0x31, GOOD[4:]),
        extension(extra=field(tlv(4, bytes(pckext.MAX_BYTES)), 8)),
        GOOD.replace(tlv(1, b"\xff"), tlv(1, b"\x01")),
        GOOD.replace(b"\x02\x01\x05", b"\x02\x01\x85"),
    ],
    ids=lambda der: f"{len(der)} bytes",
)
def test_a_damaged_extension_is_refused(der: bytes) -> None:
    with pytest.raises(Refused) as refused:
        pckext.parse(der)
    assert refused.value.code is Code.ATT_CHAIN


@pytest.mark.parametrize("size", range(0, len(GOOD), 7))
def test_an_extension_that_is_cut_short_is_refused(size: int) -> None:
    with pytest.raises(Refused):
        pckext.parse(GOOD[:size])


def test_lengths_in_a_longer_form_are_refused() -> None:
    body = GOOD[4:]
    padded = b"\x30\x83\x00" + len(body).to_bytes(2, "big") + body
    assert b"\x30\x82" + len(body).to_bytes(2, "big") + body == GOOD
    with pytest.raises(Refused, match="shortest"):
        pckext.parse(padded)


@given(
    st.binary(max_size=64)
    | st.builds(lambda at, b: GOOD[:at] + b, st.integers(0, 600), st.binary(max_size=40))
)
def test_any_bytes_are_read_or_refused(der: bytes) -> None:
    try:
        pckext.parse(der)
    except Refused as error:
        assert error.code is Code.ATT_CHAIN
