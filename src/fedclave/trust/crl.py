# SPDX-License-Identifier: Apache-2.0
"""The revocation list (RFC 5280 5): what the issuing CA signs and every gate reads.

It covers leafs. A list is good for ``LIFE``, which is longer than a leaf lives: each renewal of a
party's leaf (every 7 days at most) brings a fresh list, so a list in use never gets stale, and a
stale one means that a party was cut off from its CA. It then admits nobody.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from fedclave.errors import Code, Refused
from fedclave.trust.keys import UNREADABLE

LIFE = timedelta(days=30)
SKEW = timedelta(minutes=5)
"""How far back certificates and lists are dated, for clocks that run behind."""


def sign(
    issuer: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    revoked: Iterable[tuple[int, datetime]],
    *,
    number: int,
    now: datetime,
) -> x509.CertificateRevocationList:
    """The list of revoked serial numbers and when each was revoked; ``number`` only grows."""
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(now - SKEW)
        .next_update(now + LIFE)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(identifier, critical=False)
    )
    for serial, when in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(when)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(key, hashes.SHA256())


def number(crl: x509.CertificateRevocationList) -> int:
    """The list's place in the CA's sequence of lists (RFC 5280 5.2.3)."""
    try:
        return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except (x509.ExtensionNotFound, x509.DuplicateExtension) as error:
        raise ValueError("it has no number") from error


def parse(pem: bytes, issuer: x509.Certificate) -> x509.CertificateRevocationList:
    """A list that this CA signed. Raises ``ValueError`` on any other bytes."""
    try:
        crl = x509.load_pem_x509_crl(pem)
    except UNREADABLE as error:
        raise ValueError("it is damaged") from error
    key = issuer.public_key()
    if crl.issuer != issuer.subject or not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError("it was signed by another CA")
    if not crl.is_signature_valid(key):
        raise ValueError("its signature is not this CA's")
    number(crl)
    return crl


def is_revoked(serial: int, *, path: Path, issuer: x509.Certificate, now: datetime) -> bool:
    """Whether the list in a file names a serial number; the file counts as it is now.

    A list that is missing, damaged, foreign or stale refuses everybody.
    """
    try:
        crl = _parsed(path.read_bytes(), issuer)
    except (OSError, ValueError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else _reason(error)
        raise _unknown(f"{path.name} cannot be used ({reason})") from error
    if crl.next_update_utc is None or now > crl.next_update_utc:
        raise _unknown(f"{path.name} is stale")
    return crl.get_revoked_certificate_by_serial_number(serial) is not None


def _reason(error: Exception) -> str:
    """Our own words for it; those of libraries are for those who use the libraries."""
    said = str(error)
    return said if said.startswith("it ") or said.startswith("its ") else "it is damaged"


def _unknown(reason: str) -> Refused:
    return Refused(
        Code.REVOCATION_UNKNOWN,
        f"the revocation list {reason}, so nobody is admitted. Get a fresh one from the CA"
        " ('fx ca renew', or 'cert/crl.pem' from its folder)",
    )


@lru_cache(maxsize=8)
def _parsed(pem: bytes, issuer: x509.Certificate) -> x509.CertificateRevocationList:
    return parse(pem, issuer)
