# SPDX-License-Identifier: Apache-2.0
"""One member's side: work is done once, one piece at a time, and given again as it was."""

import asyncio
import gc
import threading
from collections.abc import Callable, Coroutine
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.support.local import Chaser, Federation, plan

from fedclave import tensors
from fedclave.engine import threads
from fedclave.engine.collaborator import Collaborator
from fedclave.engine.notebook import Notebook
from fedclave.errors import Code, Refused, Unavailable
from fedclave.messages import Fit, Pull, Request, Task
from fedclave.tensors import Stored, Tensors

PLAN = plan()


class Held(Chaser):
    """Begins to train, and goes on when it is let go."""

    def __init__(self) -> None:
        super().__init__(1.0)
        self.go = threading.Event()
        self.begun = threading.Event()
        self.at_once = self.most = 0

    def run(self, task: Task, params: Tensors, pull: Pull) -> Fit:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        self.begun.set()
        assert self.go.wait(20)
        fit = super().run(task, params, pull)
        self.at_once -= 1
        return fit


class Server:
    """Where the member gets models from."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.fetched = 0
        self.model = tensors.write_content(folder, Chaser(0).weights())
        self.path = folder / f"{self.model}.safetensors"

    def request(self, number: int = 1, **fields: Any) -> Request:
        given = {"plan": PLAN.digest, "tasks": ("train",), "params": self.model, **fields}
        return Request(round=number, member="anna", size=self.path.stat().st_size, **given)

    async def fetch(self, digest: str, size: int) -> Tensors:
        self.fetched += 1
        await asyncio.sleep(0)
        return Stored(self.path)


Act = Callable[[Collaborator, Server], Coroutine[Any, Any, None]]


def member(folder: Path, learner: Chaser, act: Act) -> None:
    """Have a collaborator with this learner do something."""
    server = Server(folder / "server")
    fed = Federation(folder=folder, plan=PLAN, learners={})

    async def run() -> None:
        with closing(Notebook(folder / "anna")) as notebook:
            await act(fed.collaborator(learner, notebook), server)

    asyncio.run(run())


async def begun(learner: Held) -> None:
    assert await asyncio.to_thread(learner.begun.wait, 20)


def test_a_request_that_comes_again_is_answered_with_the_same_bytes(tmp_path: Path) -> None:
    learner = Chaser(1.0)

    async def act(anna: Collaborator, server: Server) -> None:
        first, path = await anna.answer(server.request(), server.fetch)
        again, same = await anna.answer(server.request(), server.fetch)
        assert (first, path) == (again, same)
        assert (len(learner.done), server.fetched) == (1, 1)
        assert path is not None and first.packet is not None
        assert tensors.file_digest(path) == first.packet.digest

    member(tmp_path, learner, act)


def test_the_same_request_at_once_is_worked_on_once(tmp_path: Path) -> None:
    learner = Held()
    learner.go.set()

    async def act(anna: Collaborator, server: Server) -> None:
        asked = [anna.answer(server.request(), server.fetch) for _ in range(3)]
        replies = await asyncio.gather(*asked)
        assert replies[0] == replies[1] == replies[2]
        assert (len(learner.done), server.fetched) == (1, 1)

    member(tmp_path, learner, act)


def test_a_request_after_a_lost_connection_joins_the_work_that_is_running(tmp_path: Path) -> None:
    learner = Held()

    async def act(anna: Collaborator, server: Server) -> None:
        lost = asyncio.create_task(anna.answer(server.request(), server.fetch))
        await begun(learner)
        lost.cancel()
        await asyncio.gather(lost, return_exceptions=True)
        again = asyncio.create_task(anna.answer(server.request(), server.fetch))
        await asyncio.sleep(0)
        learner.go.set()
        reply, _ = await again
        assert reply.packet is not None
        assert len(learner.done) == 1

    member(tmp_path, learner, act)


def test_a_learner_never_does_two_things_at_once(tmp_path: Path) -> None:
    learner = Held()

    async def act(anna: Collaborator, server: Server) -> None:
        asked = [
            asyncio.create_task(anna.answer(server.request(number), server.fetch))
            for number in (1, 2, 3, 4)
        ]
        await begun(learner)
        learner.go.set()
        await asyncio.gather(*asked)
        assert learner.most == 1
        assert [number for number, _ in learner.done] == [1, 2, 3, 4]

    member(tmp_path, learner, act)


def test_a_failure_is_not_kept_so_that_the_same_request_tries_again(tmp_path: Path) -> None:
    class Once(Chaser):
        def run(self, task: Task, params: Tensors, pull: Pull) -> Fit:
            fit = super().run(task, params, pull)
            if len(self.done) == 1:
                raise OSError("the data's server is away")
            return fit

    async def act(anna: Collaborator, server: Server) -> None:
        failed, path = await anna.answer(server.request(), server.fetch)
        assert failed.failure is not None and failed.failure.code is Code.TASK_FAILED
        assert path is None
        reply, _ = await anna.answer(server.request(), server.fetch)
        assert reply.failure is None

    member(tmp_path, Once(1.0), act)


def test_a_fetch_that_breaks_off_is_tried_again(tmp_path: Path) -> None:
    async def act(anna: Collaborator, server: Server) -> None:
        async def broken(digest: str, size: int) -> Tensors:
            raise Unavailable("the connection is gone")

        with pytest.raises(Unavailable, match="connection is gone"):
            await anna.answer(server.request(), broken)
        reply, _ = await anna.answer(server.request(), server.fetch)
        assert reply.packet is not None

    member(tmp_path, Chaser(1.0), act)


def test_another_plan_is_refused_and_nothing_is_done(tmp_path: Path) -> None:
    learner = Chaser(1.0)

    async def act(anna: Collaborator, server: Server) -> None:
        with pytest.raises(Refused) as refused:
            await anna.answer(server.request(plan="0" * 64), server.fetch)
        assert refused.value.code is Code.WRONG_PLAN
        assert (learner.done, server.fetched) == ([], 0)

    member(tmp_path, learner, act)


def test_a_task_that_the_plan_does_not_have_is_not_done(tmp_path: Path) -> None:
    learner = Chaser(1.0)

    async def act(anna: Collaborator, server: Server) -> None:
        asked = server.request(tasks=("exfiltrate",))
        reply, _ = await anna.answer(asked, server.fetch)
        assert reply.failure is not None and reply.failure.code is Code.NOT_ASKED
        assert learner.done == []

    member(tmp_path, learner, act)


def test_steps_are_told_as_they_start(tmp_path: Path) -> None:
    told: list[str] = []

    async def act(anna: Collaborator, server: Server) -> None:
        asked = server.request(tasks=("validate/global", "train"))
        await anna.answer(asked, server.fetch, lambda request, step: told.append(step))

    member(tmp_path, Chaser(1.0), act)
    assert told == ["validate/global", "train"]


# Threads


def test_what_a_thread_raises_arrives_where_it_is_awaited() -> None:
    def fail() -> None:
        raise Unavailable("the disk is full")

    async def run() -> None:
        with pytest.raises(Unavailable, match="disk is full"):
            await threads.run(fail)
        assert await threads.run(divmod, 7, 2) == (3, 1)

    asyncio.run(run())


def test_what_an_abandoned_thread_raises_troubles_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    go = threading.Event()
    ended = threading.Event()

    def fail() -> None:
        go.wait(20)
        try:
            raise Unavailable("the folder was closed")
        finally:
            ended.set()

    async def run() -> None:
        left = threads.run(fail)
        waiting = asyncio.create_task(asyncio.wait_for(asyncio.shield(left), 20))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        go.set()
        await asyncio.to_thread(ended.wait, 20)
        await asyncio.wait({left})

    asyncio.run(run())
    gc.collect()
    assert caplog.records == []


def test_a_thread_that_outlives_the_loop_ends_in_peace() -> None:
    go = threading.Event()

    async def run() -> None:
        threads.run(go.wait, 20)

    asyncio.run(run())
    learners = [thread for thread in threading.enumerate() if thread.name == "learner"]
    go.set()
    for thread in learners:
        thread.join(20)
        assert not thread.is_alive()
