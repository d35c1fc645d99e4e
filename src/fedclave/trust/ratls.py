# SPDX-License-Identifier: Apache-2.0
"""A quote and its claims as one, alone or in a certificate: Interoperable RA-TLS (CCC).

    evidence     CBOR tag 60000 [quote, claims], both byte strings, in canonical form (``cbor``)
    extension    OID 2.23.133.5.4.9 (TCG DICE tagged evidence), its value is the evidence
    legacy       Gramine's own extension: the bare quote, about the key itself; only ever read

A certificate of Gramine may have both, with two different quotes: the standard one counts, by its
own binding, and the other is not looked at. A certificate may also bring collateral
(2.23.133.5.4.2): that is never taken from a peer. Nothing here verifies a quote.
"""

import hashlib
import hmac
from dataclasses import dataclass

from fedclave.errors import Code, Refused
from fedclave.trust import cbor, claims, der, quotes
from fedclave.trust.quotes import Quote

OID = "2.23.133.5.4.9"
TAG = 60000
LEGACY_OID = "0.6.9.42.840.113741.1337.6"
"""1.2.840.113741.1337.6 with its own tag and length inside: so Gramine has always written it."""

MAX_SIZE = quotes.MAX_SIZE + claims.MAX_SIZE + 16  # bytes of evidence


@dataclass(frozen=True, kw_only=True)
class RaTls:
    """The evidence in a certificate, not verified yet."""

    quote: bytes
    claims: bytes | None
    """None in the legacy form, which has none."""
    legacy: bool
    spki: bytes
    """The certificate's SubjectPublicKeyInfo, DER."""


def encode(quote: bytes, said: bytes) -> bytes:
    """Evidence: a quote with the claims that it is about."""
    return cbor.encode(cbor.Tagged(TAG, [quote, said]))


def decode(evidence: bytes) -> tuple[bytes, bytes]:
    """The quote and the claims in evidence, both still to be parsed. ``Refused``: ATT_MALFORMED."""
    found = cbor.decode(evidence, "evidence", limit=MAX_SIZE, tag=TAG)
    match found:
        case [bytes(quote), bytes(said)]:
            return quote, said
    raise Refused(
        Code.ATT_MALFORMED,
        "the evidence is not a pair of byte strings, quote and claims. Ask the peer for fresh"
        " evidence",
    )


def extension(quote: bytes, said: bytes) -> tuple[str, bytes]:
    """OID and value of the extension for a certificate; it is not critical."""
    return OID, encode(quote, said)


def read(certificate: bytes) -> RaTls:
    """The evidence in a certificate (DER). ``Refused`` (ATT_MALFORMED): none, or more than one."""
    parts = der.certificate(certificate)
    evidence, bare = parts.extension(OID), parts.extension(LEGACY_OID)
    if evidence is not None:
        quote, said = decode(evidence)
        return RaTls(quote=quote, claims=said, legacy=False, spki=parts.spki)
    if bare is not None:
        return RaTls(quote=bare, claims=None, legacy=True, spki=parts.spki)
    raise Refused(
        Code.ATT_MALFORMED,
        f"the certificate carries no evidence (extension {OID}). Start the peer so that it makes"
        " its certificate inside the TEE",
    )


def bound(evidence: RaTls) -> Quote:
    """The quote of evidence that belongs to the certificate's key. It is still to be verified.

    ``Refused``: ATT_KEY_BINDING when the quote is not about the claims, or the claims (in the
    legacy form the quote itself) not about the key; ATT_MALFORMED, ATT_UNSUPPORTED.
    """
    quote = quotes.parse(evidence.quote)
    if evidence.claims is None:
        expected = hashlib.sha256(evidence.spki).digest().ljust(claims.REPORT_DATA, b"\0")
        if not hmac.compare_digest(quote.body.report_data, expected):
            raise _another_key(quote.body.report_data.hex(), evidence.spki)
        return quote
    claims.check_report_data(quote.body.report_data, evidence.claims)
    said = claims.binding(evidence.claims)
    if not said.holds(evidence.spki):
        raise _another_key(said.key_hash.hex(), evidence.spki)
    return quote


def _another_key(found: str, spki: bytes) -> Refused:
    return Refused(
        Code.ATT_KEY_BINDING,
        f"the evidence is of the key {found}, and the certificate has another (SHA-256"
        f" {hashlib.sha256(spki).hexdigest()}): it was copied into this certificate. Find out who"
        " made it",
    )
