# SPDX-License-Identifier: Apache-2.0
"""Attacks on the first contact and on renewal: nothing is issued, and no secret leaves."""

import asyncio
import base64
import shutil
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from tests.support import ca, tls
from tests.support.enrolment import NOW, Town

from fedclave.errors import Code, Refused, UserError
from fedclave.transport.grpc import enrol, frames
from fedclave.transport.grpc.channel import pinned, read_leaf
from fedclave.transport.grpc.enrol import SERVICE, join, renew, renewal_message
from fedclave.transport.grpc.proto import enrol_pb2 as pb
from fedclave.trust import keys, pki
from fedclave.trust.adopt import adopt, root_sha256
from fedclave.trust.credentials import Credentials
from fedclave.trust.gate import Anchors
from fedclave.trust.names import Identity

DAY = timedelta(days=1)


@pytest.fixture
def town(tmp_path: Path) -> Town:
    return Town(tmp_path)


def parties(town: Town) -> list[str]:
    return [
        identity.name
        for leaf, _ in town.authority.issued()
        if (identity := Identity.of(leaf)).role != "authority"
    ]


def refusal(town: Town, act: Callable[[], Awaitable[object]]) -> Refused:
    with pytest.raises(Refused) as refused:
        town.run(act)
    return refused.value


async def call(address: str, name: str, body: bytes) -> bytes:
    """What a client without manners gets."""
    leaf = await read_leaf(address, role="authority", judge=lambda leaf: None)
    async with pinned(address, leaf, role="authority") as channel:
        try:
            return bytes(await channel.unary_unary(f"/{SERVICE}/{name}")(body, timeout=10))
        except grpc.aio.AioRpcError as error:
            raise frames.error(error, address) from error


# Somebody in the middle


def test_another_ca_at_the_address_gets_no_secret(town: Town, tmp_path: Path) -> None:
    """The man in the middle has a whole CA of the same federation name, and a service."""
    mallory = Town(tmp_path / "mallory")
    heard: list[bytes] = []

    async def act() -> None:
        async with mallory.open():
            token = replace(town.invite(), authority=mallory.address)
            mallory.register.redeem = (  # type: ignore[method-assign]
                lambda secret, *rest: heard.append(secret)  # type: ignore[assignment,misc]
            )
            await join(token, town.party, now=NOW)

    refused = refusal(town, act)
    assert refused.code is Code.FOREIGN_CERTIFICATE
    assert "Nothing was sent to it" in refused.message
    assert heard == []
    assert not town.party.exists()
    assert len(town.register.pending(NOW)) == 1


def test_one_who_relays_the_true_roots_gets_no_secret(town: Town, tmp_path: Path) -> None:
    """The man in the middle shows his own certificate and hands on the CA's true answers."""
    mallory = ca.certify(ca.create(tmp_path / "mallory", now=NOW), "authority", "authority", NOW)
    calls: list[str] = []

    async def attempt() -> None:
        async with town.open(), relaying(town, mallory, calls) as address:
            await join(replace(town.invite(), authority=address), town.party, now=NOW)

    with pytest.raises(Refused) as refused:
        asyncio.run(attempt())
    assert refused.value.code is Code.FOREIGN_CERTIFICATE
    assert calls == ["Roots"]


@pytest.mark.parametrize(("role", "name"), [("collaborator", "mallory"), ("aggregator", "agg")])
def test_a_member_cannot_pose_as_the_enrolment_service(town: Town, role: str, name: str) -> None:
    mallory = ca.certify(town.authority, role, name, NOW)  # type: ignore[arg-type]
    calls: list[str] = []

    async def attempt() -> None:
        async with town.open(), relaying(town, mallory, calls) as address:
            await join(replace(town.invite(), authority=address), town.party, now=NOW)

    with pytest.raises(Refused) as refused:
        asyncio.run(attempt())
    assert refused.value.code is Code.WRONG_ROLE
    assert calls == []


def relaying(town: Town, shown: Credentials, calls: list[str]) -> tls.Serving:
    """A server that shows a certificate of its own and hands every call on to the true service."""

    async def relay(name: str, body: bytes) -> bytes:
        calls.append(name)
        return await call(town.address, name, body)

    return tls.serving(shown, SERVICE, ("Roots", "Join", "Renew"), relay)


# Tokens on the wire


def test_a_token_that_was_used_is_refused(town: Town, tmp_path: Path) -> None:
    async def act() -> None:
        token = town.invite()
        await join(token, town.party, now=NOW)
        await join(token, tmp_path / "thief" / "cert", now=NOW)

    assert refusal(town, act).code is Code.TOKEN_USED
    assert parties(town) == ["alice"]


def test_a_guessed_secret_is_refused(town: Town) -> None:
    async def act() -> None:
        await join(replace(town.invite(), secret="0" * 32), town.party, now=NOW)

    assert refusal(town, act).code is Code.TOKEN_UNKNOWN
    assert parties(town) == []
    assert town.joined == []


