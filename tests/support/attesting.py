# SPDX-License-Identifier: Apache-2.0
"""A member that speaks fl-attest/1 by hand, and quotes whatever it likes on its platform."""

import queue
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import grpc
from tests.support import trust
from tests.support.federation import Federation
from tests.support.hostile import Hostile, begin, code_of

from fedclave.transport.grpc.frames import SERVICE
from fedclave.transport.grpc.proto import federation_pb2 as pb
from fedclave.trust import claims, policy, ratls, release
from fedclave.trust.attesting import key_hash
from fedclave.trust.claims import Claims
from fedclave.trust.credentials import Credentials
from fedclave.trust.quoting import QuotingEnclave
from fedclave.workspace import agreement
from fedclave.workspace.layout import Workspace


class Attesting:
    """One Attest call by hand: ``say`` up, ``hear`` down."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._ups: queue.Queue[pb.AttestUp | None] = queue.Queue()
        self._call = channel.stream_stream(
            f"/{SERVICE}/Attest",
            request_serializer=pb.AttestUp.SerializeToString,
            response_deserializer=pb.AttestDown.FromString,
        )(iter(self._ups.get, None), timeout=30)

    def say(self, **body: Any) -> None:
        self._ups.put(pb.AttestUp(**body))

    def hear(self) -> pb.AttestDown:
        return next(iter(self._call))

    def end(self) -> None:
        self._call.cancel()


class Mallory:
    """A hostile member: what it knows, and how it answers."""

    def __init__(self, fed: Federation, own: Credentials, peer: Hostile) -> None:
        workspace = Workspace(fed.folder)
        found = agreement.find(workspace)
        assert found is not None
        self.own = key_hash(own.leaf)
        self.server = key_hash(Credentials.read(fed.cert, "aggregator").leaf)
        self.contract, self.policy = found.contract.id, policy.load(workspace.attestation).digest
        self.enclave = QuotingEnclave(fed.platform.quoting)
        self.measurement = trust.measured(workspace)
        self.peer = peer

    def challenge(self, **changed: Any) -> pb.Challenge:
        usual = {
            "versions": [1], "nonce": secrets.token_bytes(32), "contract": self.contract,
            "policy": self.policy, "key": self.server,
        }  # fmt: skip
        return pb.Challenge(**{**usual, **changed})

    def claims(self, asked: bytes, given: bytes) -> Claims:
        """Those of an honest member."""
        return Claims(
            role="collaborator", name="anna", federation="kit", contract=self.contract,
            policy=self.policy, key=self.own, peer=self.server, nonce=given, own_nonce=asked,
            time=datetime.now(UTC), hpke_key=release.generate().public, checkpoint=b"",
        )  # fmt: skip

    def evidence(self, said: Claims, measurement: bytes | None = None) -> bytes:
        raw = claims.encode(said)
        quote = self.enclave.quote(measurement or self.measurement, claims.report_data(raw))
        return ratls.encode(quote, raw)

    def evidence_about(self, told: bytes) -> bytes:
        """Evidence whose claims are any bytes, with a quote that is really about them."""
        return ratls.encode(self.enclave.quote(self.measurement, claims.report_data(told)), told)

    def attest(self, answer: Callable[[bytes, pb.Evidence], bytes]) -> str:
        """Attest with what ``answer`` makes of our nonce and the aggregator's evidence."""
        call, challenge = Attesting(self.peer.channel), self.challenge()
        try:
            call.say(challenge=challenge)
            theirs = call.hear().evidence
            call.say(evidence=pb.Evidence(evidence=answer(challenge.nonce, theirs)))
            return str(call.hear().standing.word)
        except grpc.RpcError as error:
            return code_of(error)
        finally:
            call.end()

    def asks(self, challenge: pb.Challenge) -> str:
        call = Attesting(self.peer.channel)
        try:
            call.say(challenge=challenge)
            return str(call.hear().WhichOneof("body"))
        except grpc.RpcError as error:
            return code_of(error)
        finally:
            call.end()


def calls(peer: Hostile) -> set[str]:
    """With which codes every call but Attest is refused."""
    found = set()
    for attempt in (
        lambda: peer.status(),
        lambda: peer.fetch("ab" * 32),
        lambda: peer.push(begin("x", "ab" * 32, 10)),
        lambda: peer.work().hear("welcome"),
    ):
        try:
            attempt()
            found.add("answered")
        except grpc.RpcError as error:
            found.add(code_of(error))
    return found
