# SPDX-License-Identifier: Apache-2.0
"""The aggregator of one run: rounds until the plan is done, each journalled, resumed where it was.

A round: open -> requests out -> answers judged as they come (member, weight, tensors, values), and
folded -> step -> checkpoint -> record. After the last round the members measure the final model.
The outcome depends on the plan, the initial model, and who took part; not on order or timing.
"""

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

from fedclave.algorithms.assignment import Assignment, Rule
from fedclave.algorithms.core import Algorithm
from fedclave.algorithms.folds import Range, check_values, check_weight, delta_layout
from fedclave.engine import ending, metrics
from fedclave.engine.ending import Publish
from fedclave.engine.events import Events
from fedclave.engine.ports import Traffic, Transport
from fedclave.engine.progress import (
    Progress,
    require_finite,
    require_quorum,
    told,
    until_over,
)
from fedclave.engine.round import Round
from fedclave.engine.spool import Body
from fedclave.engine.store import Best, State, Store
from fedclave.errors import Code, Refused, Unavailable, UserError
from fedclave.messages import Reply, Request
from fedclave.plan import Plan
from fedclave.tensors import Tensors, digest

Ledger = Callable[[Mapping[str, Any]], None]
"""Told of closed rounds: what ``Store.records`` has of them. One that it knows already is no news.
"""

Keep = Callable[[str, Iterator[memoryview]], None]
"""Keeps an update, by its digest, before it counts; in a thread."""

MAX_SAID = 1024  # characters of a refusal in an event: a member may have chosen some of them


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What a run does, made from the plan and the workspace's code."""

    plan: Plan
    algorithm: Algorithm
    bounds: Range
    assign: Rule
    members: Callable[[], Sequence[str]]


