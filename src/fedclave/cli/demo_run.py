# SPDX-License-Identifier: Apache-2.0
"""The processes of ``fx demo``, and what is measured beside them while they run.

One ``fx aggregator start`` and a ``fx collaborator start`` for each party talk over loopback. The
aggregator's JSON lines drive everything here: its first says where it listens, so no port is chosen
in advance, and its last says what came out.
"""

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedclave.cli import console, demo_folders, demo_levels, plot
from fedclave.cli.child import Child
from fedclave.cli.demo_folders import Folders
from fedclave.cli.demo_levels import Levels, Measure
from fedclave.engine.events import Event
from fedclave.errors import Bug, Unavailable
from fedclave.tensors import Stored
from fedclave.trust.measure import FROM_SOURCE

LISTEN = "127.0.0.1:0"
GOODBYE_S = 10.0  # how long parties may take to end once the aggregator has
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")  # none leads to this machine's loopback
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # many processes, few cores

Listener = Callable[[Event], None]


class ChildEnded(Unavailable):
    """A process of the demo ended before the run did; the exit code is the process's own."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = code  # type: ignore[misc]  # of this error, not of its class


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a demo came to."""

    finished: Event
    accuracy: float
    examples: int  # rows that it was measured on
    levels: Levels
    plot: Path


@dataclass
class _Watch:
    """Follows the aggregator's events; measures each round's model on the rows of the test."""

    folders: Folders
    listener: Listener
    events: list[Event] = field(default_factory=list)
    accuracy: dict[int, float] = field(default_factory=dict)
    error: str = ""
    measure: Measure | None = None  # there once the data is

    def take(self, line: bytes) -> None:
        """One line of the aggregator's output."""
        event = json.loads(line)
        if "error" in event:
            self.error = event["error"]["message"]
            return
        self.events.append(event)
        self.listener(event)
        if event["event"] in ("run_started", "round_closed"):
            self._measured(event["round"], event["model"])

    def finished(self) -> Event:
        """The event that ends a run."""
        return next(e for e in reversed(self.events) if e["event"] == "run_finished")

    def _measured(self, number: int, model: str) -> None:
        """A model stays on disk for two more rounds; a point that comes too late is left out."""
        path = self.folders.aggregator.save / "models" / f"{model}.safetensors"
        if self.measure is not None and number <= self.folders.plan.rounds:
            with suppress(FileNotFoundError):
                self.accuracy[number] = self.measure(Stored(path))[0]


async def play(folders: Folders, listener: Listener) -> Outcome:
    """Deal the data, run the processes to their end, draw the curves."""
    watch, over = _Watch(folders, listener), threading.Event()
    try:
        async with _children() as children:
            aggregator = await children.aggregator(folders)
            lines = aggregator.lines()
            address, _ = await asyncio.gather(
                _address(watch, lines, children), asyncio.to_thread(demo_folders.deal, folders)
            )
            watch.measure = measure = Measure(folders)
            for name in folders.parties:
                await children.collaborator(folders, name, address)
            beside = asyncio.create_task(
                asyncio.to_thread(_beside, folders, measure, over), name="levels"
            )
            await children.until_over(_follow(watch, lines), watch)
        reached = await beside
    finally:
        over.set()
    if reached is None:
        raise Bug("the levels were given up in a run that went to its end")
    return await asyncio.to_thread(_outcome, watch, measure, reached)


def _beside(folders: Folders, measure: Measure, over: threading.Event) -> Levels | None:
    reached = demo_levels.levels(folders, measure, over.is_set)
    plot.require()  # the import takes longer than the drawing, and here nobody waits for it
    return reached


async def _address(watch: _Watch, lines: AsyncIterator[bytes], children: "_Children") -> str:
    async for line in lines:
        watch.take(line)
        if watch.events and watch.events[-1]["event"] == "listening":
            return str(watch.events[-1]["address"])
    raise await children.explained(watch)


async def _follow(watch: _Watch, lines: AsyncIterator[bytes]) -> None:
    async for line in lines:
        watch.take(line)


