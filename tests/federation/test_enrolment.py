# SPDX-License-Identifier: Apache-2.0
"""Joining and renewing over TLS on loopback, against the CA's real service."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from tests.support import ca
from tests.support.enrolment import NOW, Town

from fedclave.errors import Refused, Unavailable
from fedclave.transport.grpc.authority import serve_enrolment
from fedclave.transport.grpc.enrol import join, refresh, renew
from fedclave.trust import crl, keys, tokens
from fedclave.trust.credentials import Credentials
from fedclave.trust.gate import Anchors, admit
from fedclave.trust.names import Identity

DAY = timedelta(days=1)


@pytest.fixture
def town(tmp_path: Path) -> Town:
    return Town(tmp_path)


def test_a_party_joins_with_a_token(town: Town) -> None:
    credentials = town.run(lambda: join(town.invite(), town.party, now=NOW))
    assert Credentials.read(town.party, "alice") == credentials
    anchors = Anchors.read(town.party)
    assert anchors.root == town.authority.anchors.root
    member = admit(
        credentials.leaf, anchors=anchors, role="collaborator", now=NOW, members={"alice"}
    )
    assert member.federation == "digits"
    assert town.joined == [Identity(federation="digits", role="collaborator", name="alice")]


def test_the_key_is_the_partys_own_and_private(town: Town) -> None:
    town.run(lambda: join(town.invite(), town.party, now=NOW))
    assert sorted(path.name for path in town.party.iterdir()) == [
        "alice.key",
        "alice.pem",
        "chain.pem",
        "crl.pem",
    ]
    assert (town.party / "alice.key").stat().st_mode & 0o777 == 0o600
    assert town.party.stat().st_mode & 0o777 == 0o700
    (leaf, _) = town.authority.issued()[-1]
    assert leaf.public_key() == keys.load(town.party / "alice.key").public_key()


def test_a_server_joins_with_the_hosts_where_it_listens(town: Town) -> None:
    async def act() -> Credentials:
        token = town.invite("agg", "aggregator")
        return await join(token, town.party, now=NOW, hosts=("agg.example.org", "10.0.0.7"))

    names = town.run(act).leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "agg.example.org" in names.get_values_for_type(x509.DNSName)
    assert "10.0.0.7" in map(str, names.get_values_for_type(x509.IPAddress))


def test_a_lost_answer_does_not_cost_the_token(town: Town) -> None:
    async def act() -> None:
        token = town.invite()
        first = await join(token, town.party, now=NOW)
        # As if the answer had not come: no certificate, and the key still waits for one.
        (town.party / "alice.pem").unlink()
        (town.party / "alice.key").rename(town.party / "alice.key.next")
        again = await join(token, town.party, now=NOW)
        assert again.key == first.key

    town.run(act)
    assert Credentials.read(town.party, "alice")


def test_several_parties_of_one_federation_share_a_folder(town: Town) -> None:
    async def act() -> None:
        for name in ("alice", "bob"):
            await join(town.invite(name), town.party, now=NOW)

    town.run(act)
    assert [identity.name for identity in town.joined] == ["alice", "bob"]
    assert Credentials.read(town.party, "alice") != Credentials.read(town.party, "bob")


def test_a_renewal_replaces_key_and_certificate(town: Town) -> None:
    async def act() -> tuple[Credentials, Credentials]:
        first = await join(town.invite(), town.party, now=NOW)
        town.now = NOW + timedelta(hours=2)
        return first, await renew(town.address, town.party, "alice", now=town.now)

    first, second = town.run(act)
    assert second.leaf.public_key() != first.leaf.public_key()
    assert second.leaf.not_valid_after_utc == first.leaf.not_valid_after_utc + timedelta(hours=2)
    assert Identity.of(second.leaf) == Identity.of(first.leaf)
    assert Credentials.read(town.party, "alice") == second


def test_a_renewal_keeps_a_servers_hosts(town: Town) -> None:
    async def act() -> tuple[Credentials, Credentials]:
        token = town.invite("agg", "aggregator")
        first = await join(token, town.party, now=NOW, hosts=("agg.example.org",))
        return first, await renew(town.address, town.party, "agg", now=NOW)

    kind = x509.SubjectAlternativeName
    first, second = (one.leaf.extensions.get_extension_for_class(kind) for one in town.run(act))
    assert first == second


def test_a_renewal_brings_the_present_revocation_list(town: Town) -> None:
    async def act() -> None:
        await join(town.invite("bob"), town.party, now=NOW)
        await join(town.invite(), town.party, now=NOW)
        town.authority.revoke("bob", NOW)
        await renew(town.address, town.party, "alice", now=NOW)

    town.run(act)
    anchors = Anchors.read(town.party)
    listed = crl.parse(anchors.crl.read_bytes(), anchors.issuing)
    bob = Credentials.read(town.party, "bob").leaf
    assert [entry.serial_number for entry in listed] == [bob.serial_number]


def test_a_renewal_brings_a_prolonged_chain(town: Town) -> None:
    async def act() -> None:
        await join(town.invite(), town.party, now=NOW)
        town.authority.recertify(ca.PASSPHRASE, NOW)
        await renew(town.address, town.party, "alice", now=NOW)

    town.run(act)
    assert Anchors.read(town.party).issuing == town.authority.anchors.issuing


def test_refreshing_gets_the_present_list(town: Town) -> None:
    async def act() -> Anchors:
        await join(town.invite("bob"), town.party, now=NOW)
        town.authority.revoke("bob", NOW)
        return await refresh(town.address, town.party, now=NOW)

    anchors = town.run(act)
    bob = Credentials.read(town.party, "bob").leaf
    with pytest.raises(Refused, match="certificate-revoked"):
        admit(bob, anchors=anchors, role="collaborator", now=NOW, members={"bob"})


def test_the_service_renews_its_own_certificate(town: Town) -> None:
    async def act() -> None:
        town.now = NOW
        await join(town.invite(), town.party, now=NOW)
        await renew(town.address, town.party, "alice", now=NOW)

    town.now = NOW - 6 * DAY  # when it starts: its certificate has a day left at the first call
    town.run(act)
    issued = [Identity.of(leaf).role for leaf, _ in town.authority.issued()]
    assert issued.count("authority") == 2


def test_a_port_in_use_is_unavailable(town: Town) -> None:
    async def act() -> None:
        await serve_enrolment(town.authority, town.register, town.address, clock=lambda: NOW)

    with pytest.raises(Unavailable, match="cannot listen on"):
        town.run(act)


def test_joining_where_nobody_listens_is_unavailable_and_leaves_the_token_good(
    town: Town,
) -> None:
    async def invite() -> tokens.Token:
        return town.invite()

    token = town.run(invite)
    with pytest.raises(Unavailable):
        asyncio.run(join(token, town.party, now=NOW))
    assert len(town.register.pending(NOW)) == 1
