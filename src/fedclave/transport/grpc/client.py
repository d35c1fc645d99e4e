# SPDX-License-Identifier: Apache-2.0
"""A collaborator's end of the wire: connects outwards, stays connected, resumes what broke off.

What may come back (the network, the aggregator) is tried again with growing, jittered pauses, for
as long as the plan's ``network.patience_s`` since the last contact. What was refused is not.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import grpc

import fedclave
from fedclave.engine.collaborator import Collaborator
from fedclave.engine.incoming import Incoming
from fedclave.engine.ports import Traffic
from fedclave.errors import Code, Refused, Unavailable
from fedclave.messages import WIRE_VERSIONS, Packet, Reply, Request
from fedclave.tensors import Tensors
from fedclave.transport.grpc import frames
from fedclave.transport.grpc.frames import CHUNK, SERVICE
from fedclave.transport.grpc.pledge import Pledge
from fedclave.transport.grpc.proto import federation_pb2 as pb


@dataclass(frozen=True, kw_only=True)
class Connection:
    """A channel to the verified aggregator, and what keeps it verified while it is used."""

    channel: grpc.aio.Channel
    keep: Callable[[], Awaitable[None]] | None = None
    """Runs beside the calls; raises once the aggregator is no longer to be trusted."""


Connect = Callable[[], Awaitable[Connection]]
"""Opens a connection (``channel.open_channel``, then ``attest.attest`` if the plan wants it)."""

Notice = Callable[[str, dict[str, Any]], None]
"""Told what happens, for views: (event, fields)."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 15.0


class Client:
    """Keeps one collaborator in a run until the run is over."""

    def __init__(
        self,
        member: str,
        plan: str,
        address: str,
        connect: Connect,
        collaborator: Collaborator,
        notice: Notice = lambda event, fields: None,
        pledge: Pledge | None = None,
    ) -> None:
        self._pledge = pledge
        self.traffic = Traffic()
        self._member = member
        self._plan = plan
        self._address = address
        self._connect = connect
        self._collaborator = collaborator
        self._notice = notice
        self._stall_s = 60.0
        self._instance = secrets.token_hex(8)
        self._contact = monotonic()
        self._stream: _Stream | None = None
        self._incoming: Incoming | None = None  # a model whose connection broke off

    def reconnect(self, reason: str) -> None:
        """Open a new connection, as after a renewed certificate; work in progress goes on."""
        if self._stream is not None:
            self._stream.fail(Unavailable(reason))

    async def run(self, patience_s: float, stall_s: float) -> str:
        """Take part; returns the digest of the final model.

        Raises ``Refused`` at once, ``Unavailable`` after ``patience_s`` without contact. A transfer
        of which nothing moves for ``stall_s`` is begun again where it stood.
        """
        self._stall_s = stall_s
        self._contact, pause = monotonic(), FIRST_PAUSE_S
        while True:
            before = self._contact
            try:
                async with self._connection() as connection:
                    return await self._work(connection)
            except Unavailable as error:
                if self._contact != before:
                    pause = FIRST_PAUSE_S
                waited = monotonic() - self._contact
                if waited > patience_s:
                    raise Unavailable(
                        f"{error}. No contact for {waited:.0f} s (network.patience_s); start again"
                        " when the aggregator is back: nothing is lost"
                    ) from error
                wait = pause * (0.5 + secrets.randbelow(1000) / 1000)
                self._notice("waiting", {"reason": str(error), "seconds": round(wait, 1)})
                await asyncio.sleep(min(wait, max(patience_s - waited, 0.05)))
                pause = min(pause * 2, LONGEST_PAUSE_S)

    async def _work(self, connection: Connection) -> str:
        channel = connection.channel
        async with self._told() as of:
            call = of(
                channel.stream_stream(
                    f"/{SERVICE}/Work",
                    request_serializer=pb.Up.SerializeToString,
                    response_deserializer=pb.Down.FromString,
                )()
            )
            hello = pb.Hello(
                versions=WIRE_VERSIONS,
                plan=self._plan,
                instance=self._instance,
                software=f"fedclave/{fedclave.__version__}",
                stated=b"" if self._pledge is None else self._pledge.begin(),
            )
            await call.write(pb.Up(hello=hello))
            self._stream = stream = _Stream(self, channel, call)
            keeping = None if connection.keep is None else stream.beside(connection.keep())
            try:
                return await stream.serve()
            finally:
                self._stream = None
                if keeping is not None:
                    keeping.cancel()
                if stream.welcomed:
                    self._contact = monotonic()  # it stood until now, however quiet it was
                await stream.close()

    async def fetch(self, channel: grpc.aio.Channel, request: Request) -> Tensors:
        """Get the model of a request; a part that came before is kept and continued."""
        incoming, self._incoming = self._incoming, None
        if incoming is None or (incoming.digest, incoming.size) != (request.params, request.size):
            incoming = Incoming(request.params, request.size)
        call = channel.unary_stream(
            f"/{SERVICE}/Fetch", request_serializer=pb.FetchRequest.SerializeToString
        )(pb.FetchRequest(digest=request.params, offset=incoming.offset))
        try:
            async with self._told(), _moving(self._stall_s) as moved:
                while (chunk := await call.read()) is not grpc.aio.EOF:
                    incoming.write(chunk)
                    self.traffic.down += len(chunk)
                    moved()
            if incoming.offset < request.size:
                raise Unavailable(f"{self._address}: the model ended early; it will be resumed")
        except (Unavailable, asyncio.CancelledError):
            self._incoming = incoming
            raise
        finally:
            call.cancel()
        return incoming.whole()

    async def push(
        self, channel: grpc.aio.Channel, request: str, packet: Packet, path: Path
    ) -> None:
        """Upload an update from where the aggregator has it."""
        begin = pb.PushBegin(request=request, digest=packet.digest, size=packet.size)
        commit = pb.PushCommit(digest=packet.digest, size=packet.size)
        async with self._told() as of:
            call = of(
                channel.stream_stream(
                    f"/{SERVICE}/Push", response_deserializer=pb.PushReply.FromString
                )()
            )
            await call.write(frames.BEGIN + begin.SerializeToString())
            ready = await _within(call.read(), self._stall_s)
            if ready is grpc.aio.EOF:
                await _ended(call)
            with self._collaborator.opens(path) as file:
                file.seek(ready.offset)
                async with _moving(self._stall_s) as moved:
                    while chunk := file.read(CHUNK):
                        await call.write(frames.DATA + chunk)
                        self.traffic.up += len(chunk)
                        moved()
            await call.write(frames.COMMIT + commit.SerializeToString())
            receipt = await _within(call.read(), self._stall_s)
            if receipt is grpc.aio.EOF or not receipt.complete:
                await _ended(call)
            await call.done_writing()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        connection = await self._connect()
        try:
            yield connection
        finally:
            await connection.channel.close()

    def _told(self) -> AbstractAsyncContextManager[Callable[[Any], Any]]:
        return frames.told(self._address)


