# SPDX-License-Identifier: Apache-2.0
"""SIGSTRUCT against a second reading of the SDM's table (``tests/support/enclaves.py``)."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from hypothesis import given
from hypothesis import strategies as st
from tests.support import enclaves

from fedclave.errors import Code, Refused, UserError
from fedclave.trust import sigstruct
from fedclave.trust.sigstruct import Body

DAY = date(2026, 11, 22)
HASH = bytes(range(32))
BODY = sigstruct.production(HASH, DAY, isv_prod_id=7, isv_svn=0x0102)


@pytest.fixture(scope="module")
def raw() -> bytes:
    return enclaves.example()


def refused(data: bytes) -> Refused:
    with pytest.raises(Refused) as caught:
        sigstruct.parse(data)
    return caught.value


def test_what_is_assembled_is_byte_for_byte_what_the_table_says(raw: bytes) -> None:
    signature = enclaves.number(raw, "SIGNATURE")
    assert sigstruct.assemble(BODY, enclaves.modulus(), signature) == raw
    assert enclaves.is_valid(raw)


def test_signed_are_bytes_0_to_127_and_900_to_1027(raw: bytes) -> None:
    assert BODY.signed_bytes == raw[:128] + raw[900:1028]


def test_a_parsed_one_is_what_was_assembled(raw: bytes) -> None:
    found = sigstruct.parse(raw)
    assert found.body == BODY
    assert sigstruct.assemble(found.body, found.modulus, found.signature) == raw
    assert (found.q1, found.q2) == (enclaves.number(raw, "Q1"), enclaves.number(raw, "Q2"))


def test_mrsigner_is_the_sha256_of_the_modulus_in_little_endian(raw: bytes) -> None:
    assert sigstruct.parse(raw).mrsigner == sha256(raw[128:512]).digest()


def test_production_is_what_gramine_signs_by_default(raw: bytes) -> None:
    assert (
        raw[928:960].hex() == "04" + "00" * 7 + "03" + "00" * 7 + "ff" * 8 + "1bfff9ff" + "ff" * 4
    )
    assert raw[900:908].hex() == "00000000ffffffff"
    assert not BODY.debug
    assert not BODY.allows_debug
    assert sigstruct.production(HASH, DAY, isv_prod_id=0, isv_svn=0, exinfo=True).miscselect == 1


@pytest.mark.parametrize(
    ("flags", "mask", "debug", "allows"),
    [
        (0b100, 2**64 - 1, False, False),
        (0b100, 2**64 - 3, False, True),
        (0b110, 2**64 - 1, True, True),
        (0b110, 2**64 - 3, True, True),
    ],
)
def test_debug_is_forbidden_only_by_its_bit_in_the_mask(
    flags: int, mask: int, debug: bool, allows: bool
) -> None:
    body = replace(BODY, flags=flags, flags_mask=mask)
    assert (body.debug, body.allows_debug) == (debug, allows)


@pytest.mark.parametrize(("prod_id", "svn"), [(-1, 0), (65536, 0), (0, -1), (0, 65536)])
def test_a_number_that_has_no_room_is_told_to_who_chose_it(prod_id: int, svn: int) -> None:
    with pytest.raises(UserError, match=r"sgx\.isv(prodid|svn) is -?\d+\. Choose a number from 0"):
        sigstruct.production(HASH, DAY, isv_prod_id=prod_id, isv_svn=svn)


@pytest.mark.parametrize("bits", [3071, 3073])
def test_assemble_takes_no_modulus_of_another_size(bits: int) -> None:
    with pytest.raises(ValueError, match="3072"):
        sigstruct.assemble(BODY, 2**bits - 1, 1)


def test_assemble_takes_no_signature_that_is_not_below_the_modulus() -> None:
    with pytest.raises(ValueError, match="not below"):
        sigstruct.assemble(BODY, enclaves.modulus(), enclaves.modulus())


u8, u16, u32, u64 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32, 64))
numbers = st.integers(0, 2**3071 - 1)
BODIES = st.builds(
    Body,
    mrenclave=st.binary(min_size=32, max_size=32),
    date=st.dates(),
    isv_prod_id=u16,
    isv_svn=u16,
    flags=u64,
    flags_mask=u64,
    xfrm=u64,
    xfrm_mask=u64,
    miscselect=u32,
    miscmask=u32,
    vendor=st.sampled_from([0, 0x8086]),
    swdefined=u32,
    cet=u8,
    cet_mask=u8,
    isv_family_id=st.binary(min_size=16, max_size=16),
    isv_ext_prod_id=st.binary(min_size=16, max_size=16),
)
NAMES = {
    "VENDOR": "vendor",
    "SWDEFINED": "swdefined",
    "MISCSELECT": "miscselect",
    "MISCMASK": "miscmask",
    "CET_ATTRIBUTES": "cet",
    "CET_ATTRIBUTES_MASK": "cet_mask",
    "ATTRIBUTES.FLAGS": "flags",
    "ATTRIBUTES.XFRM": "xfrm",
    "ATTRIBUTEMASK.FLAGS": "flags_mask",
    "ATTRIBUTEMASK.XFRM": "xfrm_mask",
    "ISVPRODID": "isv_prod_id",
    "ISVSVN": "isv_svn",
}


@given(BODIES, numbers)
def test_every_field_lies_where_the_table_has_it(body: Body, signature: int) -> None:
    data = sigstruct.assemble(body, enclaves.modulus(), signature)
    assert len(data) == 1808
    for name, attribute in NAMES.items():
        assert enclaves.number(data, name) == getattr(body, attribute), name
    assert enclaves.field(data, "ENCLAVEHASH") == body.mrenclave
    assert enclaves.field(data, "ISVFAMILYID") == body.isv_family_id
    assert enclaves.field(data, "ISVEXTPRODID") == body.isv_ext_prod_id
    assert enclaves.field(data, "DATE")[::-1].hex() == body.date.isoformat().replace("-", "")
    assert enclaves.number(data, "MODULUS") == enclaves.modulus()
    assert enclaves.number(data, "SIGNATURE") == signature
    assert data == enclaves.with_signature(data, signature)
    assert sigstruct.read(data).body == body


CHANGES: dict[str, tuple[str, bytes | int, str]] = {
    "another header": ("HEADER", bytes.fromhex("06000000e20000000000010000000000"), "header"),
    "another second header": ("HEADER2", bytes(16), "second header"),
    "another vendor": ("VENDOR", 0x8087, "vendor 0x8087"),
    "no date": ("DATE", 0, "date, 00000000"),
    "the 30th of February": ("DATE", 0x20260230, "date, 20260230"),
    "a month of 13": ("DATE", 0x20261301, "date, 20261301"),
    "a digit that is no decimal": ("DATE", 0x2026_01_0A, "date, 2026010a"),
    "a date that is no BCD": ("DATE", 20260131, "no day"),
    "the first reserved byte": ("RESERVED1", b"\1" + bytes(83), "44-127"),
    "the last of the first reserved": ("RESERVED1", bytes(83) + b"\x80", "44-127"),
    "reserved beside CET": ("RESERVED2", b"\0\1", "910-911"),
    "reserved after the hash": ("RESERVED3", b"\1" + bytes(15), "992-1007"),
    "reserved after the versions": ("RESERVED4", bytes(11) + b"\1", "1028-1039"),
    "an exponent of 65537": ("EXPONENT", 65537, "exponent is 65537"),
    "an exponent of 1": ("EXPONENT", 1, "exponent is 1"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_wrong_form_is_refused_however_well_it_is_signed(raw: bytes, change: str) -> None:
    name, value, reason = CHANGES[change]
    data = enclaves.signed(enclaves.put(raw, name, value))
    assert enclaves.is_valid(data)
    error = refused(data)
    assert error.code == Code.MALFORMED
    assert reason in error.message


@pytest.mark.parametrize("vendor", [0, 0x8086])
def test_both_vendors_of_the_sdm_are_read(raw: bytes, vendor: int) -> None:
    data = enclaves.signed(enclaves.put(raw, "VENDOR", vendor))
    assert sigstruct.parse(data).body.vendor == vendor


@pytest.mark.parametrize("size", [0, 1, 16, 1807, 1809, 3616])
def test_another_length_is_refused(raw: bytes, size: int) -> None:
    assert refused((raw * 2)[:size]).code == Code.MALFORMED


def test_a_short_or_even_modulus_is_refused(raw: bytes) -> None:
    m = enclaves.number(raw, "MODULUS")
    for bad, reason in ((m - 2**3071, "bits"), (m - 1, "even"), (0, "0 bits")):
        error = refused(enclaves.put(raw, "MODULUS", bad))
        assert error.code == Code.MALFORMED
        assert reason in error.message


def cube_root(value: int) -> int:
    """The largest integer whose cube is at most this."""
    low, high = 0, 1 << (value.bit_length() // 3 + 1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**3 <= value else (low, middle - 1)
    return low


def forged(raw: bytes) -> bytes:
    """A cube that begins right, found without any private key (Bleichenbacher 2006)."""
    info = enclaves.SHA256_INFO + sha256(raw[:128] + raw[900:1028]).digest()
    start = b"\0\1" + b"\xff" * 8 + b"\0" + info
    wanted = int.from_bytes(start + b"\xff" * (384 - len(start)), "big")
    root = cube_root(wanted)
    # A verifier that does not count the padding is taken in: hence the attack is a real one.
    assert (root**3).to_bytes(384, "big").startswith(start)
    return enclaves.with_signature(raw, root)


FORGERIES: dict[str, Callable[[bytes], bytes]] = {
    "a forged cube root": forged,
    "a signature of nothing": lambda raw: enclaves.with_signature(raw, 0),
    "a signature of 1": lambda raw: enclaves.with_signature(raw, 1),
    "the negative of the signature": lambda raw: enclaves.with_signature(
        raw, enclaves.modulus() - enclaves.number(raw, "SIGNATURE")
    ),
    "the modulus as signature": lambda raw: enclaves.put(raw, "SIGNATURE", enclaves.modulus()),
    "Q1 that is one more": lambda raw: enclaves.put(raw, "Q1", enclaves.number(raw, "Q1") + 1),
    "Q2 that is one less": lambda raw: enclaves.put(raw, "Q2", enclaves.number(raw, "Q2") - 1),
    "Q1 and Q2 exchanged": lambda raw: raw[:1040] + raw[1424:] + raw[1040:1424],
    "Q1 and Q2 left out": lambda raw: raw[:1040] + bytes(768),
    "another measurement": lambda raw: enclaves.put(raw, "ENCLAVEHASH", b"\xee" * 32),
    "debug switched on": lambda raw: enclaves.put(raw, "ATTRIBUTES.FLAGS", 6),
    "another day": lambda raw: enclaves.put(raw, "DATE", 0x20261123),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forgery_is_refused(raw: bytes, forgery: str) -> None:
    assert refused(FORGERIES[forgery](raw)).code == Code.BAD_SIGNATURE


def test_a_second_number_for_the_same_signature_is_told_apart(raw: bytes) -> None:
    """RFC 8017 5.2.2: s and s + m have the same cube modulo m."""
    error = refused(enclaves.put(raw, "SIGNATURE", enclaves.modulus()))
    assert "not below the modulus" in error.message


def test_another_keys_modulus_does_not_fit_the_signature(raw: bytes) -> None:
    other = generate_private_key(public_exponent=3, key_size=3072)
    data = enclaves.put(raw, "MODULUS", other.public_key().public_numbers().n)
    assert refused(data).code == Code.BAD_SIGNATURE
    assert sigstruct.parse(enclaves.signed(raw, other)).mrsigner != sigstruct.parse(raw).mrsigner


def test_a_signature_that_is_wrong_can_still_be_read_for_what_it_claims(raw: bytes) -> None:
    data = enclaves.put(raw, "ENCLAVEHASH", b"\xee" * 32)
    found = sigstruct.read(data)
    assert found.body.mrenclave == b"\xee" * 32
    with pytest.raises(Refused, match="bad-signature"):
        sigstruct.verify(found)


def test_no_bit_of_it_can_be_changed(raw: bytes) -> None:
    taken = []
    for bit in range(8 * len(raw)):
        data = bytearray(raw)
        data[bit // 8] ^= 1 << bit % 8
        try:
            sigstruct.parse(bytes(data))
        except Refused:
            continue
        taken.append(bit)
    assert taken == []


edits = st.lists(st.tuples(st.integers(0, 1807), st.integers(0, 255)), max_size=8)


@given(edits, st.integers(0, 1808), st.binary(max_size=4))
def test_changed_bytes_are_refused_and_nothing_else_happens(
    changes: list[tuple[int, int]], length: int, tail: bytes
) -> None:
    raw = bytearray(enclaves.example())
    for offset, byte in changes:
        raw[offset] = byte
    for data in (bytes(raw), bytes(raw[:length]) + tail):
        if data == enclaves.example():
            sigstruct.parse(data)
        else:
            refused(data)


@given(BODIES, st.integers(2**3071, 2**3072 - 2).map(lambda number: number | 1), numbers)
def test_any_key_and_signature_in_the_right_form_are_refused_and_nothing_else_happens(
    body: Body, modulus: int, signature: int
) -> None:
    refused(sigstruct.assemble(body, modulus, signature))


@given(st.binary(max_size=2048) | st.binary(min_size=1808, max_size=1808))
def test_any_bytes_are_refused_and_nothing_else_happens(data: bytes) -> None:
    assert refused(data).code == Code.MALFORMED
