# SPDX-License-Identifier: Apache-2.0
"""Certificates are taken apart as DER demands, and as cryptography does where it can."""

import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.support.evidence import NOW, SPKI, VECTORS, certificate

from fedclave.errors import Code, Refused
from fedclave.trust import der, pck

NULL = b"\x05\x00"
ECDSA = bytes.fromhex("06082a8648ce3d040302")  # ecdsa-with-SHA256
SAMPLE = certificate(("1.2.3.4", b"value"))
PEM = (VECTORS / "ratls" / "gramine-interoperable.pem").read_text()


def tlv(tag: int, value: bytes) -> bytes:
    size = len(value)
    if size < 0x80:
        return bytes([tag, size]) + value
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 + len(length)]) + length + value


def seq(*values: bytes) -> bytes:
    return tlv(0x30, b"".join(values))


def ext(oid: str = "2a0304", value: bytes = b"v", flag: bytes = b"") -> bytes:
    return seq(tlv(6, bytes.fromhex(oid)), flag, tlv(4, value))


TIME = tlv(0x17, b"310501120000Z")


def made(
    *extensions: bytes,
    version: bytes = bytes.fromhex("a003020102"),
    inner: bytes = seq(ECDSA, NULL),
    outer: bytes = seq(ECDSA, NULL),
    times: bytes = TIME + TIME,
    unique: bytes = b"",
    spki: bytes = SPKI,
) -> bytes:
    """A certificate from its parts, as mbed TLS would write it: with NULL parameters."""
    listed = tlv(0xA3, seq(*extensions)) if extensions else b""
    tbs = seq(version, tlv(2, b"\x01"), inner, seq(), tlv(0x30, times), seq(), spki, unique, listed)
    return seq(tbs, outer, tlv(3, b"\x00"))


def refused(raw: bytes, words: str) -> bool:
    with pytest.raises(Refused, match=words) as refused:
        der.certificate(raw)
    return refused.value.code is Code.ATT_MALFORMED


def test_the_parts_are_those_that_cryptography_finds() -> None:
    for raw in (SAMPLE, pck.INTEL_ROOT, *(p.read_bytes() for p in VECTORS.glob("ratls/sim-*.der"))):
        theirs = x509.load_der_x509_certificate(raw)
        ours = der.certificate(raw)
        spki = theirs.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        assert ours.spki == spki
        assert ours.not_before == theirs.not_valid_before_utc
        assert ours.not_after == theirs.not_valid_after_utc
        assert [(e.oid, e.critical) for e in ours.extensions] == [
            (e.oid.dotted_string, e.critical) for e in theirs.extensions
        ]


def test_the_value_of_an_extension_is_found_by_its_oid() -> None:
    parts = der.certificate(SAMPLE)
    assert parts.extension("1.2.3.4") == b"value"
    assert parts.extension("1.2.3.5") is None
    assert (parts.not_before, parts.not_after) == (NOW, NOW + timedelta(days=1))


def test_certificates_of_gramine_are_read_that_cryptography_refuses() -> None:
    raw = ssl.PEM_cert_to_DER_cert(PEM)
    with pytest.raises(ValueError, match="ExtraData"):
        x509.load_der_x509_certificate(raw).public_key()
    parts = der.certificate(raw)
    assert parts.not_after == datetime(2030, 12, 31, 23, 59, 59, tzinfo=UTC)
    assert isinstance(load(parts.spki), ec.EllipticCurvePublicKey)


def load(spki: bytes) -> object:
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    return load_der_public_key(spki)


