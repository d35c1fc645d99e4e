# SPDX-License-Identifier: Apache-2.0
"""Servers and clients with bad certificates, on a real port: each refused, by its right name."""

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from tests.support import ca, tls

from fedclave.errors import Code, Refused, Unavailable
from fedclave.transport.grpc.channel import open_channel, pinned, read_leaf
from fedclave.trust import keys, pki
from fedclave.trust.credentials import Credentials
from fedclave.trust.names import Identity

# BoringSSL and OpenSSL look at the machine's own clock.
NOW = datetime.now(UTC)
LONG_AGO = NOW - timedelta(days=100)
SOON = NOW + timedelta(days=2)


@pytest.fixture
def authority(tmp_path: Path) -> pki.Authority:
    return ca.create(tmp_path, now=NOW)


async def dial(authority: pki.Authority, alice: Credentials, address: str) -> bytes:
    opened = await open_channel(
        address, identity=alice, anchors=authority.anchors, role="aggregator", now=NOW
    )
    return await tls.echoed(opened.channel)


def refusal(
    authority: pki.Authority, server: Credentials, alice: Credentials | None = None
) -> Refused:
    async def attempt() -> None:
        async with tls.echo_server(server, authority.anchors.chain) as address:
            await dial(authority, alice or ca.certify(authority, now=NOW), address)

    with pytest.raises(Refused) as refused:
        asyncio.run(attempt())
    return refused.value


def aggregator(authority: pki.Authority, now: datetime = NOW) -> Credentials:
    return ca.certify(authority, "aggregator", "agg", now=now)


def test_good_certificates_on_both_sides_make_a_channel(authority: pki.Authority) -> None:
    async def attempt() -> bytes:
        server = aggregator(authority)
        async with tls.echo_server(server, authority.anchors.chain) as address:
            return await dial(authority, ca.certify(authority, now=NOW), address)

    assert asyncio.run(attempt()) == b"hello"


def test_a_server_of_another_ca_is_refused(authority: pki.Authority, tmp_path: Path) -> None:
    twin = ca.create(tmp_path / "twin", now=NOW)
    assert refusal(authority, aggregator(twin)).code is Code.FOREIGN_CERTIFICATE


def test_an_expired_server_is_refused(authority: pki.Authority) -> None:
    server = ca.forge(
        authority, Identity(federation="digits", role="aggregator", name="agg"), now=LONG_AGO
    )
    assert refusal(authority, server).code is Code.CERTIFICATE_EXPIRED


def test_a_server_of_the_future_is_refused(authority: pki.Authority) -> None:
    code = refusal(authority, aggregator(authority, SOON)).code
    assert code is Code.CERTIFICATE_NOT_YET_VALID


def test_a_revoked_server_is_refused(authority: pki.Authority) -> None:
    server = aggregator(authority)
    authority.revoke("agg", NOW)
    assert refusal(authority, server).code is Code.CERTIFICATE_REVOKED


def test_a_collaborator_that_serves_is_refused(authority: pki.Authority) -> None:
    server = ca.certify(authority, name="mallory", now=NOW)
    assert refusal(authority, server).code is Code.WRONG_ROLE


def test_the_enrolment_service_that_poses_as_the_aggregator_is_refused(
    authority: pki.Authority,
) -> None:
    server = ca.certify(authority, "authority", "authority", now=NOW)
    assert refusal(authority, server).code is Code.WRONG_ROLE


def test_a_server_of_another_federation_is_refused(authority: pki.Authority) -> None:
    other = Identity(federation="letters", role="aggregator", name="agg")
    assert refusal(authority, ca.forge(authority, other, NOW)).code is Code.WRONG_FEDERATION


def test_our_certificate_of_another_ca_ends_with_its_name(
    authority: pki.Authority, tmp_path: Path
) -> None:
    alice = ca.certify(ca.create(tmp_path / "twin", now=NOW), now=NOW)
    refused = refusal(authority, aggregator(authority), alice)
    assert refused.code is Code.FOREIGN_CERTIFICATE
    assert "the server refused our certificate" in refused.message


def test_our_expired_certificate_ends_with_its_name(authority: pki.Authority) -> None:
    identity = Identity(federation="digits", role="collaborator", name="alice")
    alice = ca.forge(authority, identity, now=LONG_AGO)
    refused = refusal(authority, aggregator(authority), alice)
    assert refused.code is Code.CERTIFICATE_EXPIRED


def test_our_certificate_of_the_future_ends_with_its_name(authority: pki.Authority) -> None:
    alice = ca.certify(authority, now=SOON)
    refused = refusal(authority, aggregator(authority), alice)
    assert refused.code is Code.CERTIFICATE_NOT_YET_VALID


