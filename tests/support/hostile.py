# SPDX-License-Identifier: Apache-2.0
"""A peer that speaks the wire protocol by hand, to say what no client of ours would say."""

import queue
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from tests.support.federation import Federation

from fedclave.plan import load
from fedclave.transport.grpc import frames
from fedclave.transport.grpc.frames import SERVICE
from fedclave.transport.grpc.proto import federation_pb2 as pb
from fedclave.trust.credentials import Credentials
from fedclave.trust.names import server_name

WAIT_S = 30.0


class Stream:
    """A Work stream: ``say`` up, ``hear`` down."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._ups: queue.Queue[pb.Up | None] = queue.Queue()
        self._call = channel.stream_stream(
            f"/{SERVICE}/Work",
            request_serializer=pb.Up.SerializeToString,
            response_deserializer=pb.Down.FromString,
        )(iter(self._ups.get, None), timeout=WAIT_S)

    def say(self, **body: Any) -> None:
        """Send one message."""
        self._ups.put(pb.Up(**body))

    def hear(self, kind: str) -> Any:
        """The next message of this kind."""
        for down in self._call:
            if down.WhichOneof("body") == kind:
                return getattr(down, kind)
        raise AssertionError(f"the stream ended before a {kind}")

    def end(self) -> None:
        """Leave."""
        self._call.cancel()


class Hostile:
    """Calls with any credentials, or none."""

    def __init__(self, federation: Federation, credentials: Credentials | None) -> None:
        own = (credentials.key, credentials.chain) if credentials else (None, None)
        self._federation = federation
        self.channel = grpc.secure_channel(
            federation.address,
            grpc.ssl_channel_credentials(federation.anchors.chain, *own),
            options=[
                ("grpc.ssl_target_name_override", server_name("aggregator")),
                ("grpc.enable_retries", 0),
                ("grpc.max_send_message_length", -1),
            ],
        )

    def work(self, **hello: Any) -> Stream:
        """Open a Work stream with a hello."""
        stream = Stream(self.channel)
        plan = load(self._federation.folder / "plan/plan.yaml").digest
        stream.say(hello=pb.Hello(**{"versions": [1], "plan": plan, "instance": "x", **hello}))
        return stream

    def status(self) -> pb.StatusReply:
        """Call Status."""
        call = self.channel.unary_stream(
            f"/{SERVICE}/Status",
            request_serializer=pb.StatusRequest.SerializeToString,
            response_deserializer=pb.StatusReply.FromString,
        )
        return next(iter(call(pb.StatusRequest(), timeout=WAIT_S)))

    def fetch(self, digest: str, offset: int = 0) -> bytes:
        """Call Fetch."""
        call = self.channel.unary_stream(
            f"/{SERVICE}/Fetch", request_serializer=pb.FetchRequest.SerializeToString
        )
        return b"".join(call(pb.FetchRequest(digest=digest, offset=offset), timeout=WAIT_S))

    def fetching(self, digest: str) -> Iterator[bytes]:
        """Call Fetch, and read one chunk with each ``next``: whoever waits holds the rest up."""
        call = self.channel.unary_stream(
            f"/{SERVICE}/Fetch", request_serializer=pb.FetchRequest.SerializeToString
        )
        return iter(call(pb.FetchRequest(digest=digest), timeout=WAIT_S))

    def push(self, *sent: bytes, hold: bool = False) -> list[pb.PushReply]:
        """Call Push with these frames; ``hold`` leaves the call open after them."""
        ups: queue.Queue[bytes | None] = queue.Queue()
        for frame in sent:
            ups.put(frame)
        if not hold:
            ups.put(None)
        call = self.channel.stream_stream(
            f"/{SERVICE}/Push", response_deserializer=pb.PushReply.FromString
        )
        return list(call(iter(ups.get, None), timeout=WAIT_S))


@contextmanager
def hostile(federation: Federation, credentials: Credentials | None) -> Iterator[Hostile]:
    """A hostile peer whose connection ends with the block."""
    peer = Hostile(federation, credentials)
    try:
        yield peer
    finally:
        peer.channel.close()


def rest(chunks: Iterator[bytes]) -> tuple[int, str]:
    """How many bytes still come, and the code of the refusal that ends them ("" for none)."""
    size = 0
    try:
        for chunk in chunks:
            size += len(chunk)
    except grpc.RpcError as error:
        return size, code_of(error)
    return size, ""


def begin(request: str, digest: str, size: int) -> bytes:
    """The frame that begins an upload."""
    content = pb.PushBegin(request=request, digest=digest, size=size)
    return frames.BEGIN + content.SerializeToString()


def commit(digest: str, size: int) -> bytes:
    """The frame that ends an upload."""
    return frames.COMMIT + pb.PushCommit(digest=digest, size=size).SerializeToString()


def code_of(error: grpc.RpcError) -> str:
    """The refusal's code, or gRPC's own status."""
    trailing = dict(error.trailing_metadata() or ())
    return str(trailing.get(frames.CODE_KEY, error.code().name))
