# SPDX-License-Identifier: Apache-2.0
"""A collaborator: does what a request asks on its own data, and remembers what it answered.

Every answer is journalled with the update's file before it leaves, so that a request that comes
again (after a reconnect, a crash here, a crash there) is answered with the same bytes, and training
is done once. What a learner keeps between rounds is stored with it.
"""

import asyncio
import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from fedclave.algorithms.core import Algorithm
from fedclave.algorithms.folds import Range, blocks_of, check_values, check_weight, delta_layout
from fedclave.algorithms.servers import difference
from fedclave.engine import threads
from fedclave.engine.metrics import check, trains
from fedclave.engine.notebook import Notebook
from fedclave.engine.ports import Fetch
from fedclave.errors import Code, Refused, Unavailable, UserError
from fedclave.learners.base import Learner, Remembering, blame, checked
from fedclave.messages import (
    Failure,
    Fit,
    Measurement,
    Packet,
    Pull,
    Reply,
    Request,
    Task,
    Update,
)
from fedclave.plan import Plan
from fedclave.tensors import Array, Layout, Tensors, layout_of

Started = Callable[[Request, str], None]
"""Called with each step of a request as it starts, in the thread that works on it."""


class Collaborator:
    """One member's side of a run. ``answer`` may be called again and again with one request."""

    def __init__(
        self,
        plan: Plan,
        learner: Learner,
        algorithm: Algorithm,
        bounds: Range,
        notebook: Notebook,
        keep: Callable[[Path], None] = lambda update: None,
    ) -> None:
        """``keep`` is shown each update's file, named by its digest, before it is answered with."""
        self._keep_update = keep
        self._plan = plan
        self._learner = learner
        self._algorithm = algorithm
        self._bounds = bounds
        self._notebook = notebook
        self._job: tuple[str, asyncio.Future[Reply]] | None = None
        self._starting = asyncio.Lock()

    async def answer(
        self, request: Request, fetch: Fetch, started: Started = lambda request, step: None
    ) -> tuple[Reply, Path | None]:
        """The reply to a request, and the file of its packet.

        Failures of the member's own code or data come back as a reply with ``failure``; they are
        not journalled, so the same request tries again. Cancelling gives up the waiting, not the
        work: a request that comes again after a lost connection joins what is still running.
        """
        if request.plan != self._plan.digest:
            raise Refused(Code.WRONG_PLAN, _OTHER_PLAN)
        async with self._starting:
            job = await self._begin(request, fetch, started)
        if isinstance(job, Reply):
            return job, self._notebook.packet_path(job)
        try:
            reply = await asyncio.shield(job)
        finally:
            if self._job is not None and self._job[1] is job and job.done():
                self._job = None
        return reply, self._notebook.packet_path(reply)

    def opens(self, packet: Path) -> io.RawIOBase:
        """The content of a packet's file."""
        return self._notebook.medium.opens(packet)

    async def _begin(
        self, request: Request, fetch: Fetch, started: Started
    ) -> "Reply | asyncio.Future[Reply]":
        """The answer that was given before, or the work on it: begun now, or still running."""
        if self._job is not None and self._job[0] == request.id:
            return self._job[1]
        if self._job is not None:
            await asyncio.wait({self._job[1]})  # one learner, one piece of work at a time
            self._job = None
        if (known := self._notebook.answered(request.id)) is not None:
            return known
        params = await fetch(request.params, request.size)
        self._job = (request.id, threads.run(self._attempt, request, params, started))
        return self._job[1]

    def _attempt(self, request: Request, params: Tensors, started: Started) -> Reply:
        try:
            received = {name: _read_only(params[name]) for name in params}
            update, memory = self._work(request, received, started)
            return self._keep(request, update, delta_layout(layout_of(received)), memory)
        except Refused as refused:
            return _failed(request, refused.code, refused.message)
        except UserError as error:
            return _failed(request, Code.TASK_FAILED, str(error))

    def _work(
        self, request: Request, received: Tensors, started: Started
    ) -> tuple[Update, Tensors | None]:
        """Run the steps in order; the update is what training changed."""
        self._remember(self._notebook.memory(request.round) or {})
        current = received
        pull = self._algorithm.begin(received)
        weight, measured = 0, []
        for step in request.tasks:
            started(request, step)
            at = current if trains(step) or step.endswith("/local") else received
            fit = self._run(self._task(request, step), at, pull, received)
            if trains(step):
                if fit.params is None:
                    raise Refused(Code.TASK_FAILED, f"task {step!r} trains, but gave no params")
                check_weight(fit.examples, self._bounds)
                current, weight = fit.params, fit.examples
            measured.append(
                Measurement(series=step, examples=fit.examples, values=dict(fit.metrics))
            )
        check(measured, request.tasks)
        delta = _Delta(current, received, self._bounds)
        update = Update(delta=delta, weight=weight, measurements=tuple(measured))
        return update, self._memory()

    def _task(self, request: Request, step: str) -> Task:
        name, _, on = step.partition("/")
        part = self._plan.tasks.get(name)
        if part is None:
            raise Refused(Code.NOT_ASKED, f"the plan has no task {name!r}")
        return Task(
            name=name,
            run=part.run,
            on=on or None,  # type: ignore[arg-type]  # a step of the plan
            round=request.round,
            seed=request.seed(self._plan.seed, step),
            settings=part.settings,
        )

    def _run(self, task: Task, params: Tensors, pull: Pull, received: Tensors) -> Fit:
        with self._reported(f"task {task.name!r} in round {task.round}"):
            return checked(self._learner.run(task, _lent(params), pull), received)

    def _remember(self, memory: Tensors) -> None:
        if isinstance(self._learner, Remembering):
            with self._reported("remember()"):
                self._learner.remember(memory)

    def _memory(self) -> Tensors | None:
        if not isinstance(self._learner, Remembering):
            return None
        with self._reported("memory()"):
            memory = self._learner.memory()
            layout_of(memory)  # raises for what cannot be stored
            return memory

    @contextmanager
    def _reported(self, what: str) -> Iterator[None]:
        """The learner is the user's code: whatever it raises is a failure of the task.

        The aggregator is told where and what kind. What the error says may quote data: it stays.
        """
        try:
            yield
        except (Refused, UserError, Unavailable):
            raise
        except (Exception, SystemExit) as error:
            self._notebook.report(what, error)
            where = f"what it said stays at the member, in its {self._notebook.failures.name}"
            raise UserError(f"{what} failed: {blame(error, said=False)} ({where})") from error

    def _keep(
        self, request: Request, update: Update, layout: Layout, memory: Tensors | None
    ) -> Reply:
        packet = None
        if update.weight:
            digest = self._notebook.write_packet(update.delta, layout)
            packet = Packet(digest=digest, size=layout.size, weight=update.weight)
            self._keep_update(self._notebook.content(digest))
        reply = Reply(request=request.id, packet=packet, measurements=update.measurements)
        self._notebook.keep(request, reply, memory)
        return reply


_OTHER_PLAN = (
    "the aggregator follows another plan. Compare 'fx plan show' on both sides and import the"
    " workspace that all agreed on"
)


def _failed(request: Request, code: Code, message: str) -> Reply:
    return Reply(request=request.id, failure=Failure(code=code, message=message))


class _Delta(Mapping[str, Array]):
    """Each new - old is made and checked as it is written: no second model in memory."""

    def __init__(self, new: Tensors, old: Tensors, bounds: Range) -> None:
        self._new = new
        self._old = old
        self._bounds = bounds

    def __getitem__(self, name: str) -> Array:
        change = difference(self._new[name], self._old[name])
        check_values(blocks_of({name: change}), self._bounds)
        return change

    def __iter__(self) -> Iterator[str]:
        return iter(self._old)

    def __len__(self) -> int:
        return len(self._old)


def _lent(params: Tensors) -> Tensors:
    """A mapping of the learner's own, of arrays that it may only read.

    What it received is what the update is the difference from, and what it has trained is the
    update: neither may change while the learner works on.
    """
    return {name: _read_only(np.asarray(array).view()) for name, array in params.items()}


def _read_only(array: Array) -> Array:
    array.flags.writeable = False
    return array
