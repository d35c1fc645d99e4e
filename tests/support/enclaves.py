# SPDX-License-Identifier: Apache-2.0
"""SIGSTRUCTs by the table of the SDM (vol. 3D, 38.13), written without the code under test."""

from functools import lru_cache
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key

FIELDS = {
    "HEADER": (0, 16),
    "VENDOR": (16, 4),
    "DATE": (20, 4),
    "HEADER2": (24, 16),
    "SWDEFINED": (40, 4),
    "RESERVED1": (44, 84),
    "MODULUS": (128, 384),
    "EXPONENT": (512, 4),
    "SIGNATURE": (516, 384),
    "MISCSELECT": (900, 4),
    "MISCMASK": (904, 4),
    "CET_ATTRIBUTES": (908, 1),
    "CET_ATTRIBUTES_MASK": (909, 1),
    "RESERVED2": (910, 2),
    "ISVFAMILYID": (912, 16),
    "ATTRIBUTES.FLAGS": (928, 8),
    "ATTRIBUTES.XFRM": (936, 8),
    "ATTRIBUTEMASK.FLAGS": (944, 8),
    "ATTRIBUTEMASK.XFRM": (952, 8),
    "ENCLAVEHASH": (960, 32),
    "RESERVED3": (992, 16),
    "ISVEXTPRODID": (1008, 16),
    "ISVPRODID": (1024, 2),
    "ISVSVN": (1026, 2),
    "RESERVED4": (1028, 12),
    "Q1": (1040, 384),
    "Q2": (1424, 384),
}
"""Offset and length of each field, in bytes."""

SHA256_INFO = bytes.fromhex("3031300d060960864801650304020105000420")
"""What stands before a SHA-256 in PKCS #1 v1.5 (RFC 8017 9.2, note 1)."""


@lru_cache(maxsize=1)
def key() -> RSAPrivateKey:
    """One key for all tests of a process; to make one takes a second."""
    return generate_private_key(public_exponent=3, key_size=3072)


def modulus() -> int:
    return key().public_key().public_numbers().n


def field(raw: bytes, name: str) -> bytes:
    start, length = FIELDS[name]
    return raw[start : start + length]


def number(raw: bytes, name: str) -> int:
    return int.from_bytes(field(raw, name), "little")


def put(raw: bytes, name: str, value: bytes | int) -> bytes:
    """The same bytes with one field changed."""
    start, length = FIELDS[name]
    data = value.to_bytes(length, "little") if isinstance(value, int) else value
    assert len(data) == length
    return raw[:start] + data + raw[start + length :]


def padded(raw: bytes) -> int:
    """The number that the signature's cube must be (RFC 8017 9.2): 00 01 ff .. ff 00 DigestInfo."""
    info = SHA256_INFO + sha256(raw[:128] + raw[900:1028]).digest()
    return int.from_bytes(b"\0\1" + b"\xff" * (384 - 3 - len(info)) + b"\0" + info, "big")


def with_signature(raw: bytes, signature: int) -> bytes:
    """The same bytes with this signature, and the two quotients of it."""
    m = number(raw, "MODULUS")
    q1 = signature**2 // m
    q2 = (signature**3 - q1 * signature * m) // m
    raw = put(raw, "SIGNATURE", signature)
    return put(put(raw, "Q1", q1), "Q2", q2)


def signed(raw: bytes, signer: RSAPrivateKey | None = None) -> bytes:
    """The same bytes, signed: by textbook RSA, not by a library."""
    private = (signer or key()).private_numbers()
    raw = put(raw, "MODULUS", private.public_numbers.n)
    return with_signature(raw, pow(padded(raw), private.d, private.public_numbers.n))


def is_valid(raw: bytes) -> bool:
    """Whether the signature's cube is what it must be, as a CPU finds by Q1 and Q2."""
    m, s = number(raw, "MODULUS"), number(raw, "SIGNATURE")
    q1, q2 = number(raw, "Q1"), number(raw, "Q2")
    rest = s * s - q1 * m
    cube = rest * s - q2 * m
    return 0 <= rest < m and 0 <= cube < m and cube == padded(raw)


@lru_cache(maxsize=1)
def example() -> bytes:
    """A production enclave's, as Gramine 1.9 makes it by default."""
    raw = bytes(1808)
    for name, value in {
        "HEADER": bytes.fromhex("06000000 E1000000 00000100 00000000"),
        "DATE": 0x20261122,
        "HEADER2": bytes.fromhex("01010000 60000000 60000000 01000000"),
        "EXPONENT": 3,
        "MISCMASK": 0xFFFFFFFF,
        "ATTRIBUTES.FLAGS": 4,
        "ATTRIBUTES.XFRM": 3,
        "ATTRIBUTEMASK.FLAGS": 0xFFFFFFFFFFFFFFFF,
        "ATTRIBUTEMASK.XFRM": bytes.fromhex("1bfff9ffffffffff"),
        "ENCLAVEHASH": bytes(range(32)),
        "ISVPRODID": 7,
        "ISVSVN": 0x0102,
    }.items():
        raw = put(raw, name, value)
    return signed(raw)
