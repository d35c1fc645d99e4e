# SPDX-License-Identifier: Apache-2.0
"""The aggregator's calls: Attest, Work, Fetch, Push and Status over mutual TLS 1.3.

Before a body is read, in every call: the gate admits the certificate of the channel, its TLS key
has attested (every call but ``Attest``, where the plan requires attestation), the member's quota
allows the call, and its open request asks for it. A call that makes no progress ends after
``network.stall_s``; one peer's slowness holds nothing that another needs.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import grpc

from fedclave.engine.events import Events
from fedclave.engine.store import Store
from fedclave.errors import Code, Refused, Unavailable, UserError
from fedclave.messages import WIRE_VERSIONS
from fedclave.plan import Plan
from fedclave.transport.grpc import frames
from fedclave.transport.grpc.attest import Usher
from fedclave.transport.grpc.door import Context, Door, address_of, certificate_of, key_of
from fedclave.transport.grpc.frames import CHUNK
from fedclave.transport.grpc.hub import Hub, Session
from fedclave.transport.grpc.proto import federation_pb2 as pb
from fedclave.transport.grpc.quota import Quota, Told
from fedclave.trust import gate

HELLO_S = 10.0
LOOK_S = 1.0
"""Between two looks at whether the member of a quiet stream may still take part."""
MAX_SAID = 1024  # characters of a refusal in an event: a peer may have chosen some of them


class Service:
    """The calls. The plan's ``network.stall_s`` is how long a peer may stand still in one."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        hub: Hub,
        door: Door,
        events: Events,
        usher: Usher | None = None,
    ) -> None:
        self._plan = plan
        self._store = store
        self._hub = hub
        self._door = door
        self._events = events
        self._usher = usher
        self._stall_s = plan.network.stall_s
        self._quota = Quota()
        self._told = Told()

    def handlers(self) -> grpc.GenericRpcHandler:
        """The calls as gRPC knows them; bodies of Fetch and Push stay raw bytes."""
        calls = {
            "Attest": grpc.stream_stream_rpc_method_handler(
                self._guarded("Attest", self._attest),
                request_deserializer=pb.AttestUp.FromString,
                response_serializer=pb.AttestDown.SerializeToString,
            ),
            "Work": grpc.stream_stream_rpc_method_handler(
                self._guarded("Work", self._work),
                request_deserializer=pb.Up.FromString,
                response_serializer=pb.Down.SerializeToString,
            ),
            "Fetch": grpc.unary_stream_rpc_method_handler(
                self._guarded("Fetch", self._fetch),
                request_deserializer=pb.FetchRequest.FromString,
            ),
            "Push": grpc.stream_stream_rpc_method_handler(
                self._guarded("Push", self._push),
                response_serializer=pb.PushReply.SerializeToString,
            ),
            "Status": grpc.unary_stream_rpc_method_handler(
                self._guarded("Status", self._status),
                request_deserializer=pb.StatusRequest.FromString,
                response_serializer=pb.StatusReply.SerializeToString,
            ),
        }
        return grpc.method_handlers_generic_handler(frames.SERVICE, calls)

    def _guarded(
        self, name: str, call: Callable[[gate.Member, Any, Context], Awaitable[None]]
    ) -> Callable[[Any, Context], Awaitable[None]]:
        """The call behind the gate and the quota; refusals become a status and an event."""

        async def guarded(incoming: Any, context: Context) -> None:
            peer = address_of(context)
            try:
                admit = self._door.identify if name == "Attest" else self._door.admit
                member = admit(context)
                peer = member.name
                self._quota.spend(member.name, monotonic())
                with self._quota.calling(member.name, name):
                    await call(member, incoming, context)
            except Refused as refused:
                self._record(peer, refused)
                if name == "Attest" or _is_for_good(refused.code):
                    self._hub.expel(gate.fingerprint(certificate_of(context)), refused)
                await frames.abort(context, refused)
            except Unavailable as error:
                await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
            except UserError as error:  # of this machine: its operator hears it, the peer does not
                self._trouble(str(error))
                await context.abort(
                    grpc.StatusCode.UNAVAILABLE,
                    "the aggregator cannot answer, for a reason on its own machine. Tell its"
                    " operator",
                )

        return guarded

    async def _attest(
        self, member: gate.Member, incoming: AsyncIterator[pb.AttestUp], context: Context
    ) -> None:
        if self._usher is None:
            raise Refused(Code.WRONG_VERSION, "this plan requires no attestation")

        def admitted(standing: gate.Standing) -> None:
            certificate, facts = member.fingerprint.replace(" ", ""), standing.facts()
            self._events.emit(
                "member_attested", member=member.name, certificate=certificate, **facts
            )

        await self._usher.receive(
            member,
            key_of(certificate_of(context)),
            lambda: self._read(context, HELLO_S),
            lambda message: self._write(context, message),
            admitted,
        )

    def _trouble(self, message: str) -> None:
        if self._told.more("", monotonic()) is not None:
            self._events.emit("trouble", message=message[:MAX_SAID])

    def _record(self, peer: str, refused: Refused) -> None:
        """An event, unless this peer had too many of late: then one that tells how many."""
        more = self._told.more(peer.rpartition(":")[0] or peer, monotonic())  # without a port
        if more is None:
            return
        message = refused.message[:MAX_SAID] + (f" (and {more} more since)" if more else "")
        self._events.emit("peer_refused", peer=peer, code=str(refused.code), message=message)

    async def _work(
        self, member: gate.Member, incoming: AsyncIterator[pb.Up], context: Context
    ) -> None:
        first = await self._read(context, HELLO_S)
        if first is None or not first.HasField("hello"):
            raise Refused(Code.MALFORMED, "a Work stream begins with a hello")
        version = self._agree(first.hello)
        session = Session(
            member.name,
            member.fingerprint,
            first.hello.instance,
            address_of(context),
            lambda: self._door.withheld(context),
            version=version,
            pem=certificate_of(context),
        )
        await context.write(
            pb.Down(
                welcome=pb.Welcome(
                    version=version, federation=self._plan.name, rounds=self._plan.rounds
                )
            )
        )
        if self._hub.witness is not None and first.hello.stated:
            self._hub.witness.shown(member.name, first.hello.stated)
        await self._hub.join(session)
        reason = "the connection was lost"
        try:
            reading = asyncio.create_task(self._listen(session, context))
            try:
                reason = await self._talk(session, context, reading)
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
        except Refused as refused:
            reason = str(refused)
            raise
        finally:
            self._hub.leave(session, reason)
            await self._hub.left()

    def _agree(self, hello: pb.Hello) -> int:
        common = set(hello.versions) & set(WIRE_VERSIONS)
        if not common:
            raise Refused(
                Code.WRONG_VERSION,
                f"you speak wire versions {list(hello.versions)[:8]}, this aggregator"
                f" {list(WIRE_VERSIONS)}. Update the older side",
            )
        if hello.plan != self._plan.digest:
            raise Refused(
                Code.WRONG_PLAN,
                f"your plan is {frames.printable(hello.plan, 12)}, the aggregator's"
                f" {self._plan.digest[:12]}. Compare 'fx plan show' on both sides",
            )
        return max(common)

    async def _talk(self, session: Session, context: Context, reading: "asyncio.Task[str]") -> str:
        """Send what the hub has for this member until either side ends; says why it ended."""
        getting: asyncio.Task[pb.Down | None] | None = None
        try:
            while True:
                getting = asyncio.create_task(session.down.get())
                while not getting.done():
                    await asyncio.wait(
                        {getting, reading}, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED
                    )
                    if reading.done() and not getting.done():
                        return reading.result()
                    try:  # a certificate may be revoked while a stream is open
                        self._door.admit(context)
                    except Refused as refused:
                        if refused.code is Code.ATT_REQUIRED:  # it may come back, and attest
                            return refused.message
                        raise
                message = getting.result()
                if message is None:
                    return "the aggregator ended the connection"
                await asyncio.wait_for(context.write(message), self._stall_s)
        except TimeoutError as error:
            raise Refused(Code.TOO_SLOW, "the Work stream is not being read") from error
        finally:
            if getting is not None:
                getting.cancel()

    async def _listen(self, session: Session, context: Context) -> str:
        while (up := await self._read(context, None)) is not None:
            self._quota.spend(session.member, monotonic())
            self._door.admit(context)
            kind = up.WhichOneof("body")
            if kind == "reply":
                self._hub.reply(session, frames.reply_from_wire(up.reply))
            elif kind == "progress":
                self._hub.progress(session.member, up.progress.request, up.progress.step)
            elif kind == "pong":
                session.alive.set()
            elif kind == "countersigned":
                self._countersigned(session, up.countersigned)
            else:
                raise Refused(Code.MALFORMED, f"a {kind or 'nameless'} message after the hello")
        return "it closed the connection"

    def _countersigned(self, session: Session, given: pb.Countersigned) -> None:
        if self._hub.witness is not None:
            self._hub.witness.countersigned(
                session.member, session.pem, given.statement, given.signature
            )

    async def _fetch(self, member: gate.Member, asked: pb.FetchRequest, context: Context) -> None:
        digest = frames.sha256(asked.digest)
        self._door.check_model(context)
        self._hub.offered(member.name, digest)
        try:
            file = self._store.medium.opens(self._store.path(digest))
        except OSError as error:
            raise Refused(Code.NOT_FOUND, f"{digest[:12]} is not here any more") from error
        with file:
            if asked.offset > file.seek(0, os.SEEK_END):
                raise Refused(Code.WRONG_OFFSET, f"offset {asked.offset} is past the end")
            file.seek(asked.offset)
            async with self._moving() as moved:
                while chunk := file.read(CHUNK):
                    self._door.check_model(context)  # it may be revoked while a model is sent
                    await context.write(chunk)
                    self._hub.traffic.down += len(chunk)
                    moved()

    async def _push(
        self, member: gate.Member, incoming: AsyncIterator[bytes], context: Context
    ) -> None:
        begin = _parsed(
            _frame(await self._read(context, self._stall_s)), frames.BEGIN, pb.PushBegin
        )
        upload = self._hub.begin(member.name, begin)
        try:
            async with self._moving() as moved:
                await context.write(pb.PushReply(offset=upload.offset))
                while (frame := _frame(await context.read()))[:1] == frames.DATA:
                    self._door.admit(context)  # as for _fetch
                    data = memoryview(frame)[1:]
                    if len(data) != min(CHUNK, upload.layout.size - upload.offset) or not data:
                        raise Refused(Code.WRONG_OFFSET, f"{len(data)} bytes at {upload.offset}")
                    upload.write(data)
                    self._hub.traffic.up += len(data)
                    moved()
        except OSError as error:
            raise Unavailable(f"the upload could not be stored: {error.strerror}") from error
        finally:
            upload.pause()
        commit = _parsed(frame, frames.COMMIT, pb.PushCommit)
        if (commit.digest, commit.size) != (begin.digest, begin.size):
            raise Refused(Code.WRONG_DIGEST, "the commit is not of what was begun")
        await self._hub.commit(member.name, upload, begin.request)
        await self._write(context, pb.PushReply(offset=begin.size, complete=True))

    async def _status(self, member: gate.Member, asked: pb.StatusRequest, context: Context) -> None:
        status = pb.StatusReply(
            versions=WIRE_VERSIONS,
            federation=self._plan.name,
            plan=self._plan.digest,
            member=member.name,
            round=self._hub.round,
            rounds=self._plan.rounds,
            connected=self._hub.connected,
            time=self._door.now().timestamp(),
        )
        await self._write(context, status)

    @asynccontextmanager
    async def _moving(self) -> AsyncIterator[Callable[[], None]]:
        """A transfer that must go on; calls what it yields for each chunk."""
        try:
            async with frames.moving(self._stall_s) as moved:
                yield moved
        except TimeoutError as error:
            raise Refused(Code.TOO_SLOW, f"nothing moved for {self._stall_s:g} s") from error

    async def _read(self, context: Context, within_s: float | None) -> Any:
        """The next message of a call, or None at its end. Raises ``Refused(TOO_SLOW)``."""
        try:
            message = await asyncio.wait_for(context.read(), within_s)
        except TimeoutError as error:
            raise Refused(Code.TOO_SLOW, f"no message for {within_s:g} s") from error
        return None if message is grpc.aio.EOF else message

    async def _write(self, context: Context, message: Any) -> None:
        try:
            await asyncio.wait_for(context.write(message), self._stall_s)
        except TimeoutError as error:
            raise Refused(Code.TOO_SLOW, f"nothing was read for {self._stall_s:g} s") from error


def _frame(message: Any) -> bytes:
    if message is None or message is grpc.aio.EOF:
        raise Unavailable("the upload ended before its commit; it can be resumed")
    return bytes(message)


def _parsed(frame: bytes, tag: bytes, kind: Any) -> Any:
    if frame[:1] != tag:
        raise Refused(Code.MALFORMED, f"expected a {tag.decode()} frame")
    try:
        return kind.FromString(frame[1:])
    except Exception as error:  # protobuf's DecodeError, by whichever name this version has
        raise Refused(Code.MALFORMED, f"a {tag.decode()} frame that does not parse") from error


def _is_for_good(code: Code) -> bool:
    """Whether a member will not be back in this round: its certificate, or what it proved, is no
    longer good. Who only has to attest again will.
    """
    gone = (Code.CERTIFICATE_REVOKED, Code.UNKNOWN_MEMBER)
    return code in gone or (code.startswith("ATT-") and code is not Code.ATT_REQUIRED)
