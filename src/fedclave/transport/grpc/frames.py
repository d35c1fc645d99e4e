# SPDX-License-Identifier: Apache-2.0
"""How things look on the wire: frames of an upload, conversions to and from protobuf, errors.

A message of ``Push`` is one byte that says what it is, then that: ``B`` a PushBegin, ``D`` data,
``C`` a PushCommit. Data frames are ``CHUNK`` bytes, the last one what is left. Those of ``Fetch``
are data alone. Refusals are a gRPC status with the code in the trailing metadata ``fx-code``.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import grpc

from fedclave.errors import Code, FedclaveError, Refused, Unavailable
from fedclave.messages import Failure, Measurement, Packet, Reply, Request
from fedclave.transport.grpc.proto import federation_pb2 as pb

CHUNK = 2**20  # bytes of data in a frame
BEGIN, DATA, COMMIT = b"B", b"D", b"C"
SERVICE = "fedclave.v1.Federation"
CODE_KEY = "fx-code"
MAX_MESSAGE = CHUNK + 2**16  # bytes

OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.max_metadata_size", 2**14),
    # A fixed window bounds the memory that one peer can make us hold; the bandwidth-delay probe
    # would grow it. docs/adr/0003 has the measurements.
    ("grpc.http2.lookahead_bytes", 2 * 2**20),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 15_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 20_000),
]
"""HTTP/2 options of both sides."""

_STATUS: dict[Code, grpc.StatusCode] = {
    Code.OVER_QUOTA: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Code.TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Code.TOO_SLOW: grpc.StatusCode.DEADLINE_EXCEEDED,
    Code.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Code.MALFORMED: grpc.StatusCode.INVALID_ARGUMENT,
}


async def abort(context: Any, refused: Refused) -> NoReturn:
    """End a call with this refusal."""
    status = _STATUS.get(refused.code, grpc.StatusCode.PERMISSION_DENIED)
    metadata = ((CODE_KEY, str(refused.code)),)
    await context.abort(status, refused.message[:1024], trailing_metadata=metadata)
    raise AssertionError("abort raises")


def error(call: grpc.aio.AioRpcError, address: str) -> FedclaveError:
    """What a failed call means to us: ``Refused`` when the peer said so, else ``Unavailable``."""
    code = next((value for key, value in call.trailing_metadata() or () if key == CODE_KEY), None)
    details = call.details() or call.code().name
    if code in (Code.OVER_QUOTA, Code.TOO_SLOW):  # of the moment, not of the peer
        return Unavailable(f"{address}: {details}")
    if isinstance(code, str) and code in set(Code):
        return Refused(Code(code), details)
    if call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Refused(Code.TOO_LARGE, f"{address}: {details}")
    if call.code() is grpc.StatusCode.UNIMPLEMENTED:
        return Refused(Code.WRONG_VERSION, f"{address} does not speak {SERVICE}: {details}")
    return Unavailable(f"{address}: {details}")


async def next_message(call: Any) -> Any:
    """The next message of a call that has one. Raises what ended the call, if it ended."""
    message = await call.read()
    if message is grpc.aio.EOF:
        raise await ended(call)
    return message


async def ended(call: Any) -> grpc.aio.AioRpcError:
    """How a call ended."""
    return grpc.aio.AioRpcError(
        await call.code(),
        await call.initial_metadata(),
        await call.trailing_metadata(),
        details=await call.details(),
    )


@asynccontextmanager
async def told(address: str) -> AsyncIterator[Callable[[Any], Any]]:
    """Turn the errors of gRPC into ours. What it yields takes a call, and gives it back.

    A write on a call that has ended says only that; how such a call ended is asked of it.
    """
    calls: list[Any] = []

    def of(call: Any) -> Any:
        calls.append(call)
        return call

    try:
        yield of
    except grpc.aio.AioRpcError as failed:
        raise error(failed, address) from failed
    except asyncio.InvalidStateError as failed:
        for call in calls:
            if call.done() and await call.code() is not grpc.StatusCode.OK:
                raise error(await ended(call), address) from failed
        raise Unavailable(f"{address}: the call has ended") from failed


@asynccontextmanager
async def moving(within_s: float) -> AsyncIterator[Callable[[], None]]:
    """Raise ``TimeoutError`` unless what this yields is called again within so many seconds.

    One timer for all chunks of a transfer, where ``wait_for`` makes a task for each.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(within_s) as limit:
        yield lambda: limit.reschedule(loop.time() + within_s)


def request_to_wire(request: Request) -> pb.Request:
    """A request as protobuf."""
    return pb.Request(
        id=request.id,
        plan=request.plan,
        round=request.round,
        tasks=request.tasks,
        params=request.params,
        size=request.size,
    )


def request_from_wire(wire: pb.Request, member: str) -> Request:
    """A request to ``member``; its id must be that of its content."""
    request = Request(
        plan=wire.plan,
        round=wire.round,
        member=member,
        tasks=tuple(wire.tasks),
        params=sha256(wire.params),
        size=wire.size,
    )
    if request.id != wire.id:
        raise Refused(Code.MALFORMED, "the request's id is not that of its content")
    return request


def reply_to_wire(reply: Reply) -> pb.Reply:
    """A reply as protobuf."""
    wire = pb.Reply(request=reply.request)
    if reply.packet is not None:
        wire.packet.CopyFrom(pb.Packet(**vars(reply.packet)))
    for m in reply.measurements:
        wire.measurements.add(series=m.series, examples=m.examples, values=dict(m.values))
    if reply.failure is not None:
        wire.failure.CopyFrom(refusal(Refused(reply.failure.code, reply.failure.message)))
    return wire


def reply_from_wire(wire: pb.Reply) -> Reply:
    """A reply; what does not parse is ``Refused(MALFORMED)``."""
    packet = failure = None
    if wire.HasField("packet"):
        p = wire.packet
        packet = Packet(digest=sha256(p.digest), size=p.size, weight=p.weight)
    if wire.HasField("failure"):
        known = Code(wire.failure.code) if wire.failure.code in set(Code) else Code.TASK_FAILED
        failure = Failure(code=known, message=printable(wire.failure.message))
    return Reply(
        request=wire.request,
        packet=packet,
        measurements=tuple(
            Measurement(
                series=printable(m.series),
                examples=m.examples,
                values={printable(name): value for name, value in sorted(m.values.items())},
            )
            for m in wire.measurements
        ),
        failure=failure,
    )


def refusal(refused: Refused) -> pb.Refusal:
    """A refusal as protobuf."""
    return pb.Refusal(code=str(refused.code), message=refused.message[:1024])


def sha256(text: str) -> str:
    """The text, if it is a SHA-256 in lower-case hex: it may then name a file."""
    if len(text) != 64 or set(text) - set("0123456789abcdef"):
        raise Refused(Code.MALFORMED, "a digest must be 64 lower-case hex digits")
    return text


def printable(text: str, most: int = 1024) -> str:
    """A peer's text for logs and screens: no control characters, not endless."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text[:most])
