# SPDX-License-Identifier: Apache-2.0
"""The call ``Attest``: ``fl-attest/1`` between a member and the aggregator (``trust.attesting``).

It is the first call on a channel, and comes again before a session ends, beside whatever else runs.
Quotes are made and judged in threads: neither holds up the loop.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import grpc
from cryptography import x509

from fedclave.errors import Code, FedclaveError, Refused
from fedclave.transport.grpc import frames
from fedclave.transport.grpc.proto import federation_pb2 as pb
from fedclave.trust import gate
from fedclave.trust.attesting import NONCE, VERSIONS, Channel, Nonces, Side, key_hash
from fedclave.trust.checkpoint import origin_of
from fedclave.trust.gate import Standing
from fedclave.trust.heads import Heads, Shown
from fedclave.trust.sessions import Sessions

DEADLINE_S = 30.0
"""For a whole attestation."""

HEARD_S = 2.0
"""How long the aggregator has to take notice that it was refused."""

LEAST_PAUSE_S = 1.0
"""Between two attestations on one channel, whatever the other side says."""

BY_PEER = "the peer refused this side: "
BY_AGGREGATOR = "the aggregator refused this side: "
"""How a message begins that tells what the other end found, and not this one."""

Read = Callable[[], Awaitable[Any]]
Write = Callable[[Any], Awaitable[None]]


class Usher:
    """The aggregator's end: attests itself to members, judges them, keeps their sessions."""

    def __init__(
        self,
        side: Side,
        sessions: Sessions,
        leaf: Callable[[], x509.Certificate],
        log: Callable[[int], Shown],
    ) -> None:
        """``leaf`` reads the certificate that this server shows now; ``log`` tells the head of its
        log to a member that has seen so many entries.
        """
        self.sessions = sessions
        self.side = side  # another one when the policy changes: who holds the old one is refused
        self._leaf = leaf
        self._log = log
        self._keys: set[bytes] = set()  # ours, also those from before a renewal

    def reconsider(self) -> dict[str, Refused]:
        """Look at every session again; returns the members whose session ended, and why."""
        side = self.side

        def look(standing: Standing) -> Standing:
            return gate.reconsider(
                standing, policy=side.terms.policy, verifier=side.verifier, now=side.now()
            )

        ended = self.sessions.reconsider(look, side.now())
        here = {one.verdict.name for one in self.sessions.standings()}  # perhaps by a newer key
        return {
            gone.verdict.name: refused for gone, refused in ended if gone.verdict.name not in here
        }

    async def receive(
        self,
        member: gate.Member,
        key: bytes,
        read: Read,
        write: Write,
        admitted: Callable[[Standing], None],
    ) -> None:
        """Attest with a member whose channel has this TLS key. Its session is open afterwards.

        ``admitted`` hears of it before the member does, which may cut the call off then.
        ``Refused``: one side does not accept the other. A session from before then ends; but not
        where they only follow different versions of the policy, for one of them gets it first.
        """
        try:
            standing = await self._receive(member, key, read, write)
        except Refused as refused:
            if refused.code is not Code.ATT_POLICY_VERSION:
                self.sessions.close(key, refused)
            raise
        self.sessions.open(key, standing)
        admitted(standing)
        verdict = standing.verdict
        again_s = max((verdict.reattest_after - self.side.now()).total_seconds(), 0.0)
        told = pb.Standing(
            word=verdict.word.value, expires=verdict.expires.timestamp(), again_s=again_s
        )
        await write(pb.AttestDown(standing=told))

    async def _receive(self, member: gate.Member, key: bytes, read: Read, write: Write) -> Standing:
        challenge = _body(await read(), "challenge")
        _check(challenge)
        self.side.terms.check(
            frames.printable(challenge.contract, 64), frames.printable(challenge.policy, 64)
        )
        channel = Channel(own=self._own(challenge.key), peer=key)
        nonces = Nonces(given=challenge.nonce, asked=secrets.token_bytes(NONCE))
        shown = await asyncio.to_thread(self._log, challenge.seen)
        evidence = await asyncio.to_thread(self.side.prove, channel, nonces, shown.head)
        ours = pb.Evidence(evidence=evidence, nonce=nonces.asked, growth=shown.growth)
        await write(pb.AttestDown(evidence=ours))
        theirs = _body(await read(), "evidence")
        judge = self.side.judge
        standing = await asyncio.to_thread(
            judge, theirs.evidence, "collaborator", member.name, channel, nonces
        )
        if standing.claims is not None and standing.claims.checkpoint not in (b"", shown.head):
            raise Refused(
                Code.LOG_FORK,
                f"{member.name!r} proves that it knows another head of this log than the one that"
                " it was shown. Compare heads with it ('fx audit compare')",
            )
        return standing

    def _own(self, claimed: bytes) -> bytes:
        """The key of ours that the member sees. What it sees decides: a renewal may have come."""
        self._keys.add(key_hash(self._leaf()))
        if claimed not in self._keys:
            raise Refused(
                Code.ATT_KEY_BINDING,
                f"the peer sees the TLS key {claimed[:6].hex()}... at this end, which is none of"
                " ours: somebody stands between the two",
            )
        return claimed