def test_dialling_with_a_servers_certificate_ends_with_its_name(authority: pki.Authority) -> None:
    server = aggregator(authority)
    assert refusal(authority, server, server).code is Code.WRONG_ROLE


@pytest.mark.parametrize(
    ("shown", "code"),
    [
        ("foreign", Code.FOREIGN_CERTIFICATE),
        ("expired", Code.CERTIFICATE_EXPIRED),
        ("server's", Code.WRONG_ROLE),
        ("none", Code.NO_CERTIFICATE),
    ],
)
def test_an_alert_about_our_certificate_is_a_refusal(
    authority: pki.Authority, tmp_path: Path, shown: str, code: Code
) -> None:
    """From a TLS server that sends alerts (RFC 8446 6.2), as one in front of ours may."""
    context = tls.context(aggregator(authority), tmp_path)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=authority.anchors.chain.decode())
    identity = Identity(federation="digits", role="collaborator", name="alice")
    alice = {
        "foreign": ca.certify(ca.create(tmp_path / "twin", now=NOW), now=NOW),
        "expired": ca.forge(authority, identity, now=LONG_AGO),
        "server's": aggregator(authority),
        "none": None,
    }[shown]
    with tls.alerting_server(context) as address, pytest.raises(Refused) as refused:
        asyncio.run(read_leaf(address, role="aggregator", judge=accept, identity=alice))
    assert refused.value.code is code
    assert "refused our certificate" in refused.value.message


def accept(leaf: bytes) -> None:
    """What judges nothing."""


def test_a_channel_reaches_the_pinned_certificate_or_nobody(authority: pki.Authority) -> None:
    """The server is swapped between the probe and the channel: same CA, same name, other key."""

    async def attempt() -> None:
        first, second = aggregator(authority), aggregator(authority)
        alice = ca.certify(authority, now=NOW)
        async with tls.echo_server(second, authority.anchors.chain) as address:
            leaf = keys.public_bytes(first.leaf)
            channel = pinned(address, leaf, role="aggregator", identity=alice)
            await tls.echoed(channel)

    with pytest.raises(grpc.aio.AioRpcError) as error:
        asyncio.run(attempt())
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE


def unavailable(authority: pki.Authority, talk: tls.Talk, context: ssl.SSLContext | None) -> str:
    async def attempt() -> None:
        async with tls.listener(talk, context) as address:
            await dial(authority, ca.certify(authority, now=NOW), address)

    with pytest.raises(Unavailable) as error:
        asyncio.run(attempt())
    return str(error.value)


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    return


async def speak_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await writer.drain()
    await reader.read()


async def be_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


def test_a_server_that_hangs_up_on_a_good_certificate_is_unavailable(
    authority: pki.Authority, tmp_path: Path
) -> None:
    context = tls.context(aggregator(authority), tmp_path)
    assert "closed the connection after the TLS handshake" in unavailable(
        authority, hang_up, context
    )


def test_a_port_that_speaks_no_tls_is_unavailable(authority: pki.Authority) -> None:
    assert "no TLS 1.3" in unavailable(authority, speak_http, None)


def test_a_tls_server_that_is_no_grpc_server_is_unavailable(
    authority: pki.Authority, tmp_path: Path
) -> None:
    context = tls.context(aggregator(authority), tmp_path, alpn="http/1.1")
    assert "no gRPC server" in unavailable(authority, be_silent, context)


def test_tls_1_2_is_not_spoken(authority: pki.Authority, tmp_path: Path) -> None:
    context = tls.context(aggregator(authority), tmp_path)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with tls.alerting_server(context) as address, pytest.raises(Unavailable, match=r"no TLS 1\.3"):
        asyncio.run(read_leaf(address, role="aggregator", judge=accept))


def test_a_server_that_stays_silent_is_unavailable(
    authority: pki.Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedclave.transport.grpc.channel.PROBE_S", 0.2)
    assert "did not answer within" in unavailable(authority, be_silent, None)


def test_a_port_where_nobody_listens_is_unavailable(authority: pki.Authority) -> None:
    async def attempt() -> None:
        async with tls.listener(hang_up) as address:
            pass
        await dial(authority, ca.certify(authority, now=NOW), address)

    with pytest.raises(Unavailable, match="Check that the server runs"):
        asyncio.run(attempt())


def test_a_name_that_does_not_resolve_is_unavailable(authority: pki.Authority) -> None:
    with pytest.raises(Unavailable, match="does not resolve"):
        asyncio.run(dial(authority, ca.certify(authority, now=NOW), "no-such-host.invalid:50051"))
