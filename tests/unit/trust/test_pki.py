# SPDX-License-Identifier: Apache-2.0
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store
from tests.support import ca

from fedclave.errors import Code, Refused, UserError
from fedclave.trust import crl, keys, pki, profiles
from fedclave.trust.gate import Anchors, admit
from fedclave.trust.names import Identity, Role

DAY = timedelta(days=1)


def usages(leaf: x509.Certificate) -> tuple[x509.KeyUsage, x509.ExtendedKeyUsage]:
    extensions = leaf.extensions
    return (
        extensions.get_extension_for_class(x509.KeyUsage).value,
        extensions.get_extension_for_class(x509.ExtendedKeyUsage).value,
    )


def sans(leaf: x509.Certificate) -> x509.SubjectAlternativeName:
    return leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value


def test_the_chain_is_root_issuing_leaf_within_limits(tmp_path: Path) -> None:
    authority = ca.create(tmp_path)
    root, issuing = authority.anchors.root, authority.anchors.issuing
    assert profiles.is_authority(root, 1)
    assert profiles.is_authority(issuing, 0)
    assert root.not_valid_after_utc - ca.NOW == timedelta(days=3652)
    assert issuing.not_valid_after_utc - ca.NOW == timedelta(days=365)
    issuing.verify_directly_issued_by(root)
    ca.certify(authority).leaf.verify_directly_issued_by(issuing)


def test_a_second_implementation_verifies_the_chain(tmp_path: Path) -> None:
    authority = ca.create(tmp_path)
    policy = PolicyBuilder().store(Store([authority.anchors.root])).time(ca.NOW)
    party = policy.build_client_verifier().verify(
        ca.certify(authority).leaf, [authority.anchors.issuing]
    )
    assert party.chain[-1] == authority.anchors.root
    server = x509.DNSName("aggregator.fedclave.internal")
    agg = ca.certify(authority, "aggregator", "agg").leaf
    assert policy.build_server_verifier(server).verify(agg, [authority.anchors.issuing])


@pytest.mark.parametrize(
    ("role", "name", "usage"),
    [
        ("collaborator", "alice", ExtendedKeyUsageOID.CLIENT_AUTH),
        ("aggregator", "agg", ExtendedKeyUsageOID.SERVER_AUTH),
        ("authority", "authority", ExtendedKeyUsageOID.SERVER_AUTH),
    ],
)
def test_a_leaf_has_the_usages_of_its_role_alone(
    tmp_path: Path, role: str, name: str, usage: x509.ObjectIdentifier
) -> None:
    leaf = ca.certify(ca.create(tmp_path), role, name).leaf  # type: ignore[arg-type]
    key_usage, extended = usages(leaf)
    assert list(extended) == [usage]
    assert key_usage.digital_signature
    assert not key_usage.key_cert_sign
    assert not key_usage.crl_sign


def test_a_leaf_lives_seven_days_and_is_backdated_for_slow_clocks(tmp_path: Path) -> None:
    leaf = ca.certify(ca.create(tmp_path)).leaf
    assert leaf.not_valid_before_utc == ca.NOW - timedelta(minutes=5)
    assert leaf.not_valid_after_utc == ca.NOW + 7 * DAY


def test_a_server_has_its_hosts_and_its_fixed_name(tmp_path: Path) -> None:
    names = sans(ca.certify(ca.create(tmp_path), "aggregator", "agg").leaf)
    assert names.get_values_for_type(x509.DNSName) == ["aggregator.fedclave.internal", "localhost"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [
        "fedclave://digits/aggregator/agg"
    ]


def test_a_host_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match="not a host name"):
        pki.make_request(
            keys.generate(), federation="digits", role="aggregator", name="agg", hosts=["bücher.de"]
        )


def test_a_new_ca_has_an_empty_list_and_encrypted_keys(tmp_path: Path) -> None:
    authority = ca.create(tmp_path)
    cert = tmp_path / "cert"
    assert len(crl.parse((cert / "crl.pem").read_bytes(), authority.anchors.issuing)) == 0
    for part in ("root", "issuing"):
        assert b"ENCRYPTED" in (cert / "ca" / f"{part}.key").read_bytes()
    assert Anchors.read(cert) == authority.anchors


def test_a_ca_is_not_made_over_another(tmp_path: Path) -> None:
    ca.create(tmp_path)
    with pytest.raises(UserError, match="holds a CA already"):
        ca.create(tmp_path)


def test_a_ca_is_made_again_after_a_crash_in_its_making(tmp_path: Path) -> None:
    ca.create(tmp_path)
    (tmp_path / "cert" / "ca" / "issuing.pem").unlink()
    assert ca.certify(ca.create(tmp_path)).leaf


