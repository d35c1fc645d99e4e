# SPDX-License-Identifier: Apache-2.0
"""A peer with a certificate that is not good: the gate refuses it, by its right name."""

import os
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from tests.support import ca

from fedclave.errors import Code, Refused
from fedclave.trust import keys, pki
from fedclave.trust.gate import Member, admit
from fedclave.trust.names import Identity, Role

DAY = timedelta(days=1)


@pytest.fixture
def authority(tmp_path: Path) -> pki.Authority:
    return ca.create(tmp_path)


def admitted(
    authority: pki.Authority,
    leaf: bytes | x509.Certificate,
    role: Role = "collaborator",
    after: timedelta = timedelta(0),
) -> Member:
    members = {"alice"} if role == "collaborator" else None
    return admit(leaf, anchors=authority.anchors, role=role, now=ca.NOW + after, members=members)


def refusal(
    authority: pki.Authority,
    leaf: bytes | x509.Certificate,
    role: Role = "collaborator",
    after: timedelta = timedelta(0),
) -> Code:
    with pytest.raises(Refused) as refused:
        admitted(authority, leaf, role, after)
    return refused.value.code


def crafted(authority: pki.Authority, *extensions: x509.ExtensionType) -> x509.Certificate:
    """A leaf with the CA's true signature and whatever extensions."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(authority.anchors.issuing.subject)
        .public_key(keys.generate().public_key())
        .serial_number(7)
        .not_valid_before(ca.NOW)
        .not_valid_after(ca.NOW + DAY)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    signer = keys.load(authority.folder / "ca" / "issuing.key", ca.PASSPHRASE)
    return builder.sign(signer, hashes.SHA256())


def extensions_of(leaf: x509.Certificate) -> dict[type, x509.ExtensionType]:
    return {type(one.value): one.value for one in leaf.extensions}


def test_no_certificate_is_refused(authority: pki.Authority) -> None:
    assert refusal(authority, b"") is Code.NO_CERTIFICATE


@pytest.mark.parametrize("garbage", [b"\x00" * 64, b"-----BEGIN CERTIFICATE-----\nAAAA", b"x"])
def test_garbage_is_refused(authority: pki.Authority, garbage: bytes) -> None:
    assert refusal(authority, garbage) is Code.MALFORMED


def test_a_truncated_certificate_is_refused(authority: pki.Authority) -> None:
    der = ca.certify(authority).leaf.public_bytes(Encoding.DER)
    assert refusal(authority, der[:-10]) is Code.MALFORMED


def test_a_certificate_of_another_ca_is_refused(authority: pki.Authority, tmp_path: Path) -> None:
    twin = ca.create(tmp_path / "twin")  # of the very same federation name
    assert refusal(authority, ca.certify(twin).leaf) is Code.FOREIGN_CERTIFICATE


def test_a_certificate_that_the_library_warns_of_is_refused_where_warnings_are_errors(
    authority: pki.Authority,
) -> None:
    """As they are in these tests."""
    leaf = ca.certify(authority).leaf
    number = leaf.serial_number
    serial = number.to_bytes(number.bit_length() // 8 + 1, "big")
    der = leaf.public_bytes(Encoding.DER)
    assert refusal(authority, der.replace(serial, b"\x80" + serial[1:], 1)) is Code.MALFORMED


def test_a_self_signed_certificate_is_refused(authority: pki.Authority) -> None:
    key = keys.generate()
    name = authority.anchors.issuing.subject
    leaf = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(ca.NOW)
        .not_valid_after(ca.NOW + DAY)
        .sign(key, hashes.SHA256())
    )
    assert refusal(authority, leaf) is Code.FOREIGN_CERTIFICATE


def test_a_certificate_with_a_flipped_bit_is_refused(authority: pki.Authority) -> None:
    der = bytearray(ca.certify(authority).leaf.public_bytes(Encoding.DER))
    at = der.index(b"alice")
    der[at : at + 5] = b"mlice"
    assert refusal(authority, bytes(der)) is Code.FOREIGN_CERTIFICATE


def test_a_members_certificate_cannot_issue_another(authority: pki.Authority) -> None:
    alice = ca.certify(authority)
    leaf = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(alice.leaf.subject)
        .public_key(keys.generate().public_key())
        .serial_number(7)
        .not_valid_before(ca.NOW)
        .not_valid_after(ca.NOW + DAY)
        .sign(alice.private_key, hashes.SHA256())
    )
    assert refusal(authority, leaf) is Code.FOREIGN_CERTIFICATE


def test_the_root_cannot_certify_members_past_the_issuing_ca(authority: pki.Authority) -> None:
    assert refusal(authority, authority.anchors.issuing) is Code.FOREIGN_CERTIFICATE
    assert refusal(authority, authority.anchors.root) is Code.FOREIGN_CERTIFICATE


def test_an_expired_certificate_is_refused(authority: pki.Authority) -> None:
    leaf = ca.certify(authority).leaf
    assert refusal(authority, leaf, after=8 * DAY) is Code.CERTIFICATE_EXPIRED


def test_a_certificate_of_the_future_is_refused(authority: pki.Authority) -> None:
    leaf = ca.certify(authority, now=ca.NOW + DAY).leaf
    assert refusal(authority, leaf) is Code.CERTIFICATE_NOT_YET_VALID


def test_nobody_is_admitted_under_an_expired_issuing_ca(authority: pki.Authority) -> None:
    leaf = ca.forge(
        authority,
        Identity(federation="digits", role="collaborator", name="alice"),
        now=ca.NOW + 364 * DAY,
    ).leaf
    assert refusal(authority, leaf, after=366 * DAY) is Code.CERTIFICATE_EXPIRED


def test_a_revoked_certificate_is_refused_from_the_next_look_on(authority: pki.Authority) -> None:
    leaf = ca.certify(authority).leaf
    assert admitted(authority, leaf)
    authority.revoke("alice", ca.NOW)
    assert refusal(authority, leaf) is Code.CERTIFICATE_REVOKED


def test_a_new_certificate_after_a_revocation_is_good(authority: pki.Authority) -> None:
    ca.certify(authority)
    authority.revoke("alice", ca.NOW)
    assert admitted(authority, ca.certify(authority).leaf)


def test_without_a_revocation_list_nobody_is_admitted(authority: pki.Authority) -> None:
    leaf = ca.certify(authority).leaf
    authority.anchors.crl.unlink()
    assert refusal(authority, leaf) is Code.REVOCATION_UNKNOWN


@pytest.mark.parametrize("garbage", [b"", b"garbage", os.urandom(500)])
def test_with_a_damaged_revocation_list_nobody_is_admitted(
    authority: pki.Authority, garbage: bytes
) -> None:
    leaf = ca.certify(authority).leaf
    authority.anchors.crl.write_bytes(garbage)
    assert refusal(authority, leaf) is Code.REVOCATION_UNKNOWN


def test_with_another_cas_revocation_list_nobody_is_admitted(
    authority: pki.Authority, tmp_path: Path
) -> None:
    leaf = ca.certify(authority).leaf
    authority.anchors.crl.write_bytes(ca.create(tmp_path / "twin").crl(ca.NOW))
    assert refusal(authority, leaf) is Code.REVOCATION_UNKNOWN


def test_with_a_stale_revocation_list_nobody_is_admitted(authority: pki.Authority) -> None:
    leaf = ca.certify(authority, life=60 * DAY).leaf
    assert refusal(authority, leaf, after=31 * DAY) is Code.REVOCATION_UNKNOWN
    authority.crl(ca.NOW + 31 * DAY)
    assert admitted(authority, leaf, after=31 * DAY)


def test_a_collaborators_certificate_cannot_serve(authority: pki.Authority) -> None:
    assert refusal(authority, ca.certify(authority).leaf, "aggregator") is Code.WRONG_ROLE


@pytest.mark.parametrize(("role", "name"), [("aggregator", "alice"), ("authority", "authority")])
def test_a_servers_certificate_cannot_take_part(
    authority: pki.Authority, role: Role, name: str
) -> None:
    assert refusal(authority, ca.certify(authority, role, name).leaf) is Code.WRONG_ROLE


def test_the_enrolment_service_cannot_pose_as_the_aggregator(authority: pki.Authority) -> None:
    leaf = ca.certify(authority, "authority", "authority").leaf
    assert refusal(authority, leaf, "aggregator") is Code.WRONG_ROLE


@pytest.mark.parametrize(
    "usage",
    [
        [ExtendedKeyUsageOID.SERVER_AUTH],
        [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH],
        [ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE],
        [],
    ],
)
def test_a_collaborator_with_other_usages_is_refused(
    authority: pki.Authority, usage: list[x509.ObjectIdentifier]
) -> None:
    parts = extensions_of(ca.certify(authority).leaf)
    del parts[x509.ExtendedKeyUsage]
    added = [x509.ExtendedKeyUsage(usage)] if usage else []
    assert refusal(authority, crafted(authority, *parts.values(), *added)) is Code.WRONG_ROLE


@pytest.mark.parametrize(
    "kind", [x509.BasicConstraints, x509.KeyUsage, x509.SubjectAlternativeName]
)
def test_a_certificate_that_lacks_a_part_is_refused(
    authority: pki.Authority, kind: type[x509.ExtensionType]
) -> None:
    parts = extensions_of(ca.certify(authority).leaf)
    assert admitted(authority, crafted(authority, *parts.values()))
    del parts[kind]
    assert refusal(authority, crafted(authority, *parts.values())) is Code.WRONG_ROLE


def test_a_ca_certificate_below_the_issuing_ca_is_no_member(authority: pki.Authority) -> None:
    parts = extensions_of(ca.certify(authority).leaf)
    parts[x509.BasicConstraints] = x509.BasicConstraints(ca=True, path_length=None)
    assert refusal(authority, crafted(authority, *parts.values())) is Code.WRONG_ROLE


def test_a_certificate_with_two_identities_is_refused(authority: pki.Authority) -> None:
    parts = extensions_of(ca.certify(authority).leaf)
    uris = [f"fedclave://digits/collaborator/{name}" for name in ("mallory", "alice")]
    parts[x509.SubjectAlternativeName] = x509.SubjectAlternativeName(
        map(x509.UniformResourceIdentifier, uris)
    )
    assert refusal(authority, crafted(authority, *parts.values())) is Code.WRONG_ROLE


def test_a_name_that_is_no_member_is_refused(authority: pki.Authority) -> None:
    assert refusal(authority, ca.certify(authority, name="mallory").leaf) is Code.UNKNOWN_MEMBER


def test_a_subject_that_claims_a_members_name_is_not_believed(authority: pki.Authority) -> None:
    leaf = ca.certify(authority, name="alice2").leaf
    assert refusal(authority, leaf) is Code.UNKNOWN_MEMBER  # only the SAN counts, and wholly


def test_an_identity_of_another_federation_is_refused(authority: pki.Authority) -> None:
    other = Identity(federation="letters", role="collaborator", name="alice")
    assert refusal(authority, ca.forge(authority, other).leaf) is Code.WRONG_FEDERATION


def test_a_certificate_on_a_foreign_curve_is_refused_without_a_crash(
    authority: pki.Authority,
) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    leaf = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(authority.anchors.issuing.subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(ca.NOW)
        .not_valid_after(ca.NOW + DAY)
        .sign(key, hashes.SHA384())
    )
    assert refusal(authority, leaf) is Code.FOREIGN_CERTIFICATE
