# SPDX-License-Identifier: Apache-2.0
"""The enrolment service of the CA: roots for everybody, certificates for tokens and for renewals.

It has its own certificate, which it issues and renews itself, in memory. Callers have none yet, so
limits stand in for identity: messages of 64 KiB, few calls at once, connections of half a minute.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime
from threading import Lock
from typing import Any

import grpc
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from google.protobuf.message import DecodeError

from fedclave.errors import Code, Refused, Unavailable, UserError
from fedclave.transport.grpc import frames
from fedclave.transport.grpc.enrol import OPTIONS, SERVICE, renewal_message
from fedclave.transport.grpc.proto import enrol_pb2 as pb
from fedclave.trust import keys, pki, requests
from fedclave.trust.certifying import Challenges
from fedclave.trust.credentials import renew_due
from fedclave.trust.gate import admit
from fedclave.trust.names import Identity
from fedclave.trust.pki import Authority
from fedclave.trust.profiles import Subject
from fedclave.trust.tokens import Register

Clock = Callable[[], datetime]
Joined = Callable[[Identity], None]

_SERVER_OPTIONS = [
    *OPTIONS,
    ("grpc.so_reuseport", 0),
    ("grpc.max_concurrent_streams", 4),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_connection_age_ms", 30_000),
    ("grpc.max_connection_age_grace_ms", 10_000),
]
MAX_CALLS = 32


async def serve_enrolment(
    authority: Authority,
    tokens: Register,
    address: str,
    *,
    clock: Clock,
    joined: Joined = lambda identity: None,
    trouble: Callable[[str], None] = lambda message: None,
) -> "Enrolment":
    """Listen for parties that join or renew. Raises ``Unavailable`` if the port is taken.

    ``joined`` is told of each party that a token let in, before the party is: a place to add its
    name to the members. It hears of a party again when that one repeats its request. ``trouble``
    is told what is wrong on this machine; the party only hears that something is.
    """
    issuer = _Issuer(authority, tokens, clock)
    issuer.certificate()  # now, for an expired CA is the operator's to know
    service = Enrolment(issuer, joined, trouble)
    await service.start(address)
    return service


class Enrolment:
    """The service while it listens on ``port``."""

    def __init__(self, issuer: "_Issuer", joined: Joined, trouble: Callable[[str], None]) -> None:
        self._trouble = trouble
        self._issuer = issuer
        self._joined = joined
        self._server = grpc.aio.server(options=_SERVER_OPTIONS, maximum_concurrent_rpcs=MAX_CALLS)
        self.port = 0

    async def start(self, address: str) -> None:
        """Bind the port and listen."""
        calls = {
            name: grpc.unary_unary_rpc_method_handler(_answering(call, self._trouble))
            for name, call in (
                ("Roots", self._roots),
                ("Join", self._join),
                ("Renew", self._renew),
            )
        }
        handlers = grpc.method_handlers_generic_handler(SERVICE, calls)
        self._server.add_generic_rpc_handlers((handlers,))
        try:
            self.port = self._server.add_secure_port(address, self._issuer.server_credentials())
        except RuntimeError:
            self.port = 0
        if not self.port:
            raise Unavailable(
                f"cannot listen on {address}. Stop what listens there, or choose another address"
            )
        await self._server.start()

    async def wait(self) -> None:
        """Return when the service has stopped."""
        await self._server.wait_for_termination()

    async def stop(self, grace_s: float = 1.0) -> None:
        """Let open calls end for that long, then cut them."""
        await self._server.stop(grace_s)

    async def _roots(self, body: bytes) -> bytes:
        return (await asyncio.to_thread(self._issuer.roots)).SerializeToString()

    async def _join(self, body: bytes) -> bytes:
        request = pb.JoinRequest.FromString(body)
        identity, issued = await asyncio.to_thread(self._issuer.join, request)
        self._joined(identity)
        return issued.SerializeToString()

    async def _renew(self, body: bytes) -> bytes:
        request = pb.RenewRequest.FromString(body)
        return (await asyncio.to_thread(self._issuer.renew, request)).SerializeToString()


class _Issuer:
    """What the calls do, without the network."""

    def __init__(self, authority: Authority, tokens: Register, clock: Clock) -> None:
        self._authority = authority
        self._tokens = tokens
        self._clock = clock
        self._challenges = Challenges()
        self._lock = Lock()
        self._shown: list[_Shown] = []  # the last one is in use

    def certificate(self) -> "_Shown":
        """The service's own certificate, renewed when due. Handshakes call it from many threads."""
        with self._lock:
            return self._certificate()

    def _certificate(self) -> "_Shown":
        now = self._clock()
        if not self._shown or renew_due(self._shown[-1].leaf, now):
            key = keys.generate()
            federation = self._authority.federation
            request = requests.make_request(
                key, federation=federation, role="authority", name=pki.SERVICE
            )
            leaf = self._authority.issue(request, role="authority", name=pki.SERVICE, now=now)
            self._shown = [*self._shown[-1:], _Shown(leaf=leaf, key=keys.encode(key))]
        return self._shown[-1]

    def server_credentials(self) -> grpc.ServerCredentials:
        """TLS with the certificate in use at each handshake."""
        current = self.certificate()

        def configuration(shown: _Shown) -> grpc.ServerCertificateConfiguration:
            chain = pki.bundle(shown.leaf, self._authority.anchors)
            return grpc.ssl_server_certificate_configuration([(shown.key, chain)])

        def renewed() -> grpc.ServerCertificateConfiguration | None:
            nonlocal current
            if (latest := self.certificate()) is current:
                return None
            current = latest
            return configuration(latest)

        return grpc.dynamic_ssl_server_credentials(
            configuration(current), renewed, require_client_authentication=False
        )

    def roots(self) -> pb.RootsReply:
        """What the CA tells anybody, and what a TEE must answer."""
        now = self._clock()
        return pb.RootsReply(
            chain=self._authority.anchors.chain,
            revocations=self._authority.recent_crl(now),
            challenge=self._challenges.make(now),
        )

    def join(self, wire: pb.JoinRequest) -> tuple[Identity, pb.Issued]:
        """A certificate for a token. A request that cannot be granted leaves the token as it was:
        one that does not parse, is for somebody else's key, or does not prove what it must.
        """
        now = self._clock()
        request = requests.parse(wire.request)
        try:
            asked = Identity.of(request)
        except ValueError as error:
            raise Refused(Code.BAD_REQUEST, f"the certificate request: {error}") from error
        asked = replace(asked, federation=self._authority.federation)
        subject = self._authority.vet(request, asked, now, self._challenges)
        key = subject.public_key
        holder = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self._tokens.redeem(wire.secret, asked, holder, now)
        return asked, self._issue(subject, now)

    def renew(self, wire: pb.RenewRequest) -> pb.Issued:
        """A certificate for one that is still good, to whoever holds its key."""
        now = self._clock()
        request = requests.parse(wire.request)
        self._authority.recent_crl(now)
        try:
            held = x509.load_pem_x509_certificate(wire.certificate)
            own = Identity.of(held)
            key = held.public_key()
        except keys.UNREADABLE as error:
            raise Refused(Code.MALFORMED, f"the certificate in use: {error}") from error
        admit(held, anchors=self._authority.anchors, role=own.role, now=now, members={own.name})
        if own.role == "authority" or not isinstance(key, ec.EllipticCurvePublicKey):
            raise Refused(Code.WRONG_ROLE, "the service renews its own certificate by itself")
        if not any(_is_signed(wire.signature, key, request, shown) for shown in self._shown):
            raise Refused(
                Code.BAD_REQUEST,
                "the renewal is not signed with the key of the certificate in use, for this"
                " service. Try again, or join anew with a token",
            )
        return self._issue(self._authority.vet(request, own, now, self._challenges), now)

    def _issue(self, subject: Subject, now: datetime) -> pb.Issued:
        try:
            leaf = self._authority.grant(subject, now)
        except UserError as error:  # the operator's names collide, or the CA is at its end
            raise Refused(Code.BAD_REQUEST, str(error)) from error
        return pb.Issued(
            certificate=leaf.public_bytes(Encoding.PEM),
            chain=self._authority.anchors.chain,
            revocations=self._authority.recent_crl(now),
        )


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """A certificate that the service shows in TLS."""

    leaf: x509.Certificate
    key: bytes


def _is_signed(
    signature: bytes,
    key: ec.EllipticCurvePublicKey,
    request: x509.CertificateSigningRequest,
    shown: _Shown,
) -> bool:
    message = renewal_message(request, keys.public_bytes(shown.leaf))
    try:
        key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def _answering(
    call: Callable[[bytes], Awaitable[bytes]],
    trouble: Callable[[str], None],
) -> Callable[[bytes, Any], Awaitable[bytes]]:
    """The call, with refusals as a gRPC status."""

    async def answer(body: bytes, context: Any) -> bytes:
        try:
            return await call(body)
        except Refused as refused:
            await frames.abort(context, refused)
        except Unavailable as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        except DecodeError:
            await frames.abort(context, Refused(Code.MALFORMED, "the message does not parse"))
        except UserError as error:  # of this machine: its operator hears it, the party does not
            trouble(str(error))
            await context.abort(
                grpc.StatusCode.UNAVAILABLE,
                "the CA cannot answer, for a reason on its own machine. Tell its operator",
            )
        raise AssertionError("abort raises")

    return answer