def test_an_expired_token_is_refused_by_the_service(town: Town) -> None:
    async def act() -> None:
        token = town.invite()
        town.now = NOW + timedelta(hours=25)
        await join(token, town.party, now=NOW)

    assert refusal(town, act).code is Code.TOKEN_EXPIRED


def test_a_token_does_not_make_its_holder_somebody_else(town: Town) -> None:
    async def act() -> None:
        await join(replace(town.invite(), name="bob"), town.party, now=NOW)

    assert refusal(town, act).code is Code.BAD_REQUEST
    assert parties(town) == []
    assert len(town.register.pending(NOW)) == 1


def test_two_parties_cannot_join_with_one_key(town: Town) -> None:
    """The token stays good for a key of the party's own."""

    async def act() -> None:
        await join(town.invite("anna"), town.party, now=NOW)
        token = town.invite("bernd")
        own = town.party / "bernd.key.next"
        shutil.copy(town.party / "anna.key", own)
        with pytest.raises(Refused, match="that of collaborator 'anna'") as refused:
            await join(token, town.party, now=NOW)
        assert refused.value.code is Code.BAD_REQUEST
        assert parties(town) == ["anna"]
        own.unlink()
        await join(token, town.party, now=NOW)

    town.run(act)
    assert parties(town) == [one.name for one in town.joined] == ["anna", "bernd"]


def test_a_renewal_with_the_key_of_another_party_is_refused(town: Town) -> None:
    async def act() -> None:
        for name in ("anna", "bernd"):
            await join(town.invite(name), town.party, now=NOW)
        stolen = town.party / "bernd.key.next"
        shutil.copy(town.party / "anna.key", stolen)
        with pytest.raises(Refused, match="that of collaborator 'anna'"):
            await renew(town.address, town.party, "bernd", now=NOW)
        stolen.unlink()
        await renew(town.address, town.party, "bernd", now=NOW)

    town.run(act)
    assert parties(town) == ["anna", "bernd", "bernd"]


def test_a_bad_request_is_refused_and_leaves_the_token_good(town: Town) -> None:
    async def act() -> None:
        token = town.invite()
        request = pb.JoinRequest(secret=token.secret, request=b"garbage")
        await call(town.address, "Join", request.SerializeToString())

    assert refusal(town, act).code is Code.BAD_REQUEST
    assert len(town.register.pending(NOW)) == 1


# Renewal


async def forged_renewal(
    town: Town,
    held: Credentials,
    signer: ec.EllipticCurvePrivateKey,
    *,
    name: str = "alice",
    leaf: bytes | None = None,
) -> None:
    shown = await read_leaf(town.address, role="authority", judge=lambda leaf: None)
    request = pki.make_request(keys.generate(), federation="digits", role="collaborator", name=name)
    message = renewal_message(request, leaf or shown)
    wire = pb.RenewRequest(
        request=request.public_bytes(Encoding.PEM),
        certificate=held.leaf.public_bytes(Encoding.PEM),
        signature=signer.sign(message, ec.ECDSA(hashes.SHA256())),
    )
    await call(town.address, "Renew", wire.SerializeToString())


def test_a_renewal_needs_the_old_key(town: Town) -> None:
    alice = ca.certify(town.authority, now=NOW)
    act = lambda: forged_renewal(town, alice, keys.generate())  # noqa: E731
    assert refusal(town, act).code is Code.BAD_REQUEST
    assert parties(town) == ["alice"]


def test_a_renewal_signed_for_another_server_is_refused(town: Town) -> None:
    alice = ca.certify(town.authority, now=NOW)
    act = lambda: forged_renewal(town, alice, alice.private_key, leaf=b"another")  # noqa: E731
    assert refusal(town, act).code is Code.BAD_REQUEST


def test_a_renewal_under_another_name_is_refused(town: Town) -> None:
    alice = ca.certify(town.authority, now=NOW)
    act = lambda: forged_renewal(town, alice, alice.private_key, name="bob")  # noqa: E731
    assert refusal(town, act).code is Code.BAD_REQUEST
    assert parties(town) == ["alice"]


def test_a_revoked_certificate_is_not_renewed(town: Town) -> None:
    alice = ca.certify(town.authority, now=NOW)
    town.authority.revoke("alice", NOW)
    act = lambda: forged_renewal(town, alice, alice.private_key)  # noqa: E731
    assert refusal(town, act).code is Code.CERTIFICATE_REVOKED
    assert parties(town) == ["alice"]


def test_an_expired_certificate_is_not_renewed(town: Town) -> None:
    alice = ca.certify(town.authority, now=NOW - 9 * DAY)
    act = lambda: forged_renewal(town, alice, alice.private_key)  # noqa: E731
    assert refusal(town, act).code is Code.CERTIFICATE_EXPIRED