class _Children:
    """The processes, the aggregator first."""

    def __init__(self) -> None:
        self.started: list[Child] = []

    async def aggregator(self, folders: Folders) -> Child:
        """Start the aggregator on any free port."""
        root = folders.aggregator.root
        command = ("aggregator", "start", "-C", str(root), "--listen", LISTEN, "--json")
        return await self._start("aggregator", root, command, read=True, python=FROM_SOURCE)

    async def collaborator(self, folders: Folders, name: str, address: str) -> Child:
        """Start one party."""
        root = folders.parties[name].root
        command = ("collaborator", "start", "-C", str(root), "-n", name, "--address", address)
        return await self._start(name, root, command)

    async def _start(
        self,
        name: str,
        root: Path,
        command: tuple[str, ...],
        *,
        read: bool = False,
        python: Sequence[str] = (),
    ) -> Child:
        log = root / "logs" / "output.log"
        child = await Child.start(
            name,
            (*command, "--allow-simulated"),
            log=log,
            environment=environment(os.environ),
            read=read,
            python=python,
        )
        self.started.append(child)
        return child

    async def until_over(self, following: Coroutine[Any, Any, None], watch: _Watch) -> None:
        """Return when the aggregator has ended well; raise when any process ended otherwise."""
        aggregator, *parties = self.started
        last = asyncio.create_task(_both(following, aggregator))
        waits = {asyncio.create_task(party.wait()): party for party in parties}
        try:
            while not last.done():
                await asyncio.wait([last, *waits], return_when=asyncio.FIRST_COMPLETED)
                for wait in [wait for wait in waits if wait.done()]:
                    if code := wait.result():
                        raise _ended(waits[wait], code, "")
                    del waits[wait]
            if last.result():
                raise await self.explained(watch)
            if waits:
                await asyncio.wait(waits, timeout=GOODBYE_S)
        finally:
            for task in (last, *waits):
                task.cancel()

    async def explained(self, watch: _Watch) -> ChildEnded:
        """Why the aggregator ended."""
        aggregator = self.started[0]
        return _ended(aggregator, await aggregator.wait(), watch.error)

    async def stop(self) -> None:
        """Leave none behind."""
        await asyncio.gather(*(child.stop() for child in self.started))


async def _both(following: Coroutine[Any, Any, None], child: Child) -> int:
    """The exit status of a child whose output has been read to its end."""
    await following
    return await child.wait()


@asynccontextmanager
async def _children() -> AsyncIterator[_Children]:
    children = _Children()
    try:
        yield children
    finally:
        await children.stop()


def _ended(child: Child, code: int, said: str) -> ChildEnded:
    message = f"{child.name} ended with exit code {code} before the run was over. It said:\n"
    said = said or child.last_lines() or "(nothing)"
    return ChildEnded(f"{message}{said}\nIts log is {child.log}", code or Unavailable.exit_code)


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """The variables of a child of the demo: no proxy, and one thread each for sums."""
    return {**_ONE_THREAD, **{k: v for k, v in given.items() if k not in _PROXIES}}


def _outcome(watch: _Watch, measure: Measure, reached: Levels) -> Outcome:
    finished, plan = watch.finished(), watch.folders.plan
    accuracy, examples = measure(Stored(Path(finished["path"])))
    watch.accuracy[plan.rounds] = accuracy
    path = watch.folders.root / "curves.png"
    task = plan.best.metric.split("/")[0]
    trains = next(name for name, part in plan.tasks.items() if not part.on)
    plot.draw(
        path,
        plot.Curves(
            title=f"{plan.name}: {len(watch.folders.parties)} parties, "
            f"{console.count(plan.rounds, 'round')}",
            accuracy=watch.accuracy,
            accuracy_of=f"accuracy on {examples} held-out pictures",
            pooled=reached.pooled,
            alone=reached.alone,
            losses={
                "global model": plot.series(watch.events, f"{task}/global/loss"),
                "in training": plot.series(watch.events, f"{trains}/loss"),
            },
        ),
    )
    return Outcome(
        finished=finished, accuracy=accuracy, examples=examples, levels=reached, plot=path
    )
