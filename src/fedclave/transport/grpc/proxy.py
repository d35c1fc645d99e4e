# SPDX-License-Identifier: Apache-2.0
"""HTTP proxies by gRPC's own rules, so that the probe and the channel take the same way.

gRPC core, ``http_proxy_mapper.cc``: the first of ``grpc_proxy``, ``https_proxy``, ``http_proxy``
that is set names the proxy (scheme http, optional user:password); the first of ``no_grpc_proxy``,
``no_proxy`` lists hosts to reach directly: suffixes of names, addresses, or networks (CIDR).
"""

import asyncio
import base64
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from urllib.parse import unquote, urlsplit

from fedclave.errors import Unavailable, UserError

MAX_REPLY = 8192  # bytes of a proxy's answer to CONNECT


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """A proxy to go through. ``url`` is as it stands in the environment; it may hold a password."""

    host: str
    port: int
    credentials: str | None = field(default=None, repr=False)
    url: str = field(repr=False)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def split_address(address: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT`` or ``[IPV6]:PORT``. Raises ``UserError`` on other text.

    >>> split_address("[::1]:50051")
    ('::1', 50051)
    """
    host, _, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    plain = host[1:-1] if bracketed else host
    if not plain or (":" in plain) != bracketed or "/" in plain or not _is_port(port):
        raise UserError(f"address {address!r} is not HOST:PORT. Write for example localhost:50051")
    return plain, int(port)


def proxy_for(address: str, environment: Mapping[str, str]) -> Proxy | None:
    """The proxy that gRPC takes to an address, or None when it connects directly."""
    chosen = _first(environment, "grpc_proxy", "https_proxy", "http_proxy")
    if not chosen or _is_direct(split_address(address)[0], environment):
        return None
    parts = urlsplit(chosen)
    try:
        host, port = parts.hostname, parts.port or 80
    except ValueError as error:
        raise UserError(f"the proxy in the environment has no valid port ({error})") from error
    if parts.scheme != "http" or not host:
        raise UserError(
            f"the proxy {parts.scheme}://{host or ''} in the environment is not of the form"
            " http://HOST:PORT, the only one that gRPC takes. Change it, or list the server in"
            " no_grpc_proxy"
        )
    user, _, _ = parts.netloc.rpartition("@")
    return Proxy(host=host, port=port, credentials=unquote(user) or None, url=chosen)


async def tunnel(proxy: Proxy, address: str) -> socket.socket:
    """A connection to an address through a proxy (RFC 9110 9.3.6). ``Unavailable`` if it refuses.

    The caller closes the socket, and bounds the time.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(proxy.host, proxy.port, type=socket.SOCK_STREAM)
    family, kind, protocol, _, where = found[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        await loop.sock_connect(sock, where)
        await loop.sock_sendall(sock, _connect(proxy, address))
        reply = b""
        # The server behind it speaks only when spoken to, so nothing follows the blank line.
        while b"\r\n\r\n" not in reply:
            piece = await loop.sock_recv(sock, 1024)
            reply += piece
            if not piece or len(reply) > MAX_REPLY:
                raise Unavailable(f"{proxy} does not answer like an HTTP proxy. Check its address")
        status = reply.split(b"\r\n", 1)[0].decode("latin-1")
        if not status.startswith("HTTP/1.") or status.split(" ")[1:2] != ["200"]:
            raise Unavailable(
                f"the proxy {proxy} did not connect to {address} ({status[:100]!r}). Ask its"
                " operator to allow it, or list the server in no_grpc_proxy"
            )
    except BaseException:
        sock.close()
        raise
    return sock


def _connect(proxy: Proxy, address: str) -> bytes:
    lines = [f"CONNECT {address} HTTP/1.1", f"Host: {address}"]
    if proxy.credentials is not None:
        token = base64.b64encode(proxy.credentials.encode()).decode()
        lines.append(f"Proxy-Authorization: Basic {token}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _is_direct(host: str, environment: Mapping[str, str]) -> bool:
    for entry in _first(environment, "no_grpc_proxy", "no_proxy").split(","):
        entry = entry.strip()
        if entry and (host.lower().endswith(entry.lower()) or _within(host, entry)):
            return True
    return False


def _first(environment: Mapping[str, str], *names: str) -> str:
    return next((environment[name] for name in names if environment.get(name)), "")


def _within(host: str, network: str) -> bool:
    try:
        return ip_address(host) in ip_network(network, strict=False)
    except ValueError:
        return False


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < int(text) < 65536
