# SPDX-License-Identifier: Apache-2.0
"""How long a collaborator waits for its aggregator, on a clock of the test's own."""

import asyncio
from typing import Any, cast

import grpc
import pytest

from fedclave.engine.collaborator import Collaborator
from fedclave.errors import Unavailable
from fedclave.transport.grpc import client
from fedclave.transport.grpc.client import Client, Connection
from fedclave.transport.grpc.proto import federation_pb2 as pb

PATIENCE_S = 600.0
MODEL = "ab" * 32
WELCOME = pb.Down(welcome=pb.Welcome(version=1, federation="kit", rounds=1))
DONE = pb.Down(done=pb.Done(model=MODEL))


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Call:
    """A Work stream that says what it was given, a day apart, and ends."""

    def __init__(self, clock: Clock, says: list[pb.Down]) -> None:
        self._clock = clock
        self._says = says

    async def write(self, up: pb.Up) -> None:
        return None

    async def read(self) -> Any:
        if self._says:
            return self._says.pop(0)
        self._clock.now += 86_400
        return grpc.aio.EOF

    async def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.OK

    def cancel(self) -> None:
        return None


class Channel:
    def __init__(self, call: Call) -> None:
        self._call = call

    def stream_stream(self, method: str, **how: Any) -> Any:
        return lambda: self._call

    async def close(self) -> None:
        return None


def outcome(monkeypatch: pytest.MonkeyPatch, *streams: list[pb.Down]) -> str:
    clock, left = Clock(), list(streams)
    monkeypatch.setattr(client, "monotonic", clock)
    monkeypatch.setattr(client, "FIRST_PAUSE_S", 0.0)

    async def connect() -> Connection:
        if not left:
            clock.now += PATIENCE_S + 1
            raise Unavailable("nobody there")
        return Connection(channel=cast(grpc.aio.Channel, Channel(Call(clock, left.pop(0)))))

    collaborator = cast(Collaborator, None)  # it is asked nothing
    return asyncio.run(Client("anna", "p", "agg:1", connect, collaborator).run(PATIENCE_S, 60.0))


def test_a_stream_that_stood_is_contact_however_quiet_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert outcome(monkeypatch, [WELCOME], [WELCOME, DONE]) == MODEL


def test_a_stream_without_a_welcome_is_no_contact(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unavailable, match="No contact for 86400 s"):
        outcome(monkeypatch, [], [WELCOME, DONE])


def test_nobody_is_waited_for_beyond_the_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unavailable, match=r"nobody there\. No contact for 601 s"):
        outcome(monkeypatch, [WELCOME])
