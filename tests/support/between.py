# SPDX-License-Identifier: Apache-2.0
"""Who stands where the aggregator should: TLS ends here, and the evidence is another's."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from cryptography import x509
from tests.support.attesting import Attesting
from tests.support.federation import Federation

from fedclave.transport.grpc.frames import CODE_KEY, SERVICE
from fedclave.transport.grpc.proto import federation_pb2 as pb
from fedclave.trust.attesting import key_hash
from fedclave.trust.credentials import Credentials

Answer = Callable[[bytes, pb.Challenge], pb.Evidence]
"""What a member with this TLS key is shown for its challenge."""


class Between(grpc.GenericRpcHandler):
    """``called`` are the calls that came, ``heard`` what members sent after the evidence."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.address = ""
        self.called: list[str] = []
        self.heard: list[pb.AttestUp] = []

    def service(self, details: Any) -> grpc.RpcMethodHandler | None:
        """Every call is noted; only ``Attest`` is answered."""
        self.called.append(details.method.rpartition("/")[2])
        if details.method != f"/{SERVICE}/Attest":
            return None
        return grpc.stream_stream_rpc_method_handler(
            self._attest,
            request_deserializer=pb.AttestUp.FromString,
            response_serializer=pb.AttestDown.SerializeToString,
        )

    def _attest(self, incoming: Iterator[pb.AttestUp], context: Any) -> Iterator[pb.AttestDown]:
        challenge = next(incoming).challenge
        peer = x509.load_pem_x509_certificate(context.auth_context()["x509_pem_cert"][0])
        try:
            evidence = self.answer(key_hash(peer), challenge)
        except grpc.RpcError as error:  # what it asked refused it, and so the member is told
            context.set_trailing_metadata(
                [(k, v) for k, v in error.trailing_metadata() if k == CODE_KEY or "message" in k]
            )
            context.abort(error.code(), error.details())
        yield pb.AttestDown(evidence=evidence)
        self.heard.append(next(incoming))
        context.abort(grpc.StatusCode.UNAVAILABLE, "that is all")


@contextmanager
def between(fed: Federation, shown: Credentials, answer: Answer) -> Iterator[Between]:
    """One that shows this certificate, and listens while the block lasts."""
    made = Between(answer)
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((made,))
    credentials = grpc.ssl_server_credentials(
        [(shown.key, shown.chain)], fed.anchors.chain, require_client_auth=True
    )
    made.address = f"localhost:{server.add_secure_port('localhost:0', credentials)}"
    server.start()
    try:
        yield made
    finally:
        server.stop(0)


def asked(channel: grpc.Channel, challenge: pb.Challenge) -> pb.Evidence:
    """What the true aggregator shows for a challenge; the attestation is then given up."""
    call = Attesting(channel)
    try:
        call.say(challenge=challenge)
        return call.hear().evidence
    finally:
        call.end()
