# SPDX-License-Identifier: Apache-2.0
"""Claims, quotes and certificates that fit each other, so that a test can break one thing."""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedclave.trust import claims, quotes
from fedclave.trust.claims import Claims, Expected

NOW = datetime(2031, 5, 1, 12, tzinfo=UTC)
VECTORS = Path(__file__).parents[1] / "vectors" / "attestation"
QUOTE = (VECTORS / "sim" / "ok.quote.bin").read_bytes()
REPORT_DATA = slice(48 + 320, 48 + 384)

KEY = ec.generate_private_key(ec.SECP256R1())
SPKI = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

CLAIMS = Claims(
    role="aggregator",
    name="agg",
    federation="digits",
    contract="c0" * 32,
    policy="d0" * 32,
    key=hashlib.sha256(SPKI).digest(),
    peer=b"p" * 32,
    nonce=b"n" * 32,
    own_nonce=b"o" * 32,
    time=NOW,
    hpke_key=b"h" * 32,
    checkpoint=b"head",
)
EXPECTED = Expected(
    role="aggregator",
    name="agg",
    federation="digits",
    contract="c0" * 32,
    policy="d0" * 32,
    key=CLAIMS.key,
    peer=CLAIMS.peer,
    nonce=CLAIMS.nonce,
    own_nonce=CLAIMS.own_nonce,
)


def quote_over(report_data: bytes) -> bytes:
    """A quote that parses, over these 64 bytes; its signature is of others."""
    raw = bytearray(QUOTE)
    raw[REPORT_DATA] = report_data
    assert quotes.parse(bytes(raw)).body.report_data == report_data
    return bytes(raw)


def quote_about(said: bytes) -> bytes:
    """A quote that parses, over claims."""
    return quote_over(claims.report_data(said))


def said(**changes: object) -> bytes:
    """The bytes of ``CLAIMS``, with changes."""
    return claims.encode(replace(CLAIMS, **changes))  # type: ignore[arg-type]


def certificate(*extensions: tuple[str, bytes]) -> bytes:
    """A self-signed certificate (DER) of ``KEY`` with these extensions."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "agg")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(KEY.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    )
    for oid, value in extensions:
        one = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)
        builder = builder.add_extension(one, critical=False)
    return builder.sign(KEY, hashes.SHA256()).public_bytes(Encoding.DER)
