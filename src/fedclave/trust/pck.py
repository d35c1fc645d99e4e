# SPDX-License-Identifier: Apache-2.0
"""The certificates behind a quote (Intel SGX PCK Certificate and CRL Specification, 1.3 and 1.5).

    root --> PCK CA (Platform or Processor) --> PCK certificate: one per platform, signs its QE
         --> TCB Signing: signs TCB info and QE identity

That shape is fixed, so there is no path to build: each certificate has a role, and every role its
profile. The root is the one that the caller trusts, byte for byte; what a peer or a file sends as
root is never read. What depends on the clock is apart (``check_dates``, and revocation), so that
the rest, which depends on the bytes alone, is done once for each platform.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from functools import lru_cache
from typing import Literal, NoReturn, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtensionOID, NameOID, SignatureAlgorithmOID

from fedclave.errors import Code, Refused
from fedclave.trust import der as der_walk
from fedclave.trust import keys, pckext
from fedclave.trust.keys import UNREADABLE

INTEL_ROOT = base64.b64decode(
    "MIICjzCCAjSgAwIBAgIUImUM1lqdNInzg7SVUr9QGzknBqwwCgYIKoZIzj0EAwIwaDEaMBgGA1UEAwwRSW50ZWwg"
    "U0dYIFJvb3QgQ0ExGjAYBgNVBAoMEUludGVsIENvcnBvcmF0aW9uMRQwEgYDVQQHDAtTYW50YSBDbGFyYTELMAkG"
    "A1UECAwCQ0ExCzAJBgNVBAYTAlVTMB4XDTE4MDUyMTEwNDUxMFoXDTQ5MTIzMTIzNTk1OVowaDEaMBgGA1UEAwwR"
    "SW50ZWwgU0dYIFJvb3QgQ0ExGjAYBgNVBAoMEUludGVsIENvcnBvcmF0aW9uMRQwEgYDVQQHDAtTYW50YSBDbGFy"
    "YTELMAkGA1UECAwCQ0ExCzAJBgNVBAYTAlVTMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEC6nEwMDIYZOj/iPW"
    "sCzaEKi71OiOSLRFhWGjbnBVJfVnkY4u3IjkDYYL0MxO4mqsyYjlBalTVYxFP2sJBK5zlKOBuzCBuDAfBgNVHSME"
    "GDAWgBQiZQzWWp00ifODtJVSv1AbOScGrDBSBgNVHR8ESzBJMEegRaBDhkFodHRwczovL2NlcnRpZmljYXRlcy50"
    "cnVzdGVkc2VydmljZXMuaW50ZWwuY29tL0ludGVsU0dYUm9vdENBLmRlcjAdBgNVHQ4EFgQUImUM1lqdNInzg7SV"
    "Ur9QGzknBqwwDgYDVR0PAQH/BAQDAgEGMBIGA1UdEwEB/wQIMAYBAf8CAQEwCgYIKoZIzj0EAwIDSQAwRgIhAOW/"
    "5QkR+S9CiSDcNoowLuPRLsWGf/Yi7GSX94BgwTwgAiEA4J0lrHoMs+Xo5o/sX6O9QWxHRAvZUGOdRQ7cvqRXaqI="
)
"""Intel SGX Root CA, DER, as certificates.trustedservices.intel.com serves it; until 2049."""

MAX_CHAIN = 32 * 1024  # bytes of PEM; a real chain has about 3,700
MAX_CERTIFICATES = 4
EXTENSION = x509.ObjectIdentifier("1.2.840.113741.1.13.1")
"""Intel's SGX extension, which a PCK certificate has and no other certificate may have."""

CaKind = Literal["platform", "processor"]

_T = TypeVar("_T", bound=x509.ExtensionType)
_Extensions = dict[x509.ObjectIdentifier, x509.Extension[x509.ExtensionType]]

_BLOCK = re.compile(
    rb"\s*-----BEGIN CERTIFICATE-----\r?\n([A-Za-z0-9+/=\r\n]+)-----END CERTIFICATE-----"
)


