# SPDX-License-Identifier: Apache-2.0
"""A gRPC channel to a server whose certificate the gate has admitted, and to no other.

grpcio does not show a client the server's certificate. So the leaf is read first, in a TLS 1.3
handshake of our own; the gate decides on it; and the channel then has exactly this leaf as its
only root (BoringSSL verifies partial chains), so it reaches the same key or nobody.

In TLS 1.3 a client's handshake ends before the server has judged the client's certificate. The
probe therefore waits for the server's first byte (HTTP/2 SETTINGS; RFC 9113 3.4). A gRPC server
that refuses a certificate closes without an alert; then the gate says what is wrong with our own.
"""

import asyncio
import os
import secrets
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509

from fedclave.errors import Code, Refused, Unavailable
from fedclave.transport.grpc.proxy import Proxy, proxy_for, split_address, tunnel
from fedclave.trust import keys
from fedclave.trust.credentials import Credentials
from fedclave.trust.gate import Anchors, admit
from fedclave.trust.names import Identity, Role, server_name

__all__ = ["Credentials", "Opened", "open_channel", "pinned", "read_leaf"]

PROBE_S = 10.0
Options = Sequence[tuple[str, Any]]

_ALERTS = {
    "UNKNOWN_CA": Code.FOREIGN_CERTIFICATE,
    "CERTIFICATE_EXPIRED": Code.CERTIFICATE_EXPIRED,
    "CERTIFICATE_REVOKED": Code.CERTIFICATE_REVOKED,
    "CERTIFICATE_REQUIRED": Code.NO_CERTIFICATE,
    "UNSUPPORTED_CERTIFICATE": Code.WRONG_ROLE,
    "BAD_CERTIFICATE": Code.FOREIGN_CERTIFICATE,
    "CERTIFICATE_UNKNOWN": Code.FOREIGN_CERTIFICATE,
    "ACCESS_DENIED": Code.UNKNOWN_MEMBER,
}
"""TLS alerts (RFC 8446 6.2) about a client's certificate, as OpenSSL's names for them end."""


class _HungUp(Unavailable):
    """The server closed the connection before its first byte."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A channel, and the certificate (DER) of the server that it is pinned to."""

    channel: grpc.aio.Channel
    leaf: bytes


async def open_channel(
    address: str,
    *,
    identity: Credentials,
    anchors: Anchors,
    role: Role,
    now: datetime,
    options: Options = (),
) -> Opened:
    """Connect to the federation's server of this role.

    ``Refused``: the server's certificate is not good, or ours is not; do not retry.
    ``Unavailable``: nobody answers there; retry. When the server renews its certificate, calls on
    the channel end as UNAVAILABLE, and a new channel is needed.
    """

    def judge(leaf: bytes) -> None:
        admit(leaf, anchors=anchors, role=role, now=now, members=None)

    try:
        leaf = await read_leaf(address, role=role, judge=judge, identity=identity)
    except _HungUp:
        _check_own(identity.leaf, anchors, now)
        raise
    channel = pinned(address, leaf, role=role, identity=identity, options=options)
    return Opened(channel=channel, leaf=leaf)


async def read_leaf(
    address: str,
    *,
    role: Role,
    judge: Callable[[bytes], None],
    identity: Credentials | None = None,
) -> bytes:
    """The certificate (DER) of the server at an address, once ``judge`` and the server agree.

    ``judge`` raises to refuse it; the server then learns no more of us than a TLS handshake shows.
    """
    proxy = proxy_for(address, os.environ)
    place = f"{address} (through the proxy {proxy})" if proxy else address
    try:
        async with (
            asyncio.timeout(PROBE_S),
            _tls(address, _context(identity), role, proxy) as (leaf, reader),
        ):
            judge(leaf)
            if not await reader.read(1):
                raise _HungUp(
                    f"the server at {place} closed the connection after the TLS handshake. It may"
                    " be starting or stopping, or its clock may be wrong"
                )
            return leaf
    except TimeoutError as error:
        raise Unavailable(
            f"{place} did not answer within {PROBE_S:g} s. Check the address and the firewalls"
        ) from error
    except ssl.SSLError as error:
        raise _from_alert(error, place) from error
    except socket.gaierror as error:
        raise Unavailable(
            f"the name in {place} does not resolve ({error.strerror}). Check its spelling and DNS"
        ) from error
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise Unavailable(
            f"no connection to {place} ({reason}). Check that the server runs and the port is open"
        ) from error