class Aggregator:
    """Runs a plan over a transport, from the store's last whole round."""

    def __init__(
        self,
        rules: Rules,
        store: Store,
        transport: Transport,
        events: Events,
        ledger: Ledger | None = None,
        keep: Keep | None = None,
    ) -> None:
        """``ledger`` is told of each closed round once it is durable, and at the start of all."""
        self._ledger = ledger
        self._keep = keep
        self._rules = rules
        self._plan = rules.plan
        self._store = store
        self._transport = transport
        self._events = events
        self._folding = asyncio.Lock()
        self._counted = Traffic()

    async def run(self, publish: Publish = ending.as_it_lies) -> State:
        """Do the rounds that are left. Raises ``Unavailable`` when a round has no quorum.

        ``publish`` is called in a thread once all are done, before anybody hears of it.
        """
        begun = monotonic()
        state = self._store.latest()
        if state is None:
            raise UserError("there is no initial model. Run 'fx plan initialize'")
        self._events.emit(
            "run_started",
            plan=self._plan.digest,
            name=self._plan.name,
            round=state.round,
            rounds=self._plan.rounds,
            model=state.model,
            size=state.params.size,
            resumed=state.round > 0,
        )
        for record in self._store.records():  # killed between the journal and the event
            if self._ledger is not None:
                self._ledger(record)
            if record["round"] > self._events.closed:
                self._events.emit("round_closed", **told(record), seconds=0.0)
        for path in self._store.damaged:
            self._events.emit("checkpoint_damaged", path=str(path), round=state.round)
        try:
            while state.round < self._plan.rounds:
                state = await self._one_round(state)
            if state.round == self._plan.rounds and metrics.measures_global(self._plan):
                state = await self._closing_evaluation(state)
        except Unavailable as error:
            self._events.emit("run_stopped", round=state.round + 1, message=str(error))
            raise
        published = await asyncio.to_thread(publish, state)
        ending.tell(
            self._events,
            state.model,
            published,
            rounds=self._plan.rounds,
            best=self._store.best(),
            traffic=self._transport.traffic,
            seconds=monotonic() - begun,
        )
        return state

    async def _one_round(self, state: State) -> State:
        number = state.round + 1
        await self._present(number)
        assignment = self._assignment(number)
        progress = await self._collect(state, assignment, self._needed(assignment))
        params: Tensors = state.params
        algorithm, summed = state.algorithm, digest({})
        if progress.fold is not None and progress.fold.count:
            aggregate = self._rules.algorithm.fold.done(progress.fold)
            if self._ledger is not None:
                summed = await asyncio.to_thread(digest, aggregate.mean)
            step = self._rules.algorithm.step
            params, algorithm = await asyncio.to_thread(step, params, algorithm, aggregate)
            await asyncio.to_thread(require_finite, params, number)
        return await self._close(state, progress, params, algorithm, summed)

    async def _present(self, number: int) -> None:
        """Wait for the members of a quorum; say whom, each time that this changes."""
        told: list[str] | None = None

        def enough(connected: Collection[str]) -> bool:
            nonlocal told
            assignment = self._assignment(number)  # anew: parties may have been added meanwhile
            needed, away = self._needed(assignment), sorted(assignment.keys() - connected)
            if len(assignment) - len(away) >= needed:
                return True
            if away != told:
                told = away
                self._events.emit("members_awaited", round=number, needed=needed, away=away)
            return False

        await self._transport.present(enough)

    async def _closing_evaluation(self, state: State) -> State:
        """Have those of the last round measure the final model; none of them can stop the run."""
        here = self._store.records()[-1]["accepted"]
        asked = {
            member: measures
            for member, steps in self._assignment(state.round + 1).items()
            if member in here and (measures := tuple(s for s in steps if s.endswith("/global")))
        }
        progress = await self._collect(state, asked, needed=0)
        return await self._close(state, progress, state.params, state.algorithm, digest({}))

    def _assignment(self, number: int) -> Assignment:
        """Member -> steps. What an interrupted process opened the round with stays as it was.

        Unless one of those is no member any more, from whom nobody would ever hear: then anew.
        """
        members = sorted(self._rules.members())
        journalled = self._store.opened(number)
        if journalled is not None and set(journalled) <= set(members):
            return journalled
        if len(members) > self._plan.fold.max_members:
            raise Unavailable(
                f"{len(members)} members, but fold.max_members is {self._plan.fold.max_members}."
                " Raise it in the plan: it is part of what all agreed on"
            )
        tasks = self._rules.assign(number, members)
        return {m: metrics.steps(self._plan, given) for m, given in tasks.items()}

    def _needed(self, assignment: Assignment) -> int:
        needed = self._plan.quorum.needed(len(assignment))
        if needed > len(assignment):
            raise Unavailable(
                f"the quorum is {needed}, more than the members that are asked ({len(assignment)}:"
                f" {', '.join(sorted(assignment)) or 'nobody'}). Add parties with 'fx invite' or"
                " 'fx collaborator certify': another quorum is another plan"
            )
        return needed

    async def _collect(self, state: State, assignment: Assignment, needed: int) -> Progress:
        """Open the next round, ask everybody, return when it has closed."""
        number, deadline_s = state.round + 1, self._plan.quorum.deadline_s
        self._store.open(number, assignment)
        self._events.emit(
            "round_opened",
            round=number,
            asked={member: list(steps) for member, steps in assignment.items()},
            needed=needed,
            deadline_s=deadline_s,
            model=state.model,
        )
        begun = monotonic()
        trained = any(metrics.trains(s) for steps in assignment.values() for s in steps)
        layout = delta_layout(state.params.layout)
        progress = Progress(
            round=Round.open(number, assignment, needed, begun + deadline_s),
            layout=layout,
            fold=self._rules.algorithm.fold.zero(layout) if trained else None,
            begun=begun,
        )
        asks = [
            asyncio.create_task(self._ask(progress, self._request(state, member, steps)))
            for member, steps in assignment.items()
        ]
        for ask in asks:
            ask.add_done_callback(lambda _: progress.changed.set())
        try:
            await until_over(progress, asks)
        finally:
            for ask in asks:
                ask.cancel()
            await asyncio.gather(*asks, *progress.judgements, return_exceptions=True)
        require_quorum(progress.round)
        return progress

    def _request(self, state: State, member: str, steps: Sequence[str]) -> Request:
        return Request(
            plan=self._plan.digest,
            round=state.round + 1,
            member=member,
            tasks=tuple(steps),
            params=state.model,
            size=state.params.size,
        )

    async def _ask(self, progress: Progress, request: Request) -> None:
        judged = False

        async def accept(reply: Reply, body: Body | None) -> None:
            nonlocal judged
            judged = True
            judgement = asyncio.create_task(self._judged(progress, request, reply, body))
            progress.judgements.add(judgement)
            await asyncio.shield(judgement)

        try:
            await self._transport.ask(request, progress.layout, accept)
        except Refused as refused:
            if not judged:  # else recorded in accept
                self._refused(progress, request.member, refused, monotonic())

    async def _judged(
        self, progress: Progress, request: Request, reply: Reply, body: Body | None
    ) -> None:
        """Judge an answer to the end, whatever becomes of the connection that it came by.

        A thread that folds cannot be cancelled: until it is done the answer counts as being judged,
        nobody writes over its bytes, and the round stays open.
        """
        arrived = monotonic()
        try:
            await self._judge(progress, request, reply, body, arrived)
        except Refused as refused:
            self._refused(progress, request.member, refused, arrived)
            raise
        finally:
            if body is not None:
                body.discard()
            progress.changed.set()

    async def _judge(
        self,
        progress: Progress,
        request: Request,
        reply: Reply,
        body: Body | None,
        arrived: float,
    ) -> None:
        """1 asked, once, in time; 2 its own failure; 3 metrics and weight; 4 tensors; 5 fold."""
        member = request.member
        accepted = progress.round.accept(member, arrived)  # 1
        if member in progress.judging:
            raise Refused(Code.DUPLICATE, f"{member}'s answer is being judged already")
        if reply.request != request.id:
            raise Refused(Code.NOT_ASKED, f"{member} answers another request")
        if reply.failure is not None:  # 2
            raise Refused(reply.failure.code, reply.failure.message)
        progress.judging.add(member)
        try:
            metrics.check(reply.measurements, request.tasks)  # 3
            if any(metrics.trains(step) for step in request.tasks):
                if reply.packet is None or body is None:
                    raise Refused(Code.MALFORMED, "an answer without an update to a training task")
                check_weight(reply.packet.weight, self._rules.bounds)
                if body.layout != progress.layout:  # 4
                    raise Refused(Code.WRONG_TENSORS, "names, dtypes or shapes are not the model's")
                await self._fold(progress, body, reply.packet.weight)  # 5
                if self._keep is not None:
                    await asyncio.to_thread(self._keep, reply.packet.digest, body.pieces())
            elif reply.packet is not None:
                raise Refused(Code.MALFORMED, "an update where only a measurement was asked")
            accepted = progress.round.accept(member, arrived)
        finally:
            progress.judging.discard(member)
        progress.round = accepted
        progress.measured[member] = reply.measurements
        if reply.packet is not None:
            progress.packets[member] = reply.packet
        self._events.emit(
            "update_accepted",
            round=request.round,
            member=member,
            weight=reply.packet.weight if reply.packet else 0,
            bytes=reply.packet.size if reply.packet else 0,
            metrics=metrics.flat(reply.measurements),
        )

    async def _fold(self, progress: Progress, body: Body, weight: int) -> None:
        async with self._folding:
            await asyncio.to_thread(check_values, body.blocks(), self._rules.bounds)
            add = self._rules.algorithm.fold.add
            progress.fold = await asyncio.to_thread(add, progress.fold, body.blocks(), weight)

    def _refused(self, progress: Progress, member: str, refused: Refused, arrived: float) -> None:
        """Record it. The member gives no update then, unless one is in or is being judged."""
        self._events.emit(
            "update_refused",
            round=progress.round.number,
            member=member,
            code=str(refused.code),
            message=refused.message[:MAX_SAID],
        )
        waited_for = member in progress.round.missing and member not in progress.judging
        if waited_for and progress.round.outcome(arrived) is None:
            progress.round = progress.round.fail(member, refused.code, arrived)
        progress.changed.set()

    async def _close(
        self,
        state: State,
        progress: Progress,
        params: Tensors,
        algorithm: Tensors,
        summed: str,
    ) -> State:
        end, mean = progress.round, metrics.mean(progress.measured)
        traffic = self._transport.traffic
        record: dict[str, Any] = {
            "round": end.number,
            "accepted": sorted(end.accepted),
            "failed": {member: str(code) for member, code in end.failed.items()},
            "missing": list(end.missing),
            "metrics": mean,
            "bytes": {
                "up": traffic.up - self._counted.up,
                "down": traffic.down - self._counted.down,
            },
        }
        self._counted = Traffic(up=traffic.up, down=traffic.down)
        if self._ledger is not None:
            parts = {m: [packet.digest, packet.weight] for m, packet in progress.packets.items()}
            record["ledger"] = {"packets": parts, "aggregate": summed, "before": state.model}
        self._consider_best(state, mean)
        new = await asyncio.to_thread(self._store.put, end.number, params, algorithm, record)
        seconds = round(monotonic() - progress.begun, 4)
        if self._ledger is not None:
            await asyncio.to_thread(self._ledger, {**record, "model": new.model})
        self._events.emit("round_closed", **told(record), seconds=seconds, model=new.model)
        return new

    def _consider_best(self, measured: State, mean: dict[str, float]) -> None:
        """A round measures the model that it began with: that one may be the best."""
        wanted = self._plan.best
        value = mean.get(wanted.metric)
        best = self._store.best()
        if value is None:
            return
        if best is not None:
            gain = value - best.value if wanted.direction == "max" else best.value - value
            if gain <= 0:
                return
        self._store.set_best(Best(measured.round, measured.model, value))
        self._events.emit(
            "best_model",
            round=measured.round,
            metric=wanted.metric,
            value=value,
            model=measured.model,
        )
