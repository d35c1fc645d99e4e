# SPDX-License-Identifier: Apache-2.0
"""A member that hangs up while its answer is folded, by bad luck or on purpose.

The thread that folds goes on. What it reads may not be written over, what it adds counts once, and
the round waits for it: else one lost connection would change the model, or stop the run.
"""

import asyncio
import hashlib
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support.local import Chaser, Federation, Run, Scripted, answer, plan
from tests.support.mallory import MALLORY, QUORUM, SHORT

from fedclave.engine.ports import Accept
from fedclave.engine.spool import Body, Spool
from fedclave.errors import Refused
from fedclave.messages import Fit, Packet, Reply, Request
from fedclave.tensors import Layout, encode
from fedclave.transport.local import LocalTransport

COUNT = 200_000  # elements: the update goes to a file
pytestmark = pytest.mark.timeout(60)


class Big(Chaser):
    """Moves every element by 0.5, whatever its number."""

    def weights(self) -> dict[str, Any]:
        return {"w": np.zeros(COUNT), "steps": np.zeros((), np.int64)}

    def run(self, task: Any, params: Any, pull: Any) -> Fit:
        if task.run == "evaluate":
            return Fit(examples=4, metrics={"loss": 1.0})
        return Fit(params={"w": params["w"] + 0.5, "steps": params["steps"] + 1}, examples=4)


class Fold:
    """Holds the thread that folds once, from the moment in which ``holding`` is set."""

    def __init__(self) -> None:
        self.holding = False
        self.entered, self.released = threading.Event(), threading.Event()

    def at(self, point: str) -> None:
        if point == "aggregator/folding" and self.holding and not self.entered.is_set():
            self.entered.set()
            assert self.released.wait(30)

    async def hang_up(self, answering: "asyncio.Task[None]") -> None:
        """Lose the connection, as grpc.aio does it, while the answer is folded."""
        await asyncio.to_thread(self.entered.wait, 30)
        answering.cancel()
        await asyncio.gather(answering, return_exceptions=True)


def federation(folder: Path, fold: Fold, act: Any, **options: Any) -> Federation:
    learners = {"anna": Big(1.0), "bernd": Big(2.0), MALLORY: Big(5.0)}
    return Federation(
        folder=folder,
        plan=plan(rounds=1, **{"quorum": QUORUM, **options}),
        learners=learners,
        wrap=lambda honest, store: Scripted(honest, {(MALLORY, 1): act(honest)}),
        at=fold.at,
        small=0,
    )


def uploaded(spool: Spool, layout: Layout, w: float) -> tuple[Packet, Body]:
    raw = encode({"w": np.full(COUNT, w), "steps": np.ones((), np.int64)})
    digest = hashlib.sha256(raw).hexdigest()
    upload = spool.begin(MALLORY, digest, layout)
    upload.write(raw[upload.offset :])
    body = spool.commit(MALLORY, upload)
    return Packet(digest=digest, size=len(raw), weight=4), body


def moved(run: Run) -> tuple[float, float]:
    assert run.error is None
    return float(run.params["w"].min()), float(run.params["w"].max())


def test_an_answer_whose_connection_is_lost_while_it_is_folded_counts_once(tmp_path: Path) -> None:
    fold, spool = Fold(), Spool(tmp_path / "theirs", 0)

    def act(honest: LocalTransport) -> Any:
        async def twice(request: Request, layout: Layout, accept: Accept) -> None:
            packet, body = uploaded(spool, layout, 0.5)
            reply = Reply(request=request.id, packet=packet)
            fold.holding = True
            answering = asyncio.ensure_future(accept(reply, body))
            await fold.hang_up(answering)
            again = uploaded(Spool(tmp_path / "again", 0), layout, 0.5)[1]
            with pytest.raises(Refused):
                await accept(Reply(request=request.id, packet=packet), again)
            fold.released.set()
            await asyncio.sleep(3600)

        return twice

    run = federation(tmp_path, fold, act).run()
    assert moved(run) == (0.5, 0.5)
    accepted = [e["member"] for e in run.of("update_accepted") if e["round"] == 1]
    assert sorted(accepted) == ["anna", "bernd", MALLORY]
    assert [e["code"] for e in run.of("update_refused")] == ["duplicate"]


def test_nothing_is_written_over_an_update_that_is_being_folded(tmp_path: Path) -> None:
    fold, spool = Fold(), Spool(tmp_path / "theirs", 0)

    def act(honest: LocalTransport) -> Any:
        async def swap(request: Request, layout: Layout, accept: Accept) -> None:
            packet, body = uploaded(spool, layout, 0.5)
            fold.holding = True
            answering = asyncio.ensure_future(
                accept(Reply(request=request.id, packet=packet), body)
            )
            await fold.hang_up(answering)
            uploaded(spool, layout, 1e30)  # never answered with
            fold.released.set()
            await asyncio.sleep(3600)

        return swap

    run = federation(tmp_path, fold, act).run()
    assert moved(run) == (0.5, 0.5)


def test_a_round_whose_deadline_passes_while_a_lost_answer_is_folded_closes(tmp_path: Path) -> None:
    fold = Fold()

    def act(honest: LocalTransport) -> Any:
        async def vanish(request: Request, layout: Layout, accept: Accept) -> None:
            await asyncio.sleep(0.3)
            delta = {"w": np.full(COUNT, 0.5), "steps": np.ones((), np.int64)}
            fold.holding = True
            answering = asyncio.ensure_future(accept(*answer(request, delta, 4)))
            await asyncio.sleep(0.8)  # the deadline passes
            await fold.hang_up(answering)
            fold.released.set()
            await asyncio.sleep(3600)

        return vanish

    run = federation(tmp_path, fold, act, quorum=SHORT).run()
    assert moved(run) == (0.5, 0.5)
    (closed, *_) = run.of("round_closed")
    assert closed["accepted"] == ["anna", "bernd", MALLORY]
