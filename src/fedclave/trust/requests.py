# SPDX-License-Identifier: Apache-2.0
"""Certificate requests (PKCS #10, RFC 2986): made by a party, read strictly by the CA.

A request carries the party's names and, if a TEE made the key, its evidence as the extension that
Interoperable RA-TLS has for certificates (``ratls``). The gate judges the evidence (``certify``).
"""

from collections.abc import Iterable

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fedclave.errors import Code, Refused
from fedclave.trust import keys, profiles
from fedclave.trust.keys import UNREADABLE
from fedclave.trust.names import SERVERS, Identity, Role
from fedclave.trust.profiles import Subject


def make_request(
    key: ec.EllipticCurvePrivateKey,
    *,
    federation: str,
    role: Role,
    name: str,
    hosts: Iterable[str] = (),
    evidence: bytes = b"",
) -> x509.CertificateSigningRequest:
    """A request for an identity; ``hosts`` are where a server listens, besides its fixed name.

    ``evidence`` is that of the TEE in which the key was made.
    """
    identity = Identity(federation=federation, role=role, name=name)
    builder = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .add_extension(profiles.names(identity, hosts), critical=False)
    )
    if evidence:
        builder = builder.add_extension(profiles.evidence(evidence), critical=False)
    return builder.sign(key, hashes.SHA256())


def parse(data: bytes) -> x509.CertificateSigningRequest:
    """A request from PEM or DER bytes, or ``Refused(bad-request)``."""
    try:
        if data.lstrip().startswith(b"-----BEGIN"):
            return x509.load_pem_x509_csr(data)
        return x509.load_der_x509_csr(data)
    except UNREADABLE as error:
        raise _bad(f"does not parse ({error})") from error


def check(request: x509.CertificateSigningRequest, wanted: Identity) -> Subject:
    """What a request for exactly this identity asks to be certified; anything else is refused.

    Names and evidence are the only extensions that a request may carry: the CA decides the rest,
    and a request that asks for more (to be a CA, another usage) was made by somebody else's
    software. The evidence is not judged here.
    """
    try:
        if not request.is_signature_valid:
            raise _bad("is not signed by its own key")
        key = request.public_key()
        identity = Identity.of(request)
        extensions = list(request.extensions)
    except UNREADABLE as error:
        raise _bad(f"is not one for a party ({error})") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not keys.is_p256(key):
        raise _bad("has no ECDSA key on P-256")
    evidence = b""
    for extension in extensions:
        if extension.oid == profiles.EVIDENCE:
            evidence = _evidence(extension)
        elif not isinstance(extension.value, x509.SubjectAlternativeName):
            raise _bad(f"asks for an extension of its own ({extension.oid.dotted_string})")
    if identity != wanted:
        raise _bad(f"asks to be {identity.uri}, not {wanted.uri}")
    names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    hosts = profiles.hosts_of(names)
    if len(names) != len(hosts) + 1 or (hosts and identity.role not in SERVERS):
        raise _bad(f"asks for names that a {identity.role} has no use for")
    return Subject(identity=identity, public_key=key, hosts=hosts, evidence=evidence)


def _evidence(extension: x509.Extension[x509.ExtensionType]) -> bytes:
    value = extension.value.public_bytes()
    if extension.critical:
        raise _bad("calls its evidence critical, which no certificate says of it")
    if not 0 < len(value) <= profiles.MAX_EVIDENCE:
        raise Refused(
            Code.ATT_MALFORMED,
            f"the certificate request carries evidence of {len(value)} bytes; 1 to"
            f" {profiles.MAX_EVIDENCE} are read. Make a new request",
        )
    return value


def _bad(reason: str) -> Refused:
    return Refused(
        Code.BAD_REQUEST,
        f"the certificate request {reason}. Check the name and the file, or make a new request"
        " ('fx join', 'fx ... generate-cert-request')",
    )