async def status(address: str, connect: Connect) -> pb.StatusReply:
    """Ask the aggregator how things stand (``fx collaborator ping``)."""
    channel = (await connect()).channel
    async with channel, frames.told(address):
        call = channel.unary_stream(
            f"/{SERVICE}/Status",
            request_serializer=pb.StatusRequest.SerializeToString,
            response_deserializer=pb.StatusReply.FromString,
        )(pb.StatusRequest(), timeout=10.0)
        reply: pb.StatusReply
        async for reply in call:
            return reply
    raise Unavailable(f"{address}: no answer to Status")


class _Stream:
    """One Work stream: requests are worked on one after the other while the stream is read."""

    def __init__(self, client: Client, channel: grpc.aio.Channel, call: Any) -> None:
        self._client = client
        self._channel = channel
        self._call = call
        self._current: tuple[str, asyncio.Task[None]] | None = None
        self._loop = asyncio.get_running_loop()
        self._failed: asyncio.Future[None] = self._loop.create_future()
        self._sending = asyncio.Lock()
        self.welcomed = False

    async def serve(self) -> str:
        """Read until the run is over; returns the final model's digest."""
        while True:
            reading = asyncio.ensure_future(self._call.read())
            await asyncio.wait({reading, self._failed}, return_when=asyncio.FIRST_COMPLETED)
            if self._failed.done():
                reading.cancel()
                self._failed.result()
            down = reading.result()
            if down is grpc.aio.EOF:
                await _ended(self._call)
            self._client._contact = monotonic()
            if (final := await self._handle(down)) is not None:
                return final

    async def _handle(self, down: pb.Down) -> str | None:
        kind = down.WhichOneof("body")
        notice, pledge = self._client._notice, self._client._pledge
        if kind == "welcome":
            self.welcomed = True
            notice("welcome", {"federation": down.welcome.federation})
        elif kind == "stated":
            if pledge is not None:
                await self._send(await pledge.take(down.stated.statement))
        elif kind == "request":
            request = frames.request_from_wire(down.request, self._client._member)
            if pledge is not None:
                pledge.check(request)
            self._start(request)
        elif kind == "verdict":
            notice("verdict", _verdict(down.verdict))
        elif kind == "withdrawn":
            notice("withdrawn", {})
            if self._current is not None and self._current[0] == down.withdrawn.request:
                self._current[1].cancel()
        elif kind == "ping":
            await self._send(pb.Up(pong=pb.Pong()))
        elif kind == "done":
            return frames.sha256(down.done.model)
        return None

    def _start(self, request: Request) -> None:
        if self._current is not None:
            if self._current[0] == request.id and not self._current[1].done():
                return
            self._current[1].cancel()
        task = asyncio.create_task(self._answer(request))
        task.add_done_callback(self._ended)
        self._current = (request.id, task)

    async def _answer(self, request: Request) -> None:
        client = self._client
        client._notice("request", {"round": request.round, "tasks": list(request.tasks)})

        async def fetch(digest: str, size: int) -> Tensors:
            return await client.fetch(self._channel, request)

        def started(of: Request, step: str) -> None:
            self._loop.call_soon_threadsafe(self._say, of, step)

        reply, path = await client._collaborator.answer(request, fetch, started)
        if reply.packet is not None and path is not None:
            try:
                await client.push(self._channel, request.id, reply.packet, path)
            except Refused as refused:
                if refused.code not in _ABOUT_THE_UPDATE:
                    raise
                client._notice("verdict", {"code": refused.code, "message": refused.message})
                return
        await self._reply(request, reply)

    async def _reply(self, request: Request, reply: Reply) -> None:
        if reply.failure is not None:
            failure = {"code": reply.failure.code, "message": reply.failure.message}
            self._client._notice("failure", {"round": request.round, **failure})
        await self._send(pb.Up(reply=frames.reply_to_wire(reply)))

    def _say(self, request: Request, step: str) -> None:
        self._client._notice("step", {"round": request.round, "step": step})
        progress = pb.Up(progress=pb.Progress(request=request.id, step=step))
        task = asyncio.ensure_future(self._send(progress))
        task.add_done_callback(_swallow)  # progress is a courtesy; the stream's own end tells

    async def _send(self, up: pb.Up) -> None:
        async with self._sending:
            await self._call.write(up)

    def beside(self, work: Awaitable[None]) -> "asyncio.Future[None]":
        """Run something for as long as the stream lasts; its error is the stream's."""
        task = asyncio.ensure_future(work)
        task.add_done_callback(self._ended)
        return task

    def fail(self, error: BaseException) -> None:
        """End the stream with this error."""
        if not self._failed.done():
            self._failed.set_exception(error)

    def _ended(self, task: "asyncio.Future[None]") -> None:
        if not task.cancelled() and (error := task.exception()):
            self.fail(error)

    async def close(self) -> None:
        """End the work in progress and the call."""
        if self._current is not None:
            self._current[1].cancel()
            await asyncio.gather(self._current[1], return_exceptions=True)
        if self._failed.done():
            self._failed.exception()
        self._call.cancel()