def test_a_foreign_certificate_is_not_renewed(town: Town, tmp_path: Path) -> None:
    alice = ca.certify(ca.create(tmp_path / "twin", now=NOW), now=NOW)
    act = lambda: forged_renewal(town, alice, alice.private_key)  # noqa: E731
    assert refusal(town, act).code is Code.FOREIGN_CERTIFICATE


@pytest.mark.parametrize("what", ["garbage", "version 33", "unknown key"])
def test_a_wrong_certificate_in_a_renewal_is_refused(town: Town, what: str) -> None:
    shown = base64.b64decode(
        b"".join(ca.certify(town.authority, now=NOW).chain.split(b"-----")[2].split())
    )
    odd = {
        "garbage": b"garbage",
        "version 33": shown.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x20", 1),
        "unknown key": shown.replace(
            b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01", b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x09", 1
        ),
    }[what]
    certificate = ssl.DER_cert_to_PEM_cert(odd).encode() if what != "garbage" else odd

    async def act() -> None:
        request = pki.make_request(
            keys.generate(), federation="digits", role="collaborator", name="alice"
        )
        wire = pb.RenewRequest(
            request=request.public_bytes(Encoding.PEM), certificate=certificate, signature=b""
        )
        await call(town.address, "Renew", wire.SerializeToString())

    assert refusal(town, act).code is Code.MALFORMED


def test_a_failed_renewal_leaves_the_old_certificate_in_use(town: Town) -> None:
    async def act() -> None:
        await join(town.invite(), town.party, now=NOW)
        town.authority.revoke("alice", NOW)
        await renew(town.address, town.party, "alice", now=NOW)

    refused = refusal(town, act)
    assert refused.code is Code.CERTIFICATE_REVOKED
    assert Credentials.read(town.party, "alice").leaf == town.authority.issued()[-1][0]


# Limits and wrong clocks


@pytest.mark.parametrize("name", ["Join", "Renew"])
def test_garbage_on_the_wire_is_refused(town: Town, name: str) -> None:
    refused = refusal(town, lambda: call(town.address, name, b"\xff" * 100))
    assert refused.code is Code.MALFORMED


def test_a_message_beyond_the_limit_is_refused(town: Town) -> None:
    refused = refusal(town, lambda: call(town.address, "Join", b"\x00" * (enrol.MAX_MESSAGE + 1)))
    assert refused.code is Code.TOO_LARGE


def test_a_party_with_a_slow_clock_is_told_so(town: Town) -> None:
    act = lambda: join(town.invite(), town.party, now=NOW - 2 * DAY)  # noqa: E731
    refused = refusal(town, act)
    assert refused.code is Code.CERTIFICATE_NOT_YET_VALID
    assert "Check both clocks" in refused.message


def test_the_service_of_another_federation_does_not_touch_the_folder(
    town: Town, tmp_path: Path
) -> None:
    other = Town(tmp_path / "other")

    async def act() -> None:
        await join(town.invite(), town.party, now=NOW)
        async with other.open():
            await join(other.invite("bob"), town.party, now=NOW)

    with pytest.raises(UserError, match="holds the certificates of another CA"):
        town.run(act)
    assert Anchors.read(town.party).root == town.authority.anchors.root


# What a service sends


def test_an_old_revocation_list_does_not_replace_a_newer_one(town: Town, tmp_path: Path) -> None:
    chain, root = town.authority.anchors.chain, root_sha256(town.authority.anchors)
    old = town.authority.crl(NOW)
    alice = ca.certify(town.authority, now=NOW)
    town.authority.revoke("alice", NOW)
    new = town.authority.crl(NOW)
    adopt(town.party, chain, new, root=root)
    adopt(town.party, chain, old, root=root)
    assert (town.party / "crl.pem").read_bytes() == new
    assert alice


def test_an_old_chain_does_not_replace_a_newer_one(town: Town) -> None:
    old, root = town.authority.anchors.chain, root_sha256(town.authority.anchors)
    town.authority.recertify(ca.PASSPHRASE, NOW)
    crl = town.authority.crl(NOW)
    for chain in (town.authority.anchors.chain, old):
        adopt(town.party, chain, crl, root=root)
    assert Anchors.read(town.party).issuing == town.authority.anchors.issuing


@pytest.mark.parametrize("garbage", [b"", b"garbage"])
def test_a_damaged_chain_or_list_is_not_taken(town: Town, garbage: bytes) -> None:
    chain, root = town.authority.anchors.chain, root_sha256(town.authority.anchors)
    with pytest.raises(Refused) as refused:
        adopt(town.party, garbage, town.authority.crl(NOW), root=root)
    assert refused.value.code is Code.MALFORMED
    with pytest.raises(Refused) as refused:
        adopt(town.party, chain, garbage, root=root)
    assert refused.value.code is Code.REVOCATION_UNKNOWN
    assert not town.party.exists()
