# SPDX-License-Identifier: Apache-2.0
"""What each kind of certificate says (RFC 5280 4.2): root, issuing CA, leafs of three roles.

    root     10 years  CA, path length 1   keyCertSign, cRLSign
    issuing   1 year   CA, path length 0   keyCertSign, cRLSign
    leaf      7 days   not a CA            digitalSignature; clientAuth or serverAuth, by role

A collaborator's leaf cannot serve and a server's leaf cannot dial: who steals one gains one role.
All of it comes from here; of a request only the key, the host names and the evidence that the gate
admitted are taken. Evidence stands in the leaf as Interoperable RA-TLS has it: others can read it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedclave.errors import UserError
from fedclave.trust import ratls
from fedclave.trust.crl import SKEW
from fedclave.trust.names import SERVERS, Identity, Role, server_name

ROOT_LIFE = timedelta(days=3652)
ISSUING_LIFE = timedelta(days=365)
LEAF_LIFE = timedelta(days=7)

PURPOSE: dict[Role, x509.ObjectIdentifier] = {
    "aggregator": ExtendedKeyUsageOID.SERVER_AUTH,
    "authority": ExtendedKeyUsageOID.SERVER_AUTH,
    "collaborator": ExtendedKeyUsageOID.CLIENT_AUTH,
}
"""The one extended key usage of each role's leaf."""


EVIDENCE = x509.ObjectIdentifier(ratls.OID)
"""The extension that brings the evidence of a TEE."""

MAX_EVIDENCE = 16 * 1024  # bytes; Gramine makes quotes of 8 KiB at most


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Who is certified, with which key, and what stands in the certificate of it."""

    identity: Identity
    public_key: ec.EllipticCurvePublicKey
    hosts: tuple[str, ...] = ()
    evidence: bytes = field(default=b"", repr=False)


def root(federation: str, key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    """A self-signed root."""
    subject = _subject(federation, "root")
    builder = _builder(subject, subject, key.public_key(), now, now + ROOT_LIFE)
    return _authority(builder, key, key, path_length=1)


def issuing(
    parent: x509.Certificate,
    parent_key: ec.EllipticCurvePrivateKey,
    key: ec.EllipticCurvePrivateKey,
    now: datetime,
) -> x509.Certificate:
    """The issuing CA's certificate, signed by the root and not outliving it."""
    until = min(now + ISSUING_LIFE, parent.not_valid_after_utc)
    subject = _subject(federation_of(parent), "issuing")
    builder = _builder(subject, parent.subject, key.public_key(), now, until)
    return _authority(builder, key, parent_key, path_length=0)


def leaf(
    of: Subject,
    *,
    issuer: x509.Certificate,
    issuer_key: ec.EllipticCurvePrivateKey,
    now: datetime,
    until: datetime,
) -> x509.Certificate:
    """A party's certificate."""
    identity, public_key = of.identity, of.public_key
    subject = _subject(identity.federation, identity.name)
    builder = _builder(subject, issuer.subject, public_key, now, until)
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_usage(leaf=True), True),
        (x509.ExtendedKeyUsage([PURPOSE[identity.role]]), False),
        (names(identity, of.hosts), False),
        (x509.SubjectKeyIdentifier.from_public_key(public_key), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), False),
    ]
    if of.evidence:
        extensions.append((evidence(of.evidence), False))
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer_key, hashes.SHA256())


def evidence(value: bytes) -> x509.UnrecognizedExtension:
    """The extension that brings evidence, in a request and in a certificate."""
    return x509.UnrecognizedExtension(EVIDENCE, value)


def names(identity: Identity, hosts: Iterable[str] = ()) -> x509.SubjectAlternativeName:
    """The identity, and for a server also its fixed name and the hosts where it listens."""
    found: list[x509.GeneralName] = [x509.UniformResourceIdentifier(identity.uri)]
    if identity.role in SERVERS:
        found += map(_host, dict.fromkeys((server_name(identity.role), *hosts)))
    return x509.SubjectAlternativeName(found)


def hosts_of(extension: x509.SubjectAlternativeName) -> tuple[str, ...]:
    """The DNS names and IP addresses in a list of names."""
    addresses = extension.get_values_for_type(x509.IPAddress)
    return (*extension.get_values_for_type(x509.DNSName), *map(str, addresses))


def federation_of(certificate: x509.Certificate) -> str:
    """The federation that a CA's certificate belongs to. Raises ``ValueError`` if it says none."""
    found = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    if len(found) != 1:
        raise ValueError("it names no one federation")
    return str(found[0].value)


def is_authority(certificate: x509.Certificate, path_length: int) -> bool:
    """Whether this is the profile of a CA with this path length."""
    return _has(
        certificate, x509.BasicConstraints(ca=True, path_length=path_length), _usage(leaf=False)
    )


def is_leaf(certificate: x509.Certificate, role: Role) -> bool:
    """Whether this is the profile of a leaf with the role's usage, and no other usage."""
    return _has(
        certificate,
        x509.BasicConstraints(ca=False, path_length=None),
        _usage(leaf=True),
        x509.ExtendedKeyUsage([PURPOSE[role]]),
    )


def _has(certificate: x509.Certificate, *wanted: x509.ExtensionType) -> bool:
    try:
        found = certificate.extensions
        return all(found.get_extension_for_class(type(one)).value == one for one in wanted)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return False


def _authority(
    builder: x509.CertificateBuilder,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    *,
    path_length: int,
) -> x509.Certificate:
    for extension, critical in (
        (x509.BasicConstraints(ca=True, path_length=path_length), True),
        (_usage(leaf=False), True),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False),
    ):
        builder = builder.add_extension(extension, critical)
    return builder.sign(signer, hashes.SHA256())


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now: datetime,
    until: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(until)
    )


def _subject(federation: str, name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, federation),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def _usage(*, leaf: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=leaf,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=not leaf,
        crl_sign=not leaf,
        encipher_only=False,
        decipher_only=False,
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        pass
    try:
        if not host or len(host) > 253:
            raise ValueError("its length")
        return x509.DNSName(host)
    except ValueError as error:
        raise UserError(
            f"{host!r} is not a host name or an IP address. Write an international name in its"
            " ASCII form (xn--...)"
        ) from error
