# SPDX-License-Identifier: Apache-2.0
"""One certificate of a party, looked at by itself: the steps of ``gate.admit`` that need no list.

Whether it is let in is the gate's to say.
"""

from datetime import datetime
from functools import lru_cache

from cryptography import x509

from fedclave.errors import Code, Refused
from fedclave.trust import profiles
from fedclave.trust.anchors import Anchors
from fedclave.trust.keys import UNREADABLE
from fedclave.trust.names import Identity, Role


def parsed(leaf: bytes | x509.Certificate) -> x509.Certificate:
    """A certificate in PEM or DER. ``Refused``: no-certificate, malformed."""
    if isinstance(leaf, x509.Certificate):
        return leaf
    if not leaf:
        raise Refused(Code.NO_CERTIFICATE, "the peer showed no certificate. It must certify first")
    try:
        if leaf.lstrip().startswith(b"-----BEGIN"):
            return x509.load_pem_x509_certificate(leaf)
        return x509.load_der_x509_certificate(leaf)
    except UNREADABLE as error:
        raise Refused(Code.MALFORMED, f"the certificate does not parse ({error})") from error


def check_issuer(certificate: x509.Certificate, anchors: Anchors) -> None:
    """Raise ``Refused`` (foreign-certificate) unless the issuing CA signed it."""
    try:
        certificate.verify_directly_issued_by(anchors.issuing)
    except UNREADABLE as error:
        raise Refused(
            Code.FOREIGN_CERTIFICATE,
            f"the certificate of {subject(certificate)} was not issued by the CA of federation"
            f" {anchors.federation!r}. Each party must be certified by the same CA",
        ) from error


def check_time(certificate: x509.Certificate, now: datetime) -> None:
    """Raise ``Refused`` (certificate-expired, -not-yet-valid) unless it is valid now."""
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    clock = f"here it is {now:%Y-%m-%d %H:%M} UTC. Check both clocks"
    if now < begins:
        raise Refused(
            Code.CERTIFICATE_NOT_YET_VALID,
            f"the certificate of {subject(certificate)} is valid from {begins:%Y-%m-%d %H:%M} on;"
            f" {clock}",
        )
    if now > ends:
        raise Refused(
            Code.CERTIFICATE_EXPIRED,
            f"the certificate of {subject(certificate)} was valid until {ends:%Y-%m-%d %H:%M};"
            f" {clock}, or renew it ('fx ca renew')",
        )


@lru_cache(maxsize=1024)
def identity(certificate: x509.Certificate, role: Role) -> Identity:
    """The one identity in a certificate of this role. ``Refused``: wrong-role."""
    try:
        found = Identity.of(certificate)
    except ValueError as error:
        raise Refused(Code.WRONG_ROLE, f"the certificate has no identity: {error}") from error
    if found.role != role:
        raise Refused(
            Code.WRONG_ROLE, f"{found.name!r} is certified as {found.role}, not as {role}"
        )
    if not profiles.is_leaf(certificate, role):
        raise Refused(
            Code.WRONG_ROLE,
            f"the usages in the certificate of {found.name!r} are not a {role}'s",
        )
    return found


def subject(certificate: x509.Certificate) -> str:
    """A certificate's subject for a message: quoted and cut, for a stranger may have chosen it."""
    try:
        return repr(certificate.subject.rfc4514_string()[:100])
    except (ValueError, Warning):
        return "an unreadable name"
