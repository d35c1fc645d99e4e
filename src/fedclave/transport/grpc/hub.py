# SPDX-License-Identifier: Apache-2.0
"""The aggregator's side of the wire, without sockets: who is connected, what each is asked.

``Hub`` is the engine's ``Transport``. A request is kept until its answer has been judged, and sent
again on each new connection of its member; the request's id makes that harmless.
"""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from fedclave.engine.events import Events
from fedclave.engine.ports import Accept, Enough, Traffic
from fedclave.engine.spool import Body, Spool, Upload
from fedclave.engine.witness import Witness
from fedclave.errors import Code, Refused
from fedclave.messages import Reply, Request
from fedclave.tensors import Layout
from fedclave.transport.grpc import frames
from fedclave.transport.grpc.proto import federation_pb2 as pb

STATING = 2  # from which version of the wire on members are told how far a run has come
PONG_S = 5.0  # how long a process has to show that it lives when another claims its name


@dataclass
class Session:
    """One member's connection: what goes down its Work stream (None ends it)."""

    member: str
    certificate: str  # fingerprint
    instance: str
    address: str
    withheld: Callable[[], Refused | None] = lambda: None
    """Why this member may not receive the model now."""
    down: "asyncio.Queue[pb.Down | None]" = field(default_factory=asyncio.Queue)
    version: int = 1  # of the wire
    pem: bytes = b""  # the certificate
    alive: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class _Ask:
    """An open request."""

    request: Request
    update: Layout
    accept: Accept
    answered: "asyncio.Future[None]"
    body: Body | None = None
    digest: str = ""
    judgement: "asyncio.Task[None] | None" = None

    @property
    def is_judged(self) -> bool:
        """Whether an answer is being judged now."""
        return self.judgement is not None and not self.judgement.done()

    def keep(self, body: Body, digest: str) -> None:
        """Hold an upload for the reply that follows."""
        self.body, self.digest = body, digest

    def hand_back(self, digest: str) -> None:
        """Let go of a held upload before another one begins: of the same content, it is resumed."""
        if digest == self.digest:
            self.body = None
        self.discard()

    def take(self, reply: Reply) -> Body | None:
        """The upload that a reply is about, if it came."""
        if reply.packet is None or reply.packet.digest != self.digest:
            return None
        body, self.body = self.body, None
        return body

    def discard(self) -> None:
        """Drop an upload that nobody takes."""
        if self.body is not None:
            self.body.discard()
            self.body = None