class Role(Enum):
    """What a certificate is for, told by the end of its common name; the maker precedes it."""

    ROOT = ("SGX Root CA",)
    PCK_CA = ("SGX PCK Platform CA", "SGX PCK Processor CA")
    PCK = ("SGX PCK Certificate",)
    TCB_SIGNING = ("SGX TCB Signing",)


_PATH_LENGTH = {Role.ROOT: 1, Role.PCK_CA: 0}  # of the others none: they are no CAs


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """A certificate that parses and has the profile of its role. Not yet: issued by anybody."""

    role: Role
    parsed: x509.Certificate
    key: ec.EllipticCurvePublicKey
    name: str
    subject_key_id: bytes
    authority_key_id: bytes
    begins: datetime
    ends: datetime

    @property
    def serial(self) -> int:
        """What a CRL names it by."""
        return self.parsed.serial_number

    @property
    def kind(self) -> CaKind:
        """Which of the two PCK CAs it is."""
        return "platform" if self.name.endswith(Role.PCK_CA.value[0]) else "processor"


@dataclass(frozen=True, kw_only=True)
class Crl:
    """A revocation list whose signature is its issuer's. Not yet: current."""

    parsed: x509.CertificateRevocationList
    name: str
    begins: datetime
    ends: datetime
    number: int

    def revokes(self, certificate: Certificate) -> bool:
        """Whether it names a certificate of its issuer."""
        entry = self.parsed.get_revoked_certificate_by_serial_number(certificate.serial)
        return entry is not None


@dataclass(frozen=True, kw_only=True)
class Platform:
    """A platform's chain, whose signatures lead to the root. Not yet: current, or not revoked."""

    leaf: Certificate
    ca: Certificate
    root: Certificate
    extension: pckext.PckExtension


@lru_cache(maxsize=16)
def root(der: bytes) -> Certificate:
    """A root certificate that the caller trusts, which must be a root's by its profile too."""
    found = certificate(der, Role.ROOT, "the trusted root", Code.ATT_CHAIN)
    check_issued(found, found, "the trusted root", Code.ATT_CHAIN)
    return found


def choose_root(chain: bytes, roots: Collection[bytes]) -> bytes:
    """Which of the trusted roots (DER) a PEM chain names as the issuer of one of its certificates.

    To be chosen proves nothing: the chain is then verified under that root, and that one alone.
    """
    if not roots:
        raise Refused(
            Code.ATT_CHAIN,
            "no root is trusted here, so nobody is. Name one in the policy; of a simulated TEE,"
            " import the collateral together with it ('fx attest collateral import', --root)",
        )
    named = set()
    for block in split(chain, "the certificate chain", Code.ATT_CHAIN):
        with suppress(*UNREADABLE):
            parsed = _parsed(decode(block))
            identifier = parsed.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
            named.add(identifier.value.key_identifier)
    return next((one for one in roots if root(one).subject_key_id in named), next(iter(roots)))


@lru_cache(maxsize=256)
def platform(chain: bytes, root_der: bytes) -> Platform:
    """The platform of a quote's PEM chain: PCK certificate, PCK CA, and a root that is not read.

    ``Refused`` (``ATT-CHAIN``) if anything that does not depend on the time is wrong with it.
    """
    anchor = root(root_der)
    blocks = split(chain, "the quote's certificate chain", Code.ATT_CHAIN)
    if len(blocks) not in (2, 3):
        raise Refused(
            Code.ATT_CHAIN,
            f"the quote's certificate chain has {len(blocks)} certificates; expected the PCK"
            " certificate, the PCK CA and the root. Have the platform's quote provider fetch its"
            " PCK certificate again",
        )
    what = "the quote's {}".format
    leaf = certificate(decode(blocks[0]), Role.PCK, what("PCK certificate"), Code.ATT_CHAIN)
    ca = certificate(decode(blocks[1]), Role.PCK_CA, what("PCK CA"), Code.ATT_CHAIN)
    check_issued(ca, anchor, what("PCK CA"), Code.ATT_CHAIN)
    check_issued(leaf, ca, what("PCK certificate"), Code.ATT_CHAIN)
    extension = leaf.parsed.extensions.get_extension_for_oid(EXTENSION).value
    if not isinstance(extension, x509.UnrecognizedExtension):
        raise _refusal(Code.ATT_CHAIN, what("PCK certificate"), "has an SGX extension of its own")
    return Platform(leaf=leaf, ca=ca, root=anchor, extension=pckext.parse(extension.value))