_ABOUT_THE_UPDATE = {
    Code.NOT_ASKED,
    Code.LATE,
    Code.DUPLICATE,
    Code.WRONG_TENSORS,
    Code.TOO_LARGE,
    Code.WRONG_DIGEST,
}
"""Refusals of an upload that are about this round only; the member stays for the next."""


def _verdict(verdict: pb.Verdict) -> dict[str, Any]:
    refusal = verdict.refusal if verdict.HasField("refusal") else None
    return {
        "code": refusal.code if refusal else None,
        "message": frames.printable(refusal.message) if refusal else "accepted",
    }


def _swallow(task: "asyncio.Future[None]") -> None:
    if not task.cancelled():
        task.exception()


@asynccontextmanager
async def _moving(stall_s: float) -> AsyncIterator[Callable[[], None]]:
    """A transfer that must go on; calls what it yields for each chunk."""
    try:
        async with frames.moving(stall_s) as moved:
            yield moved
    except TimeoutError as error:
        raise Unavailable(f"nothing moved for {stall_s:g} s (network.stall_s)") from error


async def _within(reading: Awaitable[Any], stall_s: float) -> Any:
    try:
        return await asyncio.wait_for(reading, stall_s)
    except TimeoutError as error:
        raise Unavailable(f"no progress for {stall_s:g} s (network.stall_s)") from error


async def _ended(call: Any) -> None:
    """A stream ended: raise why."""
    code = await call.code()
    if code is grpc.StatusCode.OK:
        raise Unavailable("the aggregator ended the connection")
    raise grpc.aio.AioRpcError(
        code,
        await call.initial_metadata(),
        await call.trailing_metadata(),
        details=await call.details(),
    )
