# SPDX-License-Identifier: Apache-2.0
"""A federation in this process for tests: the real engine over the local transport."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fedclave import plan as plans
from fedclave.algorithms import assignment, catalogue
from fedclave.algorithms.core import Algorithm, Blocks
from fedclave.algorithms.folds import Range
from fedclave.engine.aggregator import Aggregator, Rules
from fedclave.engine.collaborator import Collaborator
from fedclave.engine.events import Event, Events
from fedclave.engine.medium import PLAIN, Medium, Sealed
from fedclave.engine.notebook import Notebook
from fedclave.engine.ports import Accept, Enough, Traffic, Transport
from fedclave.engine.spool import SMALL, Body, Spool
from fedclave.engine.store import Best, Store
from fedclave.learners.base import Learner
from fedclave.messages import Fit, Packet, Pull, Reply, Request, Task
from fedclave.plan import Plan
from fedclave.tensors import Layout, Tensors, digest, encode, layout_of
from fedclave.transport.local import LocalTransport
from fedclave.trust.vault import Vault

NOW = datetime(2030, 1, 1, tzinfo=UTC)
TASKS = {"train": {"run": "fit"}, "validate": {"run": "evaluate", "on": ["global"]}}


def plan(**parts: Any) -> Plan:
    """A plan; ``parts`` replace its sections."""
    document: dict[str, Any] = {
        "schema": 1,
        "name": "kit",
        "rounds": 3,
        "seed": 7,
        "learner": {"build": "src.learner:build"},
        "tasks": TASKS,
        "quorum": {"minimum": 1, "fraction": 1.0, "deadline_s": 60.0},
        "best": {"metric": "validate/global/loss", "direction": "min"},
    }
    if "tasks" in parts:
        del document["best"]
    return plans.parse(yaml.safe_dump(document | parts))


def bounds(of: Plan) -> Range:
    """The plan's bounds on its sum."""
    names = ("limit", "max_weight", "max_members", "fraction_bits")
    return Range(**{name: getattr(of.fold, name) for name in names})


def sealed(folder: Path) -> Medium:
    """All of a federation's parties seal what they keep to the vault in its folder."""
    return Sealed(Vault.open(folder / "cert/vault.key"), folder)


class Chaser:
    """Goes half-way towards its own number, with a momentum that it keeps between rounds."""

    def __init__(self, target: float, examples: int = 4) -> None:
        self.target = target
        self.examples = examples
        self.speed = np.zeros(3)
        self.done: list[tuple[int, str]] = []

    def weights(self) -> Tensors:
        return {"w": np.zeros(3), "steps": np.zeros((), np.int64)}

    def run(self, task: Task, params: Tensors, pull: Pull) -> Fit:
        self.done.append((task.round, task.name if task.on is None else f"{task.name}/{task.on}"))
        if task.run == "evaluate":
            loss = float(np.mean((params["w"] - self.target) ** 2))
            return Fit(examples=self.examples, metrics={"loss": loss})
        noise = np.random.default_rng(task.seed).normal(size=3) / 64
        self.speed = 0.25 * self.speed + 0.5 * (self.target - params["w"]) + noise
        new = {"w": params["w"] + self.speed, "steps": params["steps"] + 1}
        return Fit(params=new, examples=self.examples, metrics={"speed": float(self.speed[0])})

    def memory(self) -> Tensors:
        return {"speed": self.speed}

    def remember(self, memory: Tensors) -> None:
        self.speed = memory.get("speed", np.zeros(3))


class Quadratic:
    """f(x) = a/2 (x - c)^2 by gradient descent, for closed forms."""

    def __init__(self, a: float, c: float, steps: int, rate: float, examples: int) -> None:
        self.a, self.c, self.steps, self.rate, self.examples = a, c, steps, rate, examples

    def weights(self) -> Tensors:
        return {"x": np.zeros(1)}

    def run(self, task: Task, params: Tensors, pull: Pull) -> Fit:
        x = params["x"]
        for _ in range(self.steps):
            x = x - self.rate * self.a * (x - self.c)
        return Fit(params={"x": x}, examples=self.examples)


@dataclass(kw_only=True)
class Run:
    """What came of one process's run."""

    events: list[Event]
    round: int = 0
    model: str = ""
    params: dict[str, Any] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)
    best: Best | None = None
    error: BaseException | None = None

    def of(self, event: str, **fields: Any) -> list[Event]:
        """The events of this kind with these fields."""
        wanted = {"event": event, **fields}
        return [e for e in self.events if wanted.items() <= e.items()]


