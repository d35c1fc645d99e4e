# SPDX-License-Identifier: Apache-2.0
"""The aggregator's port: gRPC over mutual TLS 1.3, with the certificate of each moment."""

import asyncio
import socket
from collections.abc import Callable

import grpc

from fedclave.errors import Unavailable
from fedclave.transport.grpc import frames
from fedclave.transport.grpc.server import Service
from fedclave.trust.credentials import Credentials


class Server:
    """The bound port. ``address`` tells where, once started."""

    def __init__(self, service: Service, read: Callable[[], Credentials], anchors: bytes) -> None:
        self._service = service
        self._read = read
        self._roots = anchors
        self._server: grpc.aio.Server | None = None
        self.port = 0

    async def start(self, address: str) -> None:
        """Listen. Raises ``Unavailable`` if the port is taken or the address is not ours."""
        options = [*frames.OPTIONS, *_SERVER_OPTIONS]
        self._server = grpc.aio.server(options=options)
        self._server.add_generic_rpc_handlers((self._service.handlers(),))
        try:
            await require_free(address)
            self.port = self._server.add_secure_port(address, self._credentials())
        except (OSError, RuntimeError, ValueError) as error:
            raise Unavailable(
                f"cannot listen on {address} ({error}). Stop what listens there, or choose another"
                " address with --listen"
            ) from error
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        """Let open calls end for that long, then cut them."""
        if self._server is not None:
            await self._server.stop(grace_s)

    def _credentials(self) -> grpc.ServerCredentials:
        """Key and certificate are read again when their file changes: renewal needs no restart."""
        current = self._read()

        def configuration(credentials: Credentials) -> grpc.ServerCertificateConfiguration:
            pair = (credentials.key, credentials.chain)
            return grpc.ssl_server_certificate_configuration([pair], self._roots)

        def renewed() -> grpc.ServerCertificateConfiguration | None:
            nonlocal current
            latest = self._read()
            if latest == current:
                return None
            current = latest
            return configuration(latest)

        return grpc.dynamic_ssl_server_credentials(
            configuration(current), renewed, require_client_authentication=True
        )


async def require_free(address: str) -> None:
    """Raise ``OSError`` unless each of the name's addresses is free; gRPC is content with one."""
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    for family, kind, protocol, _, where in found:
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)


_SERVER_OPTIONS = [
    ("grpc.so_reuseport", 0),
    ("grpc.max_concurrent_streams", 16),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
]
