# SPDX-License-Identifier: Apache-2.0
"""Who stands between the parties and the aggregator in ``fx demo --tamper relay|key|replay``.

A gRPC server with a certificate that the federation's CA did issue, so that TLS alone would let it
pass for the aggregator. What it says in ``Attest`` comes from the true aggregator, which it talks
to as a member would. It shows that a certificate is not enough, and nothing else can it do.
"""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from fedclave.cli import demo_folders
from fedclave.cli.demo_folders import Folders
from fedclave.cli.party import AGGREGATOR
from fedclave.errors import Code, Refused
from fedclave.transport.grpc import frames
from fedclave.transport.grpc.attest import ask
from fedclave.transport.grpc.channel import pinned
from fedclave.transport.grpc.door import certificate_of, key_of
from fedclave.transport.grpc.proto import federation_pb2 as pb
from fedclave.trust.attesting import NONCE, VERSIONS, key_hash
from fedclave.trust.credentials import Credentials
from fedclave.workspace import members

NAME = "mallory"
Answer = Callable[[bytes, pb.Challenge], Awaitable[pb.Evidence]]
"""What to show a member with this TLS key that sent this challenge."""


@asynccontextmanager
async def rogue(folders: Folders, address: str, mode: str) -> AsyncIterator[str]:
    """The address of a rogue before the aggregator at ``address``."""
    async with AsyncExitStack() as stack:
        aggregator = Credentials.read(folders.aggregator.cert, AGGREGATOR)
        if mode == "replay":
            shown = aggregator  # its key was on the host's disk
            answer = await _recorded(folders, address, aggregator.leaf)
        else:
            now = datetime.now(UTC)
            members.add_member(folders.aggregator, NAME)
            shown = demo_folders.certified(folders.authority, "aggregator", AGGREGATOR, now)
            own = demo_folders.certified(folders.authority, "collaborator", NAME, now)
            channel = await stack.enter_async_context(_channel(address, aggregator.leaf, own))
            answer = _passed_on(channel, aggregator.leaf if mode == "key" else None)
        server = grpc.aio.server(options=frames.OPTIONS)
        server.add_generic_rpc_handlers((_handlers(answer),))
        roots = folders.authority.anchors.chain
        credentials = grpc.ssl_server_credentials(
            [(shown.key, shown.chain)], roots, require_client_auth=True
        )
        port = server.add_secure_port("127.0.0.1:0", credentials)
        await server.start()
        stack.push_async_callback(server.stop, 0)
        yield f"127.0.0.1:{port}"


def _passed_on(channel: grpc.aio.Channel, truth: x509.Certificate | None) -> Answer:
    """Ask the true aggregator; with ``truth``, tell it that its own certificate is seen."""

    async def answer(key: bytes, challenge: pb.Challenge) -> pb.Evidence:
        if truth is not None:
            challenge.key = key_hash(truth)
        return await ask(channel, challenge)

    return answer


async def _recorded(folders: Folders, address: str, leaf: x509.Certificate) -> Answer:
    """What the true aggregator showed each party at an earlier time."""
    contract, policy = _agreed(folders)
    heard: dict[bytes, pb.Evidence] = {}
    for name, workspace in folders.parties.items():
        own = Credentials.read(workspace.cert, name)
        challenge = pb.Challenge(
            versions=VERSIONS,
            nonce=secrets.token_bytes(NONCE),
            contract=contract,
            policy=policy,
            key=key_hash(leaf),
        )
        async with _channel(address, leaf, own) as channel:
            heard[key_hash(own.leaf)] = await ask(channel, challenge)

    async def answer(key: bytes, challenge: pb.Challenge) -> pb.Evidence:
        return heard[key]

    return answer


def _agreed(folders: Folders) -> tuple[str, str]:
    """Contract and policy, as every party knows them."""
    from fedclave.trust import policy
    from fedclave.workspace import agreement

    found = agreement.find(folders.aggregator)
    if found is None:
        raise Refused(Code.WRONG_CONTRACT, "the demo has no contract")
    return found.contract.id, policy.load(folders.aggregator.attestation).digest


@asynccontextmanager
async def _channel(
    address: str, leaf: x509.Certificate, own: Credentials
) -> AsyncIterator[grpc.aio.Channel]:
    der = leaf.public_bytes(Encoding.DER)
    channel = pinned(address, der, role="aggregator", identity=own, options=frames.OPTIONS)
    async with channel:
        yield channel


def _handlers(answer: Answer) -> grpc.GenericRpcHandler:
    async def attest(incoming: Any, context: Any) -> None:
        first = await context.read()
        try:
            evidence = await answer(key_of(certificate_of(context)), first.challenge)
        except Refused as refused:
            await frames.abort(context, refused)
        await context.write(pb.AttestDown(evidence=evidence))
        await context.read()  # the member's evidence, if it should fall for ours

    call = grpc.stream_stream_rpc_method_handler(
        attest,
        request_deserializer=pb.AttestUp.FromString,
        response_serializer=pb.AttestDown.SerializeToString,
    )
    return grpc.method_handlers_generic_handler(frames.SERVICE, {"Attest": call})