def test_a_ca_is_not_made_in_another_federations_folder(tmp_path: Path) -> None:
    (tmp_path / "cert").mkdir()
    (tmp_path / "cert" / "chain.pem").write_bytes(ca.create(tmp_path / "other").anchors.chain)
    with pytest.raises(UserError, match="in a new workspace"):
        ca.create(tmp_path)


def test_a_ca_opens_with_its_passphrase_only(tmp_path: Path) -> None:
    ca.create(tmp_path)
    assert pki.Authority.open(tmp_path / "cert", ca.PASSPHRASE).federation == "digits"
    with pytest.raises(UserError, match="does not open with this passphrase"):
        pki.Authority.open(tmp_path / "cert", b"wrong")


def test_opening_where_no_ca_lies_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="fx ca init"):
        pki.Authority.open(tmp_path, ca.PASSPHRASE)


def test_a_ca_with_another_issuing_key_does_not_open(tmp_path: Path) -> None:
    ca.create(tmp_path)
    path = tmp_path / "cert" / "ca" / "issuing.key"
    keys.save(path, keys.generate(), ca.PASSPHRASE, replace=True)
    with pytest.raises(UserError, match="is not the key of"):
        pki.Authority.open(tmp_path / "cert", ca.PASSPHRASE)


def test_every_certificate_and_revocation_is_recorded(tmp_path: Path) -> None:
    authority = ca.create(tmp_path)
    alice, bob = (ca.certify(authority, name=name).leaf for name in ("alice", "bob"))
    authority.revoke("alice", ca.NOW)
    again = pki.Authority.open(tmp_path / "cert", ca.PASSPHRASE)
    assert again.issued() == [(alice, ca.NOW), (bob, None)]


def test_a_record_with_a_torn_line_is_read_past_it(tmp_path: Path) -> None:
    authority = ca.create(tmp_path)
    alice = ca.certify(authority).leaf
    with (tmp_path / "cert" / "ca" / "issued.jsonl").open("ab") as file:
        file.write(b'{"event":"issu')
    bob = ca.certify(authority, name="bob").leaf
    assert [leaf for leaf, _ in authority.issued()] == [alice, bob]


def test_a_renewal_certifies_the_same_key_again(tmp_path: Path) -> None:
    authority = ca.create(tmp_path)
    first = ca.certify(authority, "aggregator", "agg").leaf
    second = authority.renew("agg", ca.NOW + 5 * DAY)
    assert second.public_key() == first.public_key()
    assert sans(second) == sans(first)
    assert second.not_valid_after_utc == ca.NOW + 12 * DAY


def test_an_unknown_or_revoked_name_is_not_renewed(tmp_path: Path) -> None:
    authority = ca.create(tmp_path)
    with pytest.raises(UserError, match="never certified"):
        authority.renew("alice", ca.NOW)
    ca.certify(authority)
    authority.revoke("alice", ca.NOW)
    with pytest.raises(UserError, match="was revoked"):
        authority.renew("alice", ca.NOW)


def test_revoking_covers_every_valid_certificate_of_the_name(tmp_path: Path) -> None:
    authority = ca.create(tmp_path)
    leafs = [ca.certify(authority).leaf for _ in range(2)]
    bob = ca.certify(authority, name="bob").leaf
    assert authority.revoke("alice", ca.NOW) == 2
    signed = crl.parse(authority.anchors.crl.read_bytes(), authority.anchors.issuing)
    assert {entry.serial_number for entry in signed} == {leaf.serial_number for leaf in leafs}
    assert signed.get_revoked_certificate_by_serial_number(bob.serial_number) is None


def test_revoking_twice_signs_the_list_again(tmp_path: Path) -> None:
    authority = ca.create(tmp_path)
    ca.certify(authority)
    authority.revoke("alice", ca.NOW)
    authority.anchors.crl.unlink()
    assert authority.revoke("alice", ca.NOW) == 0
    assert len(crl.parse(authority.anchors.crl.read_bytes(), authority.anchors.issuing)) == 1


def test_revoking_a_name_without_certificates_is_the_users_mistake(tmp_path: Path) -> None:
    authority = ca.create(tmp_path)
    ca.certify(authority)
    with pytest.raises(UserError, match="'alcie' holds no valid certificate"):
        authority.revoke("alcie", ca.NOW)


def test_an_expired_certificate_leaves_the_list(tmp_path: Path) -> None:
    authority = ca.create(tmp_path)
    ca.certify(authority)
    authority.revoke("alice", ca.NOW)
    signed = crl.parse(authority.crl(ca.NOW + 8 * DAY), authority.anchors.issuing)
    assert len(signed) == 0


