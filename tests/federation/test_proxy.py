# SPDX-License-Identifier: Apache-2.0
"""Through a real HTTP proxy on loopback, for the probe and for the channel alike."""

import asyncio
import base64
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.support import ca, tls

from fedclave.errors import Unavailable
from fedclave.transport.grpc.channel import open_channel

NOW = datetime.now(UTC)


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


class Proxy:
    """CONNECT and nothing else; remembers the requests."""

    def __init__(self, answer: bytes = b"HTTP/1.1 200 Connection established") -> None:
        self.requests: list[bytes] = []
        self._answer = answer

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        self.requests.append(request)
        writer.write(self._answer + b"\r\nVia: test\r\n\r\n")
        await writer.drain()
        if b" 200 " not in self._answer:
            return
        host, _, port = request.split()[1].decode().rpartition(":")
        up_reader, up_writer = await asyncio.open_connection(host, int(port))
        try:
            await asyncio.gather(copy(reader, up_writer), copy(up_reader, writer))
        finally:
            up_writer.transport.abort()


def through(
    proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: str = ""
) -> tuple[bytes, str]:
    authority = ca.create(tmp_path, now=NOW)
    server = ca.certify(authority, "aggregator", "agg", now=NOW)
    alice = ca.certify(authority, now=NOW)

    async def attempt() -> tuple[bytes, str]:
        async with (
            tls.echo_server(server, authority.anchors.chain) as address,
            tls.listener(proxy.talk) as way,
        ):
            monkeypatch.setenv("grpc_proxy", f"http://{user}{way}")
            for name in ("no_grpc_proxy", "no_proxy"):
                monkeypatch.delenv(name, raising=False)
            opened = await open_channel(
                address, identity=alice, anchors=authority.anchors, role="aggregator", now=NOW
            )
            return await tls.echoed(opened.channel), address

    return asyncio.run(attempt())


def test_probe_and_channel_both_go_through_the_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = Proxy()
    answer, address = through(proxy, tmp_path, monkeypatch)
    assert answer == b"hello"
    assert len(proxy.requests) == 2
    for request in proxy.requests:
        assert request.startswith(f"CONNECT {address} HTTP/1.".encode())


def test_both_give_the_proxy_its_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = Proxy()
    through(proxy, tmp_path, monkeypatch, user="me:s%40cret@")
    expected = b"Basic " + base64.b64encode(b"me:s@cret")
    assert [expected in request for request in proxy.requests] == [True, True]


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        (b"HTTP/1.1 403 Forbidden", "did not connect to"),
        (b"SSH-2.0-OpenSSH", "did not connect to"),
        (b"HTTP/1.1 2000 Odd", "did not connect to"),
        (b"x" * 10_000, "does not answer like an HTTP proxy"),
    ],
)
def test_a_proxy_that_refuses_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes, match: str
) -> None:
    with pytest.raises(Unavailable, match=match):
        through(Proxy(answer), tmp_path, monkeypatch)