def split(pem: bytes, what: str, code: Code) -> tuple[bytes, ...]:
    """The PEM blocks of a chain, undecoded: nothing but certificates and white space.

    The zero byte that Intel's quote library ends a chain with is allowed.
    """
    text, blocks, at = pem.removesuffix(b"\0"), [], 0
    if len(pem) > MAX_CHAIN:
        raise _refusal(code, what, f"has {len(pem)} bytes; at most {MAX_CHAIN} are read")
    while match := _BLOCK.match(text, at):
        blocks.append(match[1])
        at = match.end()
    if text[at:].strip(b" \t\r\n") or not 1 <= len(blocks) <= MAX_CERTIFICATES:
        raise _refusal(code, what, "is not a list of one to four certificates in PEM form")
    return tuple(blocks)


def decode(block: bytes) -> bytes:
    """The DER in a block of ``split``; no bytes, which are no certificate, if it is not base64."""
    try:
        return base64.b64decode(b"".join(block.split()), validate=True)
    except binascii.Error:
        return b""


def certificate(der: bytes, role: Role, what: str, code: Code) -> Certificate:
    """A certificate that has the profile of a role. ``Refused`` with the code otherwise."""
    try:
        parsed = _parsed(der)
        extensions = {one.oid: one for one in parsed.extensions}
        key = parsed.public_key()
        found = Certificate(
            role=role,
            parsed=parsed,
            key=key
            if isinstance(key, ec.EllipticCurvePublicKey)
            else _wrong("it is not for ECDSA"),
            name=_common_name(parsed.subject),
            subject_key_id=_value(extensions, x509.SubjectKeyIdentifier).digest,
            authority_key_id=_value(extensions, x509.AuthorityKeyIdentifier).key_identifier or b"",
            begins=parsed.not_valid_before_utc,
            ends=parsed.not_valid_after_utc,
        )
        problem = _problem(found, extensions)
    except UNREADABLE as error:
        raise _refusal(code, what, f"cannot be used ({_reason(error)})") from error
    if problem:
        raise _refusal(code, what, f"({found.name}) {problem}")
    return found


def crl(der: bytes, issuer: Certificate, what: str, code: Code) -> Crl:
    """A complete CRL, version 2, that this CA signed (RFC 5280 5; the Specification, 1.5)."""
    try:
        der_walk.check_list_name(der)
        parsed = x509.load_der_x509_crl(der)
        extensions = {one.oid: one for one in parsed.extensions}
        if any(one.critical for one in parsed.extensions):  # a delta or a part of a list
            _wrong("it has a critical extension that this build does not know")
        if parsed.issuer != issuer.parsed.subject:
            _wrong(f"it was issued by {_common_name(parsed.issuer)!r}, not by {issuer.name!r}")
        if _value(extensions, x509.AuthorityKeyIdentifier).key_identifier != issuer.subject_key_id:
            _wrong(f"it was signed with another key than that of {issuer.name!r}")
        if parsed.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA256:
            _wrong("it is not signed by ECDSA with SHA-256")
        if not parsed.is_signature_valid(issuer.key):
            _wrong(f"it has a signature that is not of {issuer.name!r}")
        return Crl(
            parsed=parsed,
            name=issuer.name,
            begins=parsed.last_update_utc,
            ends=parsed.next_update_utc or _wrong("it does not say when the next one comes"),
            number=_value(extensions, x509.CRLNumber).crl_number,
        )
    except UNREADABLE as error:
        raise _refusal(code, what, f"cannot be used ({_reason(error)})") from error


def _parsed(der: bytes) -> x509.Certificate:
    der_walk.check_serial_and_names(der)
    return x509.load_der_x509_certificate(der)