def test_lists_are_numbered_upwards(tmp_path: Path) -> None:
    authority = ca.create(tmp_path)
    numbers = [
        crl.number(crl.parse(authority.crl(ca.NOW), authority.anchors.issuing)) for _ in range(3)
    ]
    assert numbers == [2, 3, 4]


def test_a_recent_list_is_signed_once_a_day(tmp_path: Path) -> None:
    authority = ca.create(tmp_path)
    first = authority.recent_crl(ca.NOW)
    assert authority.recent_crl(ca.NOW + timedelta(hours=1)) == first
    assert authority.recent_crl(ca.NOW + 2 * DAY) != first


def test_a_damaged_list_is_not_signed_over(tmp_path: Path) -> None:
    authority = ca.create(tmp_path)
    authority.anchors.crl.write_bytes(b"garbage")
    with pytest.raises(UserError, match="is damaged"):
        authority.crl(ca.NOW)


def test_a_key_has_one_holder(tmp_path: Path) -> None:
    authority, key = ca.create(tmp_path), keys.generate()

    def issue(name: str, role: Role = "collaborator", now: datetime = ca.NOW) -> None:
        made = pki.make_request(key, federation="digits", role=role, name=name)
        authority.issue(made, role=role, name=name, now=now)

    issue("anna")
    others: dict[str, Role] = {"bernd": "collaborator", "agg": "aggregator"}
    for name, role in others.items():
        with pytest.raises(Refused, match="that of collaborator 'anna'") as refused:
            issue(name, role)
        assert refused.value.code is Code.BAD_REQUEST
        assert f"cert/{name}.key.next" in refused.value.message
    issue("anna")  # its own key again
    authority.renew("anna", ca.NOW)
    assert [Identity.of(one).name for one, _ in authority.issued()] == ["anna"] * 3
    issue("bernd", now=ca.NOW + 8 * DAY)  # those have expired
    authority.revoke("bernd", ca.NOW + 9 * DAY)
    issue("carla", now=ca.NOW + 9 * DAY)


def test_a_name_has_one_role(tmp_path: Path) -> None:
    authority = ca.create(tmp_path)
    ca.certify(authority, "aggregator", "agg")
    with pytest.raises(UserError, match="is the name of this federation's aggregator"):
        ca.certify(authority, "collaborator", "agg")


@pytest.mark.parametrize("name", ["aggregator", "authority", "chain", "crl"])
def test_a_collaborator_cannot_have_a_name_with_another_use(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="Choose another name"):
        ca.certify(ca.create(tmp_path), name=name)


def test_the_certificates_of_a_name_that_are_good_now(tmp_path: Path) -> None:
    authority = ca.create(tmp_path)
    ca.certify(authority, now=ca.NOW - 8 * DAY)
    ca.certify(authority, name="bob")
    alice = ca.certify(authority).leaf
    assert pki.valid(tmp_path / "cert", "alice", ca.NOW) == [alice]
    authority.revoke("alice", ca.NOW)
    assert pki.valid(tmp_path / "cert", "alice", ca.NOW) == []


def test_the_services_name_is_reserved(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="enrolment service"):
        ca.certify(ca.create(tmp_path), "collaborator", "authority")


def test_a_leaf_does_not_outlive_its_issuer(tmp_path: Path) -> None:
    authority = ca.create(tmp_path)
    late = ca.NOW + 362 * DAY
    leaf = ca.certify(authority, now=late).leaf
    assert leaf.not_valid_after_utc == authority.anchors.issuing.not_valid_after_utc
    with pytest.raises(UserError, match="prolong the CA"):
        ca.certify(authority, now=ca.NOW + 366 * DAY)


def test_recertifying_keeps_old_leafs_and_old_anchors_good(tmp_path: Path) -> None:
    authority = ca.create(tmp_path)
    old = authority.anchors
    late = ca.NOW + 362 * DAY
    leaf = ca.certify(authority, now=late).leaf
    authority.recertify(ca.PASSPHRASE, late)
    assert authority.anchors.issuing.not_valid_after_utc == late + 365 * DAY
    authority.crl(late)
    new_leaf = ca.certify(authority, now=late, name="bob").leaf
    for anchors in (old, authority.anchors):
        for one, name in ((leaf, "alice"), (new_leaf, "bob")):
            assert admit(one, anchors=anchors, role="collaborator", now=late, members={name})


def test_a_request_holds_the_identity_that_it_asks_for(tmp_path: Path) -> None:
    key = keys.generate()
    request = pki.make_request(key, federation="digits", role="collaborator", name="alice")
    assert request.is_signature_valid
    assert request.public_key() == key.public_key()
    assert Identity.of(request).uri == "fedclave://digits/collaborator/alice"
    assert isinstance(request.signature_algorithm_parameters, ec.ECDSA)
