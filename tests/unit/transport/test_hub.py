# SPDX-License-Identifier: Apache-2.0
"""What the hub does with answers: judged once, to the end, whatever becomes of the connection."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedclave.engine.events import Events
from fedclave.engine.spool import Body, Spool
from fedclave.errors import Code, Refused
from fedclave.messages import Packet, Reply, Request
from fedclave.tensors import encode, layout_of
from fedclave.transport.grpc.hub import Hub, Session
from fedclave.transport.grpc.proto import federation_pb2 as pb

TENSORS = {"w": np.arange(1000.0)}
LAYOUT = layout_of(TENSORS)
REQUEST = Request(
    plan="ab" * 32, round=1, member="anna", tasks=("train",), params="cd" * 32, size=8
)
Judge = Callable[[Reply, Body | None], Awaitable[None]]


class Town:
    """A hub with an open request to anna, and how it is judged."""

    def __init__(self, folder: Path, judge: Judge) -> None:
        self.hub = Hub(Spool(folder, 0), Events(None, lambda: datetime.now(UTC)))
        self._judge = judge
        self._asking: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Town":
        self._asking = asyncio.create_task(self.hub.ask(REQUEST, LAYOUT, self._judge))
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def connected(self) -> Session:
        session = Session("anna", "fingerprint", "one", "somewhere")
        await self.hub.join(session)
        return session

    async def pushed(self, value: float = 0.0) -> Packet:
        raw = encode({"w": np.arange(1000.0) + value})
        digest = hashlib.sha256(raw).hexdigest()
        begin = pb.PushBegin(request=REQUEST.id, digest=digest, size=len(raw))
        upload = self.hub.begin("anna", begin)
        upload.write(raw[upload.offset :])
        await self.hub.commit("anna", upload, REQUEST.id)
        return Packet(digest=digest, size=len(raw), weight=1)


def test_members_of_the_first_wire_version_are_stated_nothing(tmp_path: Path) -> None:
    async def told() -> list[list[str | None]]:
        hub = Hub(Spool(tmp_path, 0), Events(None, lambda: datetime.now(UTC)))
        sessions = [Session(f"member-{v}", "fp", "one", "there", version=v) for v in (1, 2, 1, 2)]
        for session in sessions[:2]:
            await hub.join(session)
        hub.state(b"how far")
        for session in sessions[2:]:
            await hub.join(session)
        return [
            [down.WhichOneof("body") for down in list(session.down._queue) if down is not None]
            for session in sessions
        ]

    assert asyncio.run(told()) == [[], ["stated"], [], ["stated"]]


def heard(session: Session) -> list[Any]:
    """Verdicts that went down: None for accepted, else the code."""
    found = []
    while not session.down.empty():
        down = session.down.get_nowait()
        if down is not None and down.HasField("verdict"):
            verdict = down.verdict
            found.append(verdict.refusal.code if verdict.HasField("refusal") else None)
    return found


def requests(session: Session) -> int:
    downs = [session.down.get_nowait() for _ in range(session.down.qsize())]
    return sum(down is not None and down.HasField("request") for down in downs)


def test_the_verdict_goes_to_the_connection_that_the_member_then_has(tmp_path: Path) -> None:
    async def scenario() -> list[Any]:
        judged = asyncio.Event()

        async def judge(reply: Reply, body: Body | None) -> None:
            await judged.wait()

        async with Town(tmp_path, judge) as town:
            first = await town.connected()
            town.hub.reply(first, Reply(request=REQUEST.id, packet=await town.pushed()))
            town.hub.leave(first, "lost")
            second = await town.connected()
            asked_again = requests(second)
            town.hub.reply(second, Reply(request=REQUEST.id))
            judged.set()
            await asyncio.sleep(0.05)
            return [asked_again, heard(second)]

    assert asyncio.run(scenario()) == [0, ["duplicate", None]]


def test_an_answer_that_closes_the_round_is_not_withdrawn(tmp_path: Path) -> None:
    async def scenario() -> list[str]:
        closing = asyncio.Event()

        async def judge(reply: Reply, body: Body | None) -> None:
            closing.set()
            await asyncio.sleep(0.05)

        async with Town(tmp_path, judge) as town:
            session = await town.connected()
            town.hub.reply(session, Reply(request=REQUEST.id, packet=await town.pushed()))
            await closing.wait()
        await asyncio.sleep(0.1)
        downs = [session.down.get_nowait() for _ in range(session.down.qsize())]
        return [down.WhichOneof("body") for down in downs if down is not None]

    assert asyncio.run(scenario()) == ["request", "verdict"]


def test_nor_is_one_whose_verdict_is_out_before_the_request_has_ended(tmp_path: Path) -> None:
    async def scenario() -> list[str]:
        async def judge(reply: Reply, body: Body | None) -> None:
            if town._asking is not None:
                town._asking.cancel()  # it ends only at the loop's next turn: after the verdict

        async with Town(tmp_path, judge) as town:
            session = await town.connected()
            town.hub.reply(session, Reply(request=REQUEST.id))
            for _ in range(5):
                await asyncio.sleep(0)
            downs = [session.down.get_nowait() for _ in range(session.down.qsize())]
            return [down.WhichOneof("body") for down in downs if down is not None]

    assert asyncio.run(scenario()) == ["request", "verdict"]


def test_an_upload_that_was_not_answered_with_is_resumed_by_the_next_connection(
    tmp_path: Path,
) -> None:
    async def scenario() -> list[float]:
        seen: list[float] = []

        async def judge(reply: Reply, body: Body | None) -> None:
            assert body is not None
            seen.extend(float(block[-1]) for _, _, block in body.blocks())

        async with Town(tmp_path, judge) as town:
            await town.pushed()
            packet = await town.pushed()  # the same content, after a lost connection
            town.hub.reply(await town.connected(), Reply(request=REQUEST.id, packet=packet))
            await asyncio.sleep(0.05)
        return seen

    assert asyncio.run(scenario()) == [999.0]


def test_another_upload_takes_the_place_of_one_that_was_not_answered_with(tmp_path: Path) -> None:
    async def scenario() -> list[Any]:
        bodies: list[Body | None] = []

        async def judge(reply: Reply, body: Body | None) -> None:
            bodies.append(body)

        async with Town(tmp_path, judge) as town:
            old = await town.pushed(1.0)
            await town.pushed(2.0)
            town.hub.reply(await town.connected(), Reply(request=REQUEST.id, packet=old))
            await asyncio.sleep(0.05)
        return bodies

    assert asyncio.run(scenario()) == [None]  # the answer's own upload is gone: it has none


def test_no_upload_begins_while_an_answer_is_judged(tmp_path: Path) -> None:
    async def scenario() -> Code:
        judged = asyncio.Event()

        async def judge(reply: Reply, body: Body | None) -> None:
            await judged.wait()

        async with Town(tmp_path, judge) as town:
            packet = await town.pushed()
            town.hub.reply(await town.connected(), Reply(request=REQUEST.id, packet=packet))
            with pytest.raises(Refused) as refused:
                await town.pushed(1.0)
            judged.set()
            return refused.value.code

    assert asyncio.run(scenario()) is Code.DUPLICATE
