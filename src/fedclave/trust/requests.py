# SPDX-License-Identifier: Apache-2.0
"""Certificate requests (PKCS #10, RFC 2986): made by a party, read strictly by the CA."""

from collections.abc import Iterable

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fedclave.errors import Code, Refused
from fedclave.trust import keys, profiles
from fedclave.trust.keys import UNREADABLE
from fedclave.trust.names import SERVERS, Identity, Role


def make_request(
    key: ec.EllipticCurvePrivateKey,
    *,
    federation: str,
    role: Role,
    name: str,
    hosts: Iterable[str] = (),
) -> x509.CertificateSigningRequest:
    """A request for an identity; ``hosts`` are where a server listens, besides its fixed name."""
    identity = Identity(federation=federation, role=role, name=name)
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .add_extension(profiles.names(identity, hosts), critical=False)
        .sign(key, hashes.SHA256())
    )


def parse(data: bytes) -> x509.CertificateSigningRequest:
    """A request from PEM or DER bytes, or ``Refused(bad-request)``."""
    try:
        if data.lstrip().startswith(b"-----BEGIN"):
            return x509.load_pem_x509_csr(data)
        return x509.load_der_x509_csr(data)
    except UNREADABLE as error:
        raise _bad(f"does not parse ({error})") from error


def check(
    request: x509.CertificateSigningRequest, wanted: Identity
) -> tuple[ec.EllipticCurvePublicKey, tuple[str, ...]]:
    """The key and the hosts of a request for exactly this identity; anything else is refused.

    Its names are the only extension that a request may carry: the CA decides the rest, and a
    request that asks for more (to be a CA, another usage) was made by somebody else's software.
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
    for extension in extensions:
        if not isinstance(extension.value, x509.SubjectAlternativeName):
            raise _bad(f"asks for an extension of its own ({extension.oid.dotted_string})")
    if identity != wanted:
        raise _bad(f"asks to be {identity.uri}, not {wanted.uri}")
    names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    hosts = profiles.hosts_of(names)
    if len(names) != len(hosts) + 1 or (hosts and identity.role not in SERVERS):
        raise _bad(f"asks for names that a {identity.role} has no use for")
    return key, hosts


def _bad(reason: str) -> Refused:
    return Refused(
        Code.BAD_REQUEST,
        f"the certificate request {reason}. Check the name and the file, or make a new request"
        " ('fx join', 'fx ... generate-cert-request')",
    )
