# SPDX-License-Identifier: Apache-2.0
"""The call ``Release``: ``fl-release/1`` between who holds a secret and who waits for it.

A party waits on a port of its own, for one purpose, until that is done: only then has it a run to
serve or to join. What is sealed goes to a file, of a size that is known before, and is opened when
all of it is there.

Anybody can reach that port. So a call counts for nothing until its challenge is found to be the
releaser's: it has seconds to show one, and where many wait, a new one takes the oldest one's place.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from time import monotonic
from typing import Any, BinaryIO

import grpc

from fedclave.errors import Code, Refused, Unavailable
from fedclave.transport.grpc import frames, quota
from fedclave.transport.grpc.door import address_of
from fedclave.transport.grpc.frames import CHUNK
from fedclave.transport.grpc.port import require_free
from fedclave.transport.grpc.proto import release_pb2 as pb
from fedclave.trust.release import Context
from fedclave.trust.releasing import MAX_CHALLENGE, Grant, Offer, Receiver, Releaser

SERVICE = "fedclave.v1.Release"
STALL_S = 60.0
"""Seconds without progress after which a release is ended."""
OPENING_S = 5.0
"""Seconds that a call has to show its challenge."""
MAX_STRANGERS = 16
"""Calls that may be open without one; one more ends the oldest of them."""
GOODBYE_S = 5.0

_OPTIONS: list[tuple[str, int]] = [
    *frames.OPTIONS,
    ("grpc.so_reuseport", 0),
    ("grpc.max_concurrent_streams", 4),
    # A connection without a call is a stranger's too.
    ("grpc.server_handshake_timeout_ms", 5_000),
    ("grpc.max_connection_idle_ms", 10_000),
]

Take = Callable[[Path, Context], None]
"""Opens what is sealed, in a thread; ``Refused`` if it is not what is waited for."""
Told = Callable[[str, Refused], None]
"""Hears who was refused, by address, and why."""


class Inbox:
    """The party's end: one port, one secret, then it is gone."""

    def __init__(
        self, receiver: Receiver, folder: Path, *, limit: int, take: Take, refused: Told
    ) -> None:
        """``limit`` is the most bytes that the sealed secret may have; ``folder`` is for it."""
        self._receiver = receiver
        self._folder = folder
        self._limit = limit
        self._take = take
        self._refused = refused
        self._strangers: list[asyncio.Timeout] = []  # the oldest first
        self._told = quota.Told()
        self._judging = asyncio.Lock()
        self._busy = False
        self._done = asyncio.Event()

    @asynccontextmanager
    async def listening(self, address: str) -> AsyncIterator[int]:
        """Serve at an address; yields the port. ``Unavailable``: it is taken, or not ours."""
        server = grpc.aio.server(options=_OPTIONS)
        handler = grpc.stream_stream_rpc_method_handler(
            self._release,
            request_deserializer=pb.ReleaseUp.FromString,
            response_serializer=pb.ReleaseDown.SerializeToString,
        )
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, {"Release": handler}),)
        )
        try:
            await require_free(address)
            port = server.add_insecure_port(address)
        except (OSError, RuntimeError, ValueError) as error:
            raise Unavailable(
                f"cannot listen on {address} ({error}). Stop what listens there, or choose another"
                " address with --release-listen"
            ) from error
        await server.start()
        try:
            yield port
        finally:
            await server.stop(GOODBYE_S)

    async def wait(self) -> None:
        """Until the secret has come and was opened."""
        await self._done.wait()

    async def _release(self, incoming: Any, context: Any) -> None:
        try:
            envelope = await self._opening(context)
            async with self._judging:
                self._check_free()  # before the TEE is asked for another quote
                offer, sealed_for = await asyncio.to_thread(self._receiver.offer, envelope)
                # Only the releaser comes this far: nobody else can hold up a release.
                self._busy = True
            try:
                await self._answer(context, offer, sealed_for)
            finally:
                self._busy = False
        except Refused as refused:
            self._tell(address_of(context), refused)
            await frames.abort(context, refused)
        except Unavailable as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))

    def _check_free(self) -> None:
        if self._busy or self._done.is_set():
            raise Unavailable("another release is under way, or was done")

    def _tell(self, address: str, refused: Refused) -> None:
        """Not of each: who calls again and again would fill the disk."""
        if self._told.more(address.rpartition(":")[0] or address, monotonic()) is not None:
            self._refused(address, refused)

    async def _opening(self, context: Any) -> bytes:
        """The challenge that a call begins with, of whomever it is."""
        try:
            async with asyncio.timeout(OPENING_S) as limit:
                with self._stranger(limit):
                    first = await context.read()
        except TimeoutError as error:
            raise Refused(
                Code.TOO_SLOW,
                f"no challenge came within {OPENING_S:g} s, or more than {MAX_STRANGERS} calls wait"
                " to show one. Run the release again",
            ) from error
        if first is grpc.aio.EOF or first.WhichOneof("body") != "challenge":
            raise Refused(Code.MALFORMED, "a release begins with a challenge")
        if len(first.challenge) > MAX_CHALLENGE:  # not to be kept while others are judged
            raise Refused(Code.MALFORMED, f"a challenge of more than {MAX_CHALLENGE} bytes")
        return bytes(first.challenge)

    @contextmanager
    def _stranger(self, limit: asyncio.Timeout) -> Iterator[None]:
        """Count a call among those of which nobody knows whose they are."""
        if len(self._strangers) >= MAX_STRANGERS:
            oldest = self._strangers.pop(0)
            if not oldest.expired():
                oldest.reschedule(asyncio.get_running_loop().time())
        self._strangers.append(limit)
        try:
            yield
        finally:
            if limit in self._strangers:
                self._strangers.remove(limit)

    async def _answer(self, context: Any, offer: Offer, sealed_for: Context) -> None:
        shown = pb.Offer(certificate=offer.certificate, evidence=offer.evidence, nonce=offer.nonce)
        await asyncio.wait_for(context.write(pb.ReleaseDown(offer=shown)), STALL_S)
        path = self._folder / f".release-{secrets.token_hex(8)}.tmp"
        try:
            with path.open("xb") as file:
                await self._store(context, file)
            await asyncio.to_thread(self._take, path, sealed_for)
        except OSError as error:
            raise Unavailable(f"what was released could not be stored: {error.strerror}") from error
        finally:
            path.unlink(missing_ok=True)
        self._done.set()
        await asyncio.wait_for(context.write(pb.ReleaseDown(opened=True)), STALL_S)

    async def _store(self, context: Any, file: BinaryIO) -> None:
        size = 0
        while (message := await self._read(context)) is not None:
            if message.WhichOneof("body") == "end":
                if message.end != size:
                    raise Refused(Code.WRONG_DIGEST, f"{size} bytes came, not {message.end}")
                return
            size += len(message.part)
            if message.WhichOneof("body") != "part" or not message.part or size > self._limit:
                raise Refused(Code.TOO_LARGE, f"what is released has more than {self._limit} bytes")
            file.write(message.part)
        raise Unavailable("the releaser ended the call before its end")

    async def _read(self, context: Any) -> Any:
        try:
            message = await asyncio.wait_for(context.read(), STALL_S)
        except TimeoutError as error:
            raise Refused(Code.TOO_SLOW, f"no message for {STALL_S:g} s") from error
        return None if message is grpc.aio.EOF else message