def check_issued(child: Certificate, issuer: Certificate, what: str, code: Code) -> None:
    """Names, key identifiers and signature lead from a certificate to its issuer (RFC 5280 6.1)."""
    try:
        if child.authority_key_id != issuer.subject_key_id:
            raise InvalidSignature("it names another key of its issuer")
        child.parsed.verify_directly_issued_by(issuer.parsed)
    except UNREADABLE as error:
        reason = str(error) or "its signature is wrong"
        raise _refusal(
            code,
            what,
            f"({child.name}) was not issued by the trusted {issuer.name!r} ({reason}). It may be"
            " of another vendor, simulated, or forged",
        ) from error


def check_dates(one: Certificate, now: datetime) -> None:
    """A certificate of the platform is valid at ``now`` (RFC 5280 4.1.2.5)."""
    if not one.begins <= now <= one.ends:
        raise Refused(
            Code.ATT_CHAIN,
            f"the certificate {one.name!r} is valid from {one.begins:%Y-%m-%d %H:%M} to"
            f" {one.ends:%Y-%m-%d %H:%M} UTC; here it is {now:%Y-%m-%d %H:%M} UTC. Check the clock"
            " here; if it is right, have the platform renew its PCK certificate",
        )


def is_signature(key: ec.EllipticCurvePublicKey, signature: bytes, data: bytes) -> bool:
    """Whether 64 bytes, r then s, big-endian, are a P-256 key's signature of data with SHA-256."""
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    try:
        key.verify(encode_dss_signature(r, s), data, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return len(signature) == 64


def key_id(key: ec.EllipticCurvePublicKey) -> str:
    """SHA-384 (hex) of the uncompressed point: what dcap-qvl and Intel's QVL name a root by."""
    point = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return hashlib.sha384(point).hexdigest()


def _problem(found: Certificate, extensions: _Extensions) -> str:
    """What does not fit the profile of the role; nothing if all does."""
    role, names = found.role, "' or '... ".join(found.role.value)
    length = _PATH_LENGTH.get(role)
    leaf = length is None
    usage = _value(extensions, x509.KeyUsage)
    critical = {oid for oid, one in extensions.items() if one.critical}
    rules = {
        f"is not called '... {names}', as one for this use is": found.name.endswith(role.value),
        "is not of version 3": found.parsed.version is x509.Version.v3,
        "has a serial number that is not positive": found.serial > 0,  # RFC 5280 4.1.2.2
        "has a key that is not on P-256": keys.is_p256(found.key),
        "is not signed by ECDSA with SHA-256": (
            found.parsed.signature_algorithm_oid == SignatureAlgorithmOID.ECDSA_WITH_SHA256
            and isinstance(found.parsed.signature_hash_algorithm, hashes.SHA256)
        ),
        "has not the basic constraints of its role": _value(extensions, x509.BasicConstraints)
        == x509.BasicConstraints(ca=not leaf, path_length=length),
        "has not the key usage of its role": (
            usage.digital_signature if leaf else usage.key_cert_sign and usage.crl_sign
        )
        and leaf is not usage.key_cert_sign,
        "has other critical extensions than basic constraints and key usage": critical
        == {ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE},
        "has an SGX extension, or lacks it, against its role": (EXTENSION in extensions)
        is (role is Role.PCK),
    }
    return next((text for text, holds in rules.items() if not holds), "")


def _value(extensions: _Extensions, kind: type[_T]) -> _T:
    value = extensions[kind.oid].value if kind.oid in extensions else None
    return value if isinstance(value, kind) else _wrong(f"it has no extension {kind.__name__}")


def _wrong(reason: str) -> NoReturn:
    raise ValueError(reason)


def _common_name(name: x509.Name) -> str:
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    text = found[0].value if len(found) == 1 else None
    if not isinstance(text, str) or len(text) > 64 or not text.isprintable():  # X.520: at most 64
        _wrong("it has no single common name, or an odd one")
    return text


def _reason(error: Exception) -> str:
    text = str(error)
    return "it does not parse" if "asn1" in text or not text else text


def _refusal(code: Code, what: str, problem: str) -> Refused:
    remedy = "Get this collateral from Intel's PCS again, and import it"
    if code is Code.ATT_CHAIN:
        remedy = "Have the platform's quote provider fetch its PCK certificate again"
    return Refused(code, f"{what} {problem}. {remedy}")
