# SPDX-License-Identifier: Apache-2.0
"""A request that asks for more than it may: the CA refuses it, and nothing is issued."""

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from tests.support import ca

from fedclave.errors import Code, Refused
from fedclave.trust import keys, pki, profiles, requests
from fedclave.trust.names import Identity, Role

ALICE = Identity(federation="digits", role="collaborator", name="alice")
NAMES = profiles.names(ALICE)


def request_with(
    *extensions: x509.ExtensionType,
    key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | None = None,
) -> x509.CertificateSigningRequest:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    key = key or keys.generate()
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm)


def test_a_name_that_the_library_warns_of_is_refused_where_warnings_are_errors(
    tmp_path: Path,
) -> None:
    """As they are in these tests."""
    with pytest.warns(UserWarning, match="length"):
        long = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x" * 65, _validate=False)])
    asked = x509.SubjectAlternativeName([*NAMES, x509.DirectoryName(long)])
    check_refused(tmp_path, request_with(asked), "list of names")


def check_refused(tmp_path: Path, request: x509.CertificateSigningRequest, match: str) -> None:
    authority = ca.create(tmp_path)
    with pytest.raises(Refused, match=match) as refused:
        authority.issue(request, role="collaborator", name="alice", now=ca.NOW)
    assert refused.value.code is Code.BAD_REQUEST
    assert authority.issued() == []


@pytest.mark.parametrize(
    "identity",
    [
        Identity(federation="digits", role="collaborator", name="bob"),
        Identity(federation="digits", role="aggregator", name="alice"),
        Identity(federation="letters", role="collaborator", name="alice"),
    ],
)
def test_a_request_for_another_identity_is_refused(tmp_path: Path, identity: Identity) -> None:
    check_refused(tmp_path, pki.make_request(keys.generate(), **vars(identity)), "asks to be")


@pytest.mark.parametrize(
    "extension",
    [
        x509.BasicConstraints(ca=True, path_length=None),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
    ],
)
def test_a_request_for_rights_of_its_own_is_refused(
    tmp_path: Path, extension: x509.ExtensionType
) -> None:
    check_refused(tmp_path, request_with(NAMES, extension), "asks for an extension of its own")


@pytest.mark.parametrize(
    "name",
    [
        x509.DNSName("aggregator.fedclave.internal"),
        x509.RFC822Name("alice@example.org"),
    ],
)
def test_a_collaborator_gets_no_host_or_mail_names(tmp_path: Path, name: x509.GeneralName) -> None:
    names = x509.SubjectAlternativeName([*NAMES, name])
    check_refused(tmp_path, request_with(names), "has no use for")


def test_a_request_with_two_identities_is_refused(tmp_path: Path) -> None:
    second = x509.UniformResourceIdentifier("fedclave://digits/collaborator/bob")
    names = x509.SubjectAlternativeName([*NAMES, second])
    check_refused(tmp_path, request_with(names), "2 URI names")


def test_a_request_without_names_is_refused(tmp_path: Path) -> None:
    check_refused(tmp_path, request_with(), "no one list of names")


@pytest.mark.parametrize(
    "key", [ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate()]
)
def test_a_key_of_another_kind_is_refused(
    tmp_path: Path, key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
) -> None:
    check_refused(tmp_path, request_with(NAMES, key=key), "no ECDSA key on P-256")


def test_a_request_that_its_key_did_not_sign_is_refused(tmp_path: Path) -> None:
    der = bytearray(request_with(NAMES).public_bytes(Encoding.DER))
    der[-1] ^= 1
    check_refused(tmp_path, requests.parse(bytes(der)), "certificate request")


@pytest.mark.parametrize("data", [b"", b"garbage", b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA"])
def test_garbage_is_no_request(data: bytes) -> None:
    with pytest.raises(Refused, match="does not parse") as refused:
        requests.parse(data)
    assert refused.value.code is Code.BAD_REQUEST


@pytest.mark.parametrize("role", ["collaborator", "aggregator"])
def test_rights_come_from_the_role_whatever_the_request(tmp_path: Path, role: Role) -> None:
    leaf = ca.certify(ca.create(tmp_path), role, "party").leaf
    assert profiles.is_leaf(leaf, role)
    assert not any(
        profiles.is_leaf(leaf, other) for other in {"collaborator", "aggregator"} - {role}
    )
