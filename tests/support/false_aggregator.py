# SPDX-License-Identifier: Apache-2.0
"""An aggregator that proves what it runs as the true one would, and shows what log it likes."""

import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple

import grpc
from cryptography import x509
from tests.support import trust
from tests.support.federation import Federation

from fedclave.transport.grpc.frames import SERVICE
from fedclave.transport.grpc.proto import federation_pb2 as pb
from fedclave.trust import claims, policy, ratls, release
from fedclave.trust.attesting import key_hash
from fedclave.trust.claims import Claims
from fedclave.trust.credentials import Credentials
from fedclave.trust.quoting import QuotingEnclave
from fedclave.workspace import agreement
from fedclave.workspace.layout import Workspace


class Show(NamedTuple):
    """What it shows of its log."""

    head: bytes
    growth: tuple[bytes, ...] = ()


Say = Callable[[int], Show]
"""What to show to a member that has seen so many entries."""


class FalseAggregator:
    """``address`` is where it listens; ``heard`` what members answered."""

    def __init__(self, fed: Federation) -> None:
        workspace = Workspace(fed.folder)
        found = agreement.find(workspace)
        assert found is not None
        self.say: Say = lambda seen: Show(b"")
        self.address = ""
        self.heard: list[pb.AttestUp] = []
        self.own = Credentials.read(fed.cert, "aggregator")
        self._contract, self._policy = found.contract.id, policy.load(workspace.attestation).digest
        self._enclave = QuotingEnclave(fed.platform.quoting)
        self._measurement = trust.measured(workspace)

    def attest(self, incoming: Iterator[pb.AttestUp], context: Any) -> Iterator[pb.AttestDown]:
        """The call ``Attest``."""
        challenge = next(incoming).challenge
        shown = self.say(challenge.seen)
        peer = x509.load_pem_x509_certificate(context.auth_context()["x509_pem_cert"][0])
        asked = secrets.token_bytes(32)
        said = claims.encode(
            Claims(
                role="aggregator", name="aggregator", federation="kit", contract=self._contract,
                policy=self._policy, key=key_hash(self.own.leaf), peer=key_hash(peer),
                nonce=challenge.nonce, own_nonce=asked, time=datetime.now(UTC),
                hpke_key=release.generate().public, checkpoint=shown.head,
            )
        )  # fmt: skip
        quote = self._enclave.quote(self._measurement, claims.report_data(said))
        evidence = ratls.encode(quote, said)
        yield pb.AttestDown(
            evidence=pb.Evidence(evidence=evidence, nonce=asked, growth=shown.growth)
        )
        self.heard.append(next(incoming))
        context.abort(grpc.StatusCode.UNAVAILABLE, "that is all")


@contextmanager
def false_aggregator(fed: Federation) -> Iterator[FalseAggregator]:
    """One that listens while the block lasts."""
    made = FalseAggregator(fed)
    call = grpc.stream_stream_rpc_method_handler(
        made.attest,
        request_deserializer=pb.AttestUp.FromString,
        response_serializer=pb.AttestDown.SerializeToString,
    )
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE, {"Attest": call}),)
    )
    credentials = grpc.ssl_server_credentials(
        [(made.own.key, made.own.chain)], fed.anchors.chain, require_client_auth=True
    )
    made.address = f"localhost:{server.add_secure_port('localhost:0', credentials)}"
    server.start()
    try:
        yield made
    finally:
        server.stop(0)
