# SPDX-License-Identifier: Apache-2.0
"""How a party gets its certificate: ``join`` with a token, ``renew`` with the one in use.

The first contact, in order. The party
1. reads the service's leaf, and opens a channel that reaches this leaf's key or nobody;
2. asks for the roots there, which tells the service nothing;
3. compares the root with the SHA-256 that its token (or its folder) holds;
4. has the gate admit the leaf, as this federation's authority;
5. and only then sends the token's secret, or its old certificate, with the request.

Private keys are made here and stay here.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from fedclave.errors import Code, Refused
from fedclave.transport.grpc import frames
from fedclave.transport.grpc.channel import pinned, read_leaf
from fedclave.transport.grpc.proto import enrol_pb2 as pb
from fedclave.trust import keys, profiles
from fedclave.trust.adopt import adopt, root_sha256
from fedclave.trust.certifying import Prove, unproved
from fedclave.trust.credentials import Credentials, next_key
from fedclave.trust.gate import Anchors, admit, foresee
from fedclave.trust.names import Identity
from fedclave.trust.pki import bundle
from fedclave.trust.requests import make_request
from fedclave.trust.tokens import Token

SERVICE = "fedclave.v1.Enrolment"
CALL_S = 30.0
MAX_MESSAGE = 2**16  # bytes
OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.max_metadata_size", 2**13),
]


async def join(
    token: Token,
    cert_folder: Path,
    *,
    now: datetime,
    hosts: Iterable[str] = (),
    prove: Prove = unproved,
) -> Credentials:
    """Take a token's place in its federation: key, certificate, chain and list in the folder.

    Run again after a lost connection, it asks for the same key, and the token is still good.
    ``hosts`` are where a server will listen. ``prove`` speaks of the TEE that the key is made in.
    """
    own = Identity(federation=token.federation, role=token.role, name=token.name)
    async with _met(token.authority, cert_folder, token.root, now) as service:
        key = next_key(cert_folder, own.name)
        request = await service.request(key, own, hosts, prove)
        issued = await service.join(
            pb.JoinRequest(secret=token.secret, request=request.public_bytes(Encoding.PEM))
        )
        return _keep(issued, cert_folder, own, key, now)


async def renew(
    address: str, cert_folder: Path, name: str, *, now: datetime, prove: Prove = unproved
) -> Credentials:
    """Replace a party's good certificate and its key by new ones, before the old one ends.

    ``Refused``: the CA does not renew it (revoked, expired, ...). ``Unavailable``: try later.
    """
    held = Credentials.read(cert_folder, name)
    own = Identity.of(held.leaf)
    names = held.leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    root = root_sha256(Anchors.read(cert_folder))
    async with _met(address, cert_folder, root, now) as service:
        key = next_key(cert_folder, name)
        request = await service.request(key, own, profiles.hosts_of(names), prove)
        covered = renewal_message(request, service.leaf)
        issued = await service.renew(
            pb.RenewRequest(
                request=request.public_bytes(Encoding.PEM),
                certificate=held.leaf.public_bytes(Encoding.PEM),
                signature=held.private_key.sign(covered, ec.ECDSA(hashes.SHA256())),
            )
        )
        return _keep(issued, cert_folder, own, key, now)


async def refresh(address: str, cert_folder: Path, *, now: datetime) -> Anchors:
    """Get the CA's present chain and revocation list into the folder."""
    root = root_sha256(Anchors.read(cert_folder))
    async with _met(address, cert_folder, root, now) as service:
        return service.anchors


def renewal_message(request: x509.CertificateSigningRequest, server_leaf: bytes) -> bytes:
    """What the old key signs: the request, for this server's certificate (DER) and no other use."""
    return (
        b"fedclave/renew/1\0"
        + hashlib.sha256(keys.public_bytes(request)).digest()
        + hashlib.sha256(server_leaf).digest()
    )


@dataclass(frozen=True, kw_only=True)
class _Service:
    """An enrolment service that proved to be the federation's."""

    address: str
    channel: grpc.aio.Channel
    leaf: bytes
    anchors: Anchors
    challenge: bytes

    async def request(
        self,
        key: ec.EllipticCurvePrivateKey,
        own: Identity,
        hosts: Iterable[str],
        prove: Prove,
    ) -> x509.CertificateSigningRequest:
        """A request for this service: its evidence answers the challenge that was given here."""
        evidence = await asyncio.to_thread(prove, key.public_key(), self.challenge)
        return make_request(key, **vars(own), hosts=hosts, evidence=evidence)

    async def join(self, request: pb.JoinRequest) -> pb.Issued:
        return pb.Issued.FromString(
            await _call(self.channel, self.address, "Join", request.SerializeToString())
        )

    async def renew(self, request: pb.RenewRequest) -> pb.Issued:
        return pb.Issued.FromString(
            await _call(self.channel, self.address, "Renew", request.SerializeToString())
        )


@asynccontextmanager
async def _met(
    address: str, cert_folder: Path, root: str, now: datetime
) -> AsyncIterator[_Service]:
    foreseen = partial(foresee, role="authority", now=now)
    leaf = await read_leaf(address, role="authority", judge=foreseen)  # 1
    async with pinned(address, leaf, role="authority", options=OPTIONS) as channel:
        reply = await _call(channel, address, "Roots", pb.RootsRequest().SerializeToString())  # 2
        roots = pb.RootsReply.FromString(reply)
        anchors = adopt(cert_folder, roots.chain, roots.revocations, root=root)  # 3
        admit(leaf, anchors=anchors, role="authority", now=now, members=None)  # 4
        yield _Service(  # 5
            address=address,
            channel=channel,
            leaf=leaf,
            anchors=anchors,
            challenge=roots.challenge,
        )


async def _call(channel: grpc.aio.Channel, address: str, name: str, request: bytes) -> bytes:
    try:
        call = channel.unary_unary(f"/{SERVICE}/{name}")
        return bytes(await call(request, timeout=CALL_S))
    except grpc.aio.AioRpcError as error:
        raise frames.error(error, address) from error


def _keep(
    issued: pb.Issued,
    cert_folder: Path,
    own: Identity,
    key: ec.EllipticCurvePrivateKey,
    now: datetime,
) -> Credentials:
    """Write what the CA issued, if it is a certificate for our key that our own gate admits."""
    root = root_sha256(Anchors.read(cert_folder))
    anchors = adopt(cert_folder, issued.chain, issued.revocations, root=root)
    admit(issued.certificate, anchors=anchors, role=own.role, now=now, members={own.name})
    leaf = x509.load_pem_x509_certificate(issued.certificate)
    if leaf.public_key() != key.public_key():
        raise Refused(Code.MALFORMED, "the CA certified another key than ours. Ask its operator")
    credentials = Credentials(key=keys.encode(key), chain=bundle(leaf, anchors))
    credentials.replace(cert_folder, own.name)
    return credentials