def test_null_parameters_unique_ids_and_no_extensions_are_allowed() -> None:
    assert der.certificate(made()).extensions == ()
    assert der.certificate(made(unique=tlv(0x81, b"\0x"))).extensions == ()
    critical = der.certificate(made(ext(flag=b"\x01\x01\xff"), unique=tlv(0x82, b"\0x")))
    assert critical.extensions == (("1.2.3.4", True, b"v"),)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "0 values"),
        (SAMPLE + b"\0", "cut short"),
        (SAMPLE + b"\x05\x00", "2 values|1 to 1"),
        (SAMPLE[:-1], "cut short"),
        (b"\x30\x80" + SAMPLE[4:] + b"\0\0", "shortest"),
        (b"\x30\x84\x00\x00" + SAMPLE[2:], "shortest"),
        (b"\x31" + SAMPLE[1:], "tag 0x31"),
        (b"\x3f" + SAMPLE[1:], "more than one byte"),
        (bytes(der.MAX_SIZE + 1), "more than 131072"),
        (made(version=b""), "values|tag"),
        (made(version=bytes.fromhex("a003020100")), "version"),
        (made(spki=seq()), "0 values"),
        (made(spki=seq(seq(ECDSA), tlv(4, b"key"))), "tag 0x04"),
        (made(spki=tlv(0x31, SPKI)), "tag 0x31"),
        (made(inner=seq(ECDSA)), "two different signature algorithms"),
        (made(times=TIME), "1 values"),
        (made(times=TIME * 3), "3 values"),
        (made(times=TIME + tlv(0x17, b"310501120000+0000")), "not a time"),
        (made(times=TIME + tlv(0x17, b"3105011200Z")), "not a time"),
        (made(times=TIME + tlv(0x18, b"20310501120000")), "not a time"),
        (made(times=TIME + tlv(0x18, b"00000501120000Z")), "year"),
        (made(times=TIME + tlv(0x17, b"311301120000Z")), "month"),
        (made(times=TIME + tlv(0x0C, b"310501120000Z")), "tag 0x0c"),
        (made(ext(), ext()), "1.2.3.4 stands twice"),
        (made(ext(flag=b"\x01\x01\x00")), "critical"),
        (made(ext(flag=b"\x01\x01\x01")), "critical"),
        (made(ext(oid="")), "object identifier"),
        (made(ext(oid="2a83")), "object identifier"),
        (made(ext(oid="2a8003")), "shortest"),
        (made(ext(oid="2a" * 65)), "object identifier"),
        (made(seq(tlv(6, b"\x2a"))), "1 values"),
        (made(seq(tlv(6, b"\x2a"), tlv(3, b"v"))), "tag 0x03"),
        (made(*(ext(oid=f"2a03{n:02x}") for n in range(65))), "more than 64"),
        (made(ext(), unique=tlv(0x82, b"\0") + tlv(0x81, b"\0")), "last fields"),
        (made(ext(), unique=tlv(0xA3, seq(ext()))), "last fields"),
        (made(ext(), unique=tlv(0x84, b"")), "last fields"),
        (made(unique=tlv(0xA3, seq())), "empty"),
        (made(unique=tlv(0xA3, b"")), "0 values"),
    ],
)
def test_what_is_no_certificate_is_refused(raw: bytes, words: str) -> None:
    assert refused(raw, words)


@pytest.mark.parametrize("cut", range(0, 120, 7))
def test_a_certificate_that_is_cut_short_is_refused(cut: int) -> None:
    assert refused(SAMPLE[:cut], "not an X.509 certificate")


@pytest.mark.parametrize(
    ("content", "dots"),
    [("2a864886f84d8a3906", "1.2.840.113741.1337.6"), ("883703", "2.999.3"), ("67", "2.23")],
)
def test_object_identifiers_are_told_in_dots(content: str, dots: str) -> None:
    assert der.certificate(made(ext(oid=content))).extensions[0].oid == dots


def test_a_date_of_the_last_century_and_one_far_ahead_are_read() -> None:
    parts = der.certificate(made(times=tlv(0x17, b"500101000000Z") + tlv(0x18, b"99991231235959Z")))
    assert (parts.not_before.year, parts.not_after.year) == (1950, 9999)
