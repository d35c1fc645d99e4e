# SPDX-License-Identifier: Apache-2.0
"""How calls that failed are told: by what the peer said, where it said anything."""

import asyncio
from typing import Any

import grpc
import pytest

from fedclave.errors import Code, FedclaveError, Refused, Unavailable
from fedclave.transport.grpc import frames

CALL = "/kit/Talk"


async def written_to_after_its_end(end: Any) -> FedclaveError:
    """What is told of a write on a call that the peer has ended already."""

    async def talk(incoming: Any, context: Any) -> None:
        await end(context)

    server = grpc.aio.server()
    handler = grpc.stream_stream_rpc_method_handler(talk)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("kit", {"Talk": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            with pytest.raises(FedclaveError) as told:
                async with frames.told("the aggregator") as of:
                    call = of(channel.stream_stream(CALL)())
                    await call.code()
                    await call.write(b"late")
            return told.value
    finally:
        await server.stop(None)


def test_a_write_on_a_call_that_was_refused_tells_the_refusal() -> None:
    async def refuse(context: Any) -> None:
        await frames.abort(context, Refused(Code.CERTIFICATE_REVOKED, "not any more"))

    error = asyncio.run(written_to_after_its_end(refuse))
    assert isinstance(error, Refused)
    assert (error.code, "not any more" in str(error)) == (Code.CERTIFICATE_REVOKED, True)


def test_a_write_on_a_call_that_ended_in_order_is_tried_again() -> None:
    async def leave(context: Any) -> None:
        return None

    error = asyncio.run(written_to_after_its_end(leave))
    assert isinstance(error, Unavailable)