async def give(
    address: str, releaser: Releaser, seal: Callable[[Grant, Path], None], target: Path
) -> Grant:
    """Have the party at an address prove itself, then give it what ``seal`` writes to ``target``.

    ``Refused``: one side does not accept the other, or what came did not open. ``Unavailable``:
    nobody waits there, or the connection broke off.
    """
    challenge, envelope = releaser.challenge()
    if len(envelope) > MAX_CHALLENGE:
        raise Refused(Code.TOO_LARGE, "the challenge is larger than a party takes")
    async with grpc.aio.insecure_channel(address, options=frames.OPTIONS) as channel:
        call = channel.stream_stream(
            f"/{SERVICE}/Release",
            request_serializer=pb.ReleaseUp.SerializeToString,
            response_deserializer=pb.ReleaseDown.FromString,
        )()
        try:
            async with frames.moving(STALL_S) as moved:
                await call.write(pb.ReleaseUp(challenge=envelope))
                offer = _body(await frames.next_message(call), "offer")
                moved()
                shown = Offer(
                    certificate=offer.certificate, evidence=offer.evidence, nonce=offer.nonce
                )
                grant = await asyncio.to_thread(releaser.judge, challenge, envelope, shown)
                await asyncio.to_thread(seal, grant, target)
                moved()
                releaser.check(grant)
                await _send(call, target, moved)
                _body(await frames.next_message(call), "opened")
        except TimeoutError as error:
            raise Unavailable(f"{address}: nothing moved for {STALL_S:g} s") from error
        except grpc.aio.AioRpcError as error:
            raise _explained(error, address) from error
        except asyncio.InvalidStateError as error:  # a write on a call that has ended
            raise _explained(await frames.ended(call), address) from error
        finally:
            call.cancel()
    return grant


async def _send(call: Any, source: Path, moved: Callable[[], None]) -> None:
    size = 0
    with source.open("rb") as file:
        while part := file.read(CHUNK):
            await call.write(pb.ReleaseUp(part=part))
            size += len(part)
            moved()
    await call.write(pb.ReleaseUp(end=size))
    await call.done_writing()


def _body(message: Any, kind: str) -> Any:
    found = message.WhichOneof("body")
    if found != kind:
        raise Refused(Code.MALFORMED, f"{found or 'nothing'} where fl-release/1 has the {kind}")
    return getattr(message, kind)


def _explained(call: grpc.aio.AioRpcError, address: str) -> Exception:
    error = frames.error(call, address)
    if isinstance(error, Refused) and error.code is Code.WRONG_VERSION:
        return Unavailable(
            f"{address} waits for no release: no party does, or it is past that. Give the address"
            " that the party printed"
        )
    if isinstance(error, Refused):
        return Refused(error.code, f"the party refused: {error.message}")
    return error