async def attest(
    channel: grpc.aio.Channel,
    side: Side,
    heads: Heads,
    *,
    address: str,
    server: bytes,
    own: x509.Certificate,
) -> tuple[Standing, float]:
    """Attest with the aggregator at the other end of a channel pinned to this leaf (DER).

    ``heads`` are those that the member has seen: the aggregator's log must follow from them.
    Returns how it stands, and after how many seconds to do it again. ``Refused``: one side does not
    accept the other; ``Unavailable``: the connection broke off.
    """
    ends = Channel(own=key_hash(own), peer=key_hash(x509.load_der_x509_certificate(server)))
    call = channel.stream_stream(
        f"/{frames.SERVICE}/Attest",
        request_serializer=pb.AttestUp.SerializeToString,
        response_deserializer=pb.AttestDown.FromString,
    )(timeout=DEADLINE_S)
    try:
        return await _attest(call, side, heads, ends)
    except grpc.aio.AioRpcError as error:
        raise _explained(frames.error(error, address)) from error
    except asyncio.InvalidStateError as error:  # a write on a call that has ended
        raise _explained(frames.error(await frames.ended(call), address)) from error
    finally:
        call.cancel()


async def ask(channel: grpc.aio.Channel, challenge: pb.Challenge) -> pb.Evidence:
    """What the aggregator shows for a challenge; the attestation is then given up. ``Refused``."""
    call = channel.stream_stream(
        f"/{frames.SERVICE}/Attest",
        request_serializer=pb.AttestUp.SerializeToString,
        response_deserializer=pb.AttestDown.FromString,
    )(timeout=DEADLINE_S)
    try:
        await call.write(pb.AttestUp(challenge=challenge))
        evidence: pb.Evidence = _body(await frames.next_message(call), "evidence")
        return evidence
    except grpc.aio.AioRpcError as error:
        raise frames.error(error, "the aggregator") from error
    finally:
        call.cancel()


async def _attest(call: Any, side: Side, heads: Heads, ends: Channel) -> tuple[Standing, float]:
    origin = origin_of(side.terms.federation)
    known = await asyncio.to_thread(heads.seen, origin)
    since = 0 if known is None else known.head.size
    asked = secrets.token_bytes(NONCE)
    challenge = pb.Challenge(
        versions=VERSIONS,
        nonce=asked,
        contract=side.terms.contract,
        policy=side.terms.policy.digest,
        key=ends.peer,
        seen=since,
    )
    await call.write(pb.AttestUp(challenge=challenge))
    theirs = _body(await frames.next_message(call), "evidence")
    if len(theirs.nonce) != NONCE:
        raise Refused(Code.ATT_MALFORMED, f"a nonce of {len(theirs.nonce)} bytes, not {NONCE}")
    nonces = Nonces(given=theirs.nonce, asked=asked)

    def judge() -> tuple[Standing, bytes]:
        standing = side.judge(theirs.evidence, "aggregator", "aggregator", ends, nonces)
        head = _head(standing)
        heads.accept(head, origin, theirs.growth, since=since, now=side.now())
        return standing, head

    try:
        standing, head = await asyncio.to_thread(judge)
    except Refused as refused:
        await call.write(pb.AttestUp(refusal=frames.refusal(refused)))
        await call.done_writing()
        with suppress(TimeoutError):  # a call that is cancelled at once takes the refusal with it
            await asyncio.wait_for(call.code(), HEARD_S)
        raise
    evidence = await asyncio.to_thread(side.prove, ends, nonces, head)
    await call.write(pb.AttestUp(evidence=pb.Evidence(evidence=evidence)))
    told = _body(await frames.next_message(call), "standing")
    ours = (standing.verdict.reattest_after - side.now()).total_seconds()
    return standing, max(min(ours, told.again_s), LEAST_PAUSE_S)


def _head(standing: Standing) -> bytes:
    if standing.claims is None or not standing.claims.checkpoint:
        raise Refused(
            Code.LOG_PROOF,
            "the aggregator shows no head of its log, so nobody could hold it to one. Update it, or"
            " ask its operator why",
        )
    return standing.claims.checkpoint


def _body(message: Any, kind: str) -> Any:
    found = message.WhichOneof("body") if message is not None else None
    if found == "refusal" and message.refusal.code in set(Code):
        said = frames.printable(message.refusal.message)
        raise Refused(Code(message.refusal.code), f"{BY_PEER}{said}")
    if found != kind:
        raise Refused(Code.MALFORMED, f"{found or 'nothing'} where fl-attest/1 has the {kind}")
    return getattr(message, kind)


def _check(challenge: Any) -> None:
    if not set(challenge.versions) & set(VERSIONS):
        raise Refused(
            Code.WRONG_VERSION,
            f"the peer speaks fl-attest {list(challenge.versions)[:8]}, this side {list(VERSIONS)}."
            " Update the older side",
        )
    if len(challenge.nonce) != NONCE:
        raise Refused(Code.ATT_MALFORMED, f"a nonce of {len(challenge.nonce)} bytes, not {NONCE}")


def _explained(error: FedclaveError) -> FedclaveError:
    """What the other side said, as that: it must not be taken for a finding of ours."""
    if isinstance(error, Refused) and error.code is not Code.WRONG_VERSION:
        return Refused(error.code, f"{BY_AGGREGATOR}{error.message}")
    if isinstance(error, Refused):
        return Refused(
            Code.ATT_REQUIRED,
            f"{error.message}. The aggregator does not attest, and the plan wants it to",
        )
    return error