class Hub:
    """Members by name, at most one session and one open request each."""

    def __init__(self, spool: Spool, events: Events) -> None:
        self.witness: Witness | None = None
        self._stated: pb.Down | None = None
        self.traffic = Traffic()
        self._spool = spool
        self._events = events
        self._sessions: dict[str, Session] = {}
        self._asks: dict[str, _Ask] = {}
        self._certificates: dict[str, str] = {}  # with which each member came last
        self._done: pb.Down | None = None  # what is left to say once the run is over
        self._told: set[str] = set()
        self._arrived = asyncio.Condition()

    @property
    def connected(self) -> list[str]:
        """Names of the members that are connected."""
        return sorted(self._sessions)

    @property
    def withheld(self) -> set[str]:
        """Names of connected members that may not receive the model."""
        return {name for name, one in self._sessions.items() if one.withheld() is not None}

    @property
    def round(self) -> int:
        """The round of the open requests; 0 between rounds."""
        return max((ask.request.round for ask in self._asks.values()), default=0)

    async def present(self, enough: Enough) -> None:
        """See ``Transport.present``."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: enough(self._sessions.keys()))

    async def ask(self, request: Request, update: Layout, accept: Accept) -> None:
        """See ``Transport.ask``."""
        member = request.member
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        ask = self._asks[member] = _Ask(request, update, accept, answered)
        try:
            if (session := self._sessions.get(member)) is not None:
                self._offer(session, ask)
            await answered
        finally:
            if self._asks.get(member) is ask:
                del self._asks[member]
            ask.discard()
            withdrawn = not answered.done() or answered.cancelled()
            if withdrawn and ask.judgement is None:  # else a verdict was sent, or will be
                self._send(member, pb.Down(withdrawn=pb.Withdrawn(request=request.id)))

    async def join(self, session: Session) -> None:
        """Take a connection in. Raises ``Refused(NAME_IN_USE)`` if its name is taken and alive.

        The same process may always come again. Another one may when the first no longer answers:
        a machine that was cut off leaves a connection that only looks alive.
        """
        member = session.member
        old = self._sessions.get(member)
        if old is not None and old.instance != session.instance and await _lives(old):
            raise Refused(
                Code.NAME_IN_USE,
                f"another process takes part as {member!r} from {old.address}. Stop one of them;"
                " each party needs a certificate of its own",
            )
        if (old := self._sessions.get(member)) is not None:
            old.down.put_nowait(None)
        self._sessions[member] = session
        self._certificates[member] = session.certificate
        self._events.emit("member_joined", member=member, address=session.address)
        if self._stated is not None and session.version >= STATING:
            session.down.put_nowait(self._stated)
        if (ask := self._asks.get(member)) is not None and not ask.is_judged:
            self._offer(session, ask)
        if self._done is not None:
            self._dismiss(session, self._done)
        async with self._arrived:
            self._arrived.notify_all()

    def leave(self, session: Session, reason: str) -> None:
        """Forget a connection, unless its member already has a newer one."""
        if self._sessions.get(session.member) is session:
            del self._sessions[session.member]
            self._events.emit("member_left", member=session.member, reason=reason)

    def expel(self, certificate: str, refused: Refused) -> None:
        """The gate no longer lets a certificate in: nothing is expected of its member any more.

        A member that has come with a newer one since is not concerned.
        """
        for member, ask in self._asks.items():
            if self._certificates.get(member) == certificate and not ask.answered.done():
                ask.answered.set_exception(refused)

    def state(self, statement: bytes) -> None:
        """Tell everybody how far the run has come, also those who come later."""
        self._stated = pb.Down(stated=pb.Stated(statement=statement))
        for session in self._sessions.values():
            if session.version >= STATING:
                session.down.put_nowait(self._stated)

    def cut(self, member: str) -> None:
        """End a member's connection: its session is over. It may come back, and attest again."""
        if (session := self._sessions.get(member)) is not None:
            session.down.put_nowait(None)

    def finish(self, model: str) -> None:
        """Tell everybody that the run is over, also those who come later, and end their streams."""
        self._done = pb.Down(done=pb.Done(model=model))
        for session in self._sessions.values():
            self._dismiss(session, self._done)

    async def gone(self, told: Collection[str] = ()) -> None:
        """Return when these members were told that the run is over, and nobody is connected."""
        while self._sessions or not self._told.issuperset(told):
            async with self._arrived:
                await self._arrived.wait()

    def _dismiss(self, session: Session, done: pb.Down) -> None:
        self._told.add(session.member)
        session.down.put_nowait(done)
        session.down.put_nowait(None)

    async def left(self) -> None:
        """Wake those who wait for arrivals and departures."""
        async with self._arrived:
            self._arrived.notify_all()

    def progress(self, member: str, request: str, step: str) -> None:
        """A member starts a step of its request."""
        ask = self._asks.get(member)
        if ask is not None and ask.request.id == request and step in ask.request.tasks:
            number = ask.request.round
            self._events.emit("task_started", round=number, member=member, task=step)

    def reply(self, session: Session, reply: Reply) -> None:
        """Have an answer judged; the member gets the verdict, by the connection it then has.

        Returns at once. What was begun is judged to its end, though the connection may be lost.
        """
        try:
            ask = self._open(session.member, reply.request)
            if ask.is_judged:
                raise Refused(Code.DUPLICATE, "an answer of yours is being judged already")
        except Refused as refused:
            verdict = pb.Verdict(request=reply.request, refusal=frames.refusal(refused))
            session.down.put_nowait(pb.Down(verdict=verdict))
        else:
            ask.judgement = asyncio.create_task(self._judge(session.member, ask, reply))

    async def _judge(self, member: str, ask: _Ask, reply: Reply) -> None:
        verdict = pb.Verdict(request=reply.request)
        try:
            await ask.accept(reply, ask.take(reply))
        except Exception as error:  # whoever asked hears of it, also where it is a bug
            if isinstance(error, Refused):
                verdict.refusal.CopyFrom(frames.refusal(error))
            if not ask.answered.done():
                ask.answered.set_exception(error)
        else:
            if not ask.answered.done():
                ask.answered.set_result(None)
        self._send(member, pb.Down(verdict=verdict))

    def offered(self, member: str, digest: str) -> None:
        """Raise ``Refused`` unless this member's open request is about this content."""
        ask = self._asks.get(member)
        if ask is None or ask.request.params != digest:
            raise Refused(Code.NOT_FOUND, "no open request of yours offers this content")

    def begin(self, member: str, begin: pb.PushBegin) -> Upload:
        """The upload that a member's open request expects. Raises ``Refused``."""
        ask = self._open(member, begin.request)
        if begin.size != ask.update.size:
            raise Refused(
                Code.TOO_LARGE if begin.size > ask.update.size else Code.WRONG_TENSORS,
                f"an update of {begin.size} bytes; this round's has {ask.update.size}",
            )
        if ask.is_judged:
            raise Refused(Code.DUPLICATE, "an answer of yours is being judged already")
        ask.hand_back(frames.sha256(begin.digest))
        return self._spool.begin(member, frames.sha256(begin.digest), ask.update)

    async def commit(self, member: str, upload: Upload, request: str) -> None:
        """The upload is whole: keep it for the reply that follows."""
        body = await asyncio.to_thread(self._spool.commit, member, upload)
        try:
            ask = self._open(member, request)
        except Refused:
            body.discard()
            raise
        if ask.is_judged:
            body.discard()
            raise Refused(Code.DUPLICATE, "an answer of yours is being judged already")
        ask.keep(body, upload.digest)

    def _open(self, member: str, request: str) -> _Ask:
        ask = self._asks.get(member)
        if ask is None or ask.request.id != request:
            code = Code.LATE if ask is not None else Code.NOT_ASKED
            raise Refused(code, "this request is not open: its round is over, or it was not asked")
        return ask

    def _offer(self, session: Session, ask: _Ask) -> None:
        """Send a request, or give it up: who may not receive the model cannot do any task."""
        if (refused := session.withheld()) is None:
            session.down.put_nowait(pb.Down(request=frames.request_to_wire(ask.request)))
        elif not ask.answered.done():
            ask.answered.set_exception(refused)

    def _send(self, member: str, message: pb.Down) -> None:
        if (session := self._sessions.get(member)) is not None:
            session.down.put_nowait(message)


async def _lives(session: Session) -> bool:
    session.alive.clear()
    session.down.put_nowait(pb.Down(ping=pb.Ping()))
    try:
        await asyncio.wait_for(session.alive.wait(), PONG_S)
    except TimeoutError:
        return False
    return True