@dataclass(kw_only=True)
class Federation:
    """A folder, a plan and learners; ``run`` is one process, and may be called again."""

    folder: Path
    plan: Plan
    learners: Mapping[str, Learner]
    members: Callable[[], list[str]] | None = None
    assign: assignment.Rule | None = None
    wrap: Callable[[LocalTransport, Store], Transport] = lambda transport, store: transport
    initial: Tensors | None = None
    at: Callable[[str], None] = lambda point: None
    small: int = SMALL
    medium: Callable[[Path], Medium] = lambda folder: PLAIN

    def run(self) -> Run:
        """Run until the plan is done or an error ends it; the error is in the outcome."""
        events: list[Event] = []
        return asyncio.run(self._run(Run(events=events)))

    def store(self) -> Store:
        """The aggregator's."""
        return Store(
            self.folder / "save",
            self.plan.digest,
            self._as("aggregator"),
            self.medium(self.folder),
        )

    async def _run(self, out: Run) -> Run:
        sink = Events(self.folder / "events.jsonl", lambda: NOW, out.events.append)
        with ExitStack() as stack:
            stack.callback(sink.close)
            store = self.store()
            stack.callback(store.close)
            initial = self.initial or next(iter(self.learners.values())).weights()
            store.begin(initial, {})
            members = {}
            for name, learner in self.learners.items():
                notebook = Notebook(self.folder / name, self._as(name), self.medium(self.folder))
                stack.callback(notebook.close)
                members[name] = self.collaborator(learner, notebook)
            spool = Spool(self.folder / "spool", self.small, self.medium(self.folder))
            transport = self.wrap(LocalTransport(members, store, spool), store)
            try:
                await Aggregator(self.rules(), store, transport, sink).run()
            except Exception as error:
                out.error = error
            latest = store.latest()
            assert latest is not None
            out.round, out.model, out.params = latest.round, latest.model, dict(latest.params)
            out.records, out.best = store.records(), store.best()
        return out

    def collaborator(self, learner: Learner, notebook: Notebook) -> Collaborator:
        part = self.plan.algorithm
        algorithm = catalogue.make(part.name, part.settings, bounds(self.plan))
        return Collaborator(self.plan, learner, algorithm, bounds(self.plan), notebook)

    def rules(self) -> Rules:
        part, limits = self.plan.algorithm, bounds(self.plan)
        groups = assignment.rule(self.plan.assignment, list(self.plan.tasks), self.plan.seed)
        return Rules(
            plan=self.plan,
            algorithm=self._watched(catalogue.make(part.name, part.settings, limits)),
            bounds=limits,
            assign=self.assign or groups,
            members=self.members or (lambda: list(self.learners)),
        )

    def _as(self, who: str) -> Callable[[str], None]:
        return lambda point: self.at(f"{who}/{point}")

    def _watched(self, algorithm: Algorithm) -> Algorithm:
        """The same, passing a point after the first block of each update and after its last."""

        def within(blocks: Blocks) -> Blocks:
            for number, block in enumerate(blocks):
                yield block
                if not number:
                    self.at("aggregator/folding")

        def add(acc: Any, blocks: Blocks, weight: int) -> Any:
            acc = algorithm.fold.add(acc, within(blocks), weight)
            self.at("aggregator/folded")
            return acc

        return replace(algorithm, fold=replace(algorithm.fold, add=add))


Act = Callable[[Request, Layout, Accept], Awaitable[None]]
"""What a member's end of the wire does with a request."""


class Scripted:
    """A transport on which some members answer as a test says; the others are honest."""

    def __init__(self, honest: LocalTransport, acts: Mapping[tuple[str, int], Act]) -> None:
        self._honest = honest
        self._acts = acts

    @property
    def traffic(self) -> Traffic:
        return self._honest.traffic

    @traffic.setter
    def traffic(self, traffic: Traffic) -> None:
        self._honest.traffic = traffic

    async def present(self, enough: Enough) -> None:
        await self._honest.present(enough)

    async def ask(self, request: Request, update: Layout, accept: Accept) -> None:
        act = self._acts.get((request.member, request.round))
        await (act(request, update, accept) if act else self._honest.ask(request, update, accept))


class Sent(Body):
    """An upload that knows whether it was dropped."""

    dropped = False

    def discard(self) -> None:
        super().discard()
        self.dropped = True


def answer(to: Request, delta: Tensors, weight: int = 4, **fields: Any) -> tuple[Reply, Sent]:
    """A reply with this update and its body, whatever they are."""
    packet = Packet(digest=digest(delta), size=layout_of(delta).size, weight=weight)
    reply = Reply(**{"request": to.id, "packet": packet, **fields})
    return reply, Sent(layout_of(delta), bytearray(encode(delta)))