def pinned(
    address: str,
    leaf: bytes,
    *,
    role: Role,
    identity: Credentials | None = None,
    options: Options = (),
) -> grpc.aio.Channel:
    """A channel that reaches the server with this certificate (DER), or nobody."""
    root = ssl.DER_cert_to_PEM_cert(leaf).encode()
    credentials = grpc.ssl_channel_credentials(
        root, identity.key if identity else None, identity.chain if identity else None
    )
    proxy = proxy_for(address, os.environ)
    way = ("grpc.http_proxy", proxy.url) if proxy else ("grpc.enable_http_proxy", 0)
    name = ("grpc.ssl_target_name_override", server_name(role))
    return grpc.aio.secure_channel(address, credentials, options=[name, way, *options])


@asynccontextmanager
async def _tls(
    address: str, context: ssl.SSLContext, role: Role, proxy: Proxy | None
) -> AsyncIterator[tuple[bytes, asyncio.StreamReader]]:
    """A TLS connection to look at: the server's leaf (DER), and what it then says."""
    host, port = split_address(address)
    name = server_name(role)
    if proxy is None:
        reader, writer = await asyncio.open_connection(
            host, port, ssl=context, server_hostname=name
        )
    else:
        sock = await tunnel(proxy, address)
        reader, writer = await asyncio.open_connection(sock=sock, ssl=context, server_hostname=name)
    try:
        session = writer.get_extra_info("ssl_object")
        leaf = session.getpeercert(binary_form=True)
        if leaf is None or session.selected_alpn_protocol() != "h2":
            raise Unavailable(f"{address} is a TLS server, but no gRPC server. Check the port")
        yield leaf, reader
    finally:
        writer.transport.abort()  # the probe owes nobody a goodbye


def _context(identity: Credentials | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the caller's judge verifies, before anything is sent
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    if identity is not None:
        _load(context, identity)
    return context


def _load(context: ssl.SSLContext, identity: Credentials) -> None:
    """Give ``ssl`` a key, which it takes from files only: encrypted there, for one reading."""
    passphrase = secrets.token_hex(32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "identity.pem"
        path.touch(0o600)
        path.write_bytes(keys.encode(identity.private_key, passphrase.encode()) + identity.chain)
        context.load_cert_chain(path, password=passphrase)


def _check_own(leaf: x509.Certificate, anchors: Anchors, now: datetime) -> None:
    """Raise ``Refused`` if the gate would not admit our own certificate either."""
    try:
        own = Identity.of(leaf)
    except ValueError as error:
        raise Refused(Code.WRONG_ROLE, f"our own certificate has no identity: {error}") from error
    try:
        admit(leaf, anchors=anchors, role="collaborator", now=now, members={own.name})
    except Refused as error:
        raise Refused(error.code, f"the server refused our certificate: {error.message}") from error


def _from_alert(error: ssl.SSLError, place: str) -> Exception:
    reason = (error.reason or str(error)).upper()
    for name, code in _ALERTS.items():
        if reason.endswith(f"ALERT_{name}"):
            return Refused(
                code, f"the server at {place} refused our certificate ({reason}). Renew it, or"
                " have this party certified by the federation's CA"
            )  # fmt: skip
    return Unavailable(
        f"no TLS 1.3 with {place} ({reason}). Check that the port is the federation's server's"
    )
