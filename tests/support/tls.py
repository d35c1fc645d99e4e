# SPDX-License-Identifier: Apache-2.0
"""Servers of all kinds to connect to, on loopback."""

import asyncio
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import grpc

from fedclave.trust.credentials import Credentials

Answer = Callable[[str, bytes], Awaitable[bytes]]
Serving = AbstractAsyncContextManager[str]
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(
    shown: Credentials,
    service: str,
    names: Sequence[str],
    answer: Answer,
    clients: bytes | None = None,
) -> AsyncIterator[str]:
    """The address of a gRPC server that shows these credentials; with ``clients``, over mutual TLS
    with those roots. It answers each call by its name and body.
    """

    def called(name: str) -> Callable[[bytes, grpc.aio.ServicerContext], Awaitable[bytes]]:
        async def call(body: bytes, context: grpc.aio.ServicerContext) -> bytes:
            return await answer(name, body)

        return call

    server = grpc.aio.server()
    calls = {name: grpc.unary_unary_rpc_method_handler(called(name)) for name in names}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, calls),))
    credentials = grpc.ssl_server_credentials(
        [(shown.key, shown.chain)], clients, require_client_auth=clients is not None
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


def echo_server(shown: Credentials, clients: bytes) -> Serving:
    """The address of a server over mutual TLS that echoes."""

    async def echo(name: str, body: bytes) -> bytes:
        return body

    return serving(shown, "test", ("Echo",), echo, clients)


@asynccontextmanager
async def listener(talk: Talk, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """The address of a server that does as it is told with each connection."""
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await talk(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            tasks.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def alerting_server(context: ssl.SSLContext) -> Iterator[str]:
    """The address of a server on blocking sockets, which sends TLS alerts; asyncio's does not."""

    def serve() -> None:
        with suppress(OSError), listening.accept()[0] as plain:
            plain.settimeout(10)
            with context.wrap_socket(plain, server_side=True) as session:
                session.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        thread.join()


def context(shown: Credentials, folder: Path, *, alpn: str = "h2") -> ssl.SSLContext:
    """A TLS server's side by the standard library, which sends alerts."""
    path = folder / "server.pem"
    path.write_bytes(shown.key + shown.chain)
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(path)
    made.set_alpn_protocols([alpn])
    return made


async def echoed(channel: grpc.aio.Channel, body: bytes = b"hello") -> bytes:
    """What the echo server answers on a channel, which is then closed."""
    async with channel:
        return bytes(await channel.unary_unary("/test/Echo")(body, timeout=10))
