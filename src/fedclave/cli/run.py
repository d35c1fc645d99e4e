# SPDX-License-Identifier: Apache-2.0
"""Runs put together of their parts: engine, transport, trust and a workspace's code."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path

from fedclave.algorithms import assignment, catalogue
from fedclave.algorithms.core import Algorithm
from fedclave.cli import (
    attesting,
    auditing,
    proving,
    publishing,
    releasing,
    sealing,
    upkeep,
    vaults,
    witnessing,
)
from fedclave.cli.connecting import connector
from fedclave.cli.options import LISTEN_HERE
from fedclave.cli.party import Party
from fedclave.cli.publishing import Ended, Publisher
from fedclave.cli.sealing import Opened
from fedclave.engine import ending, journal
from fedclave.engine.aggregator import Aggregator, Rules
from fedclave.engine.collaborator import Collaborator
from fedclave.engine.ending import Publish
from fedclave.engine.events import Events
from fedclave.engine.keep import Kept
from fedclave.engine.notebook import Notebook
from fedclave.engine.spool import Spool
from fedclave.engine.store import Store, lock
from fedclave.engine.witness import Witnessed
from fedclave.errors import PlanError, Refused, UserError
from fedclave.learners.base import Site
from fedclave.plan import Plan
from fedclave.tensors import Stored, Tensors
from fedclave.transport.grpc import memory
from fedclave.transport.grpc.client import Client
from fedclave.transport.grpc.door import Door
from fedclave.transport.grpc.hub import Hub
from fedclave.transport.grpc.pledge import Pledge
from fedclave.transport.grpc.port import Server
from fedclave.transport.grpc.server import Service
from fedclave.trust.certifying import Prove
from fedclave.trust.credentials import Credentials
from fedclave.trust.gate import Anchors
from fedclave.trust.judgement import Word
from fedclave.trust.stated import Remembered
from fedclave.workspace import assemble, initial
from fedclave.workspace.layout import Workspace
from fedclave.workspace.members import LiveMembers

GOODBYE_S = 5.0  # how long the parties have to hear that the run is over
RECALL_S = 25.0  # the same where it was over before: longer than they pause between two attempts


def set_aside(
    workspace: Workspace, plan: Plan, model: str, *, force: bool, now: datetime
) -> Path | None:
    """Make room for a run that begins with this model: move another one to ``save/old-TIME``.

    Raises ``UserError`` if a run was begun and ``force`` is not given.
    """
    save = workspace.save
    try:
        found = journal.read(save, vaults.found(workspace))
        if found is None:
            return None
        if not found.opened and (found.plan, found.models.get(0)) == (plan.digest, model):
            return None
        if found.opened and not force:
            raise UserError(
                f"{save} holds a run that has come to round {found.opened}. Go on with it ('fx"
                " aggregator start'), or begin anew with --force, which moves it aside"
            )
    except (UserError, Refused):
        if not force:
            raise
    held = lock(save / "federation.lock")
    try:
        old = save / f"old-{now:%Y%m%dT%H%M%S%f}Z"
        old.mkdir()
        for pattern in (
            "federation.db*",
            "federation.vault",
            "models",
            "spool",
            "*.safetensors",
            "*.sealed",
            "collaborator-*",
        ):
            for path in list(save.glob(pattern)):
                path.rename(old / path.name)
    finally:
        held.close()
    return old


def begin(workspace: Workspace, plan: Plan, params: Tensors) -> None:
    """Write the initial model, and journal it as round 0 of the plan's run."""
    workspace.save.mkdir(parents=True, exist_ok=True)
    initial.write(workspace, plan, params)
    store = Store(workspace.save, plan.digest)
    try:
        _begun(plan, store, params)
    finally:
        store.close()


async def aggregate(
    party: Party,
    listen: str,
    *,
    allow_simulated: bool = False,
    release_listen: str = LISTEN_HERE,
    keep_updates: Path | None = None,
    seal_state: bool = False,
) -> Ended:
    """Serve a plan's run to its end, from the last whole round on."""
    memory.keep_freed_chunks()
    workspace, plan = party.workspace, party.plan
    party.certified("aggregator")
    members = _Members(party, LiveMembers(workspace))
    if not members():
        raise UserError(
            f"{workspace.members} lists no members, so nobody could take part. Invite them with"
            " 'fx invite NAME', or certify their requests with 'fx collaborator certify'"
        )
    with ExitStack() as stack:
        side = stack.enter_context(
            attesting.side(party, "aggregator", allow_simulated=allow_simulated)
        )
        medium = vaults.of_run(workspace, seal=seal_state)
        store = Store(workspace.save, plan.digest, medium=medium)
        stack.callback(store.close)
        recipient = sealing.final_recipient(workspace, plan)
        events = Events(workspace.events, party.clock, party.listener)
        stack.callback(events.close)
        spool = Spool(workspace.save / "spool", medium=medium)
        hub = Hub(spool, events)
        anchors = Anchors.read(workspace.cert)
        usher, ledger, own = None, None, Word.NOT_ATTESTED
        if side is not None:
            standing = await attesting.rehearsed(party, side)
            own = standing.verdict.word
            ledger = auditing.Ledger.open(workspace, plan, side.terms, own)
            stack.callback(ledger.close)
            ledger.begin(workspace, side.terms, party.clock)
            events.listen(ledger.take)
            events.emit("attestation", **standing.facts())
            usher = attesting.usher(party, side, ledger.shown)
        over: Opened | None = None
        publish: Publish = ending.as_it_lies
        if seal_state:
            publish = publishing.exported(workspace, store)
        if side is not None:
            publish = Publisher(
                workspace=workspace, store=store, terms=side.terms, own=own, recipient=recipient
            )
            over = sealing.sealed_final(workspace, side.terms) if recipient else None
        begun = partial(_begun, plan, store)
        if over is not None or store.latest() is not None:
            pass  # it goes on, or is over
        elif side is not None and ledger is not None and initial.is_sealed(plan):
            await releasing.initial_model(party, side, own, release_listen, begun, ledger.released)
        else:
            begun(_initial(workspace))
        door = Door(
            anchors=anchors,
            members=members,
            now=party.clock,
            sessions=None if usher is None else usher.sessions,
        )
        server = Server(
            Service(plan, store, hub, door, events, usher),
            read=lambda: Credentials.read(workspace.cert, party.name),
            anchors=anchors.chain,
        )
        kept = None if keep_updates is None else Kept(keep_updates, medium).begin().keep
        rules = _rules(workspace, plan, _asked(members, hub))
        witness = None
        if seal_state and over is None:
            witness = hub.witness = witnessing.witness(party, store, events, side, ledger)
        transport = hub if witness is None else Witnessed(hub, witness, events, hub.state)
        run = Aggregator(rules, store, transport, events, ledger, kept)
        async with (
            _serving(server, listen),
            _looked_after(party, proving.of_side(party, side)),
            attesting.reconsidered(party, usher, hub.cut, events.emit),
        ):
            party.tell("listening", address=_reachable(listen, server.port, plan))
            before = len(store.records())
            if over is None:
                running = publishing.run(run, publish)
                ended = await (running if witness is None else witness.guarded(running))
                spool.clear()
            else:
                sealing.clear(workspace)
                ended = publishing.was_over(plan, store, events, over, workspace.sealed("final"))
            hub.finish(ended.model)
            told: Collection[str] = ()
            seconds = GOODBYE_S
            if len(store.records()) == before:  # somebody starts it again so that others hear
                told, seconds = members(), RECALL_S
                party.tell("recalling", members=sorted(told), seconds=seconds)
            with suppress(TimeoutError):
                await asyncio.wait_for(hub.gone(told), seconds)
            return ended


async def collaborate(
    party: Party,
    data: Path,
    address: str,
    *,
    allow_simulated: bool = False,
    release_listen: str = LISTEN_HERE,
    keep_updates: Path | None = None,
    seal_state: bool = False,
) -> str:
    """Take part in a run until it is over; returns the digest of the final model."""
    memory.keep_freed_chunks()
    party.certified("collaborator")
    workspace, plan = party.workspace, party.plan
    part = plan.learner
    async with AsyncExitStack() as stack:
        side = stack.enter_context(
            attesting.side(party, "collaborator", allow_simulated=allow_simulated)
        )
        site = Site(
            member=party.name,
            data=await stack.enter_async_context(
                releasing.opened_data(party, side, data, release_listen)
            ),
            device=part.device,
            optimizer_state=part.optimizer_state,
            seed=plan.seed,
        )
        learner = assemble.learner(workspace, plan, site)
        folder = workspace.notebook(party.name, plan.digest)
        medium = vaults.of_member(workspace, folder, seal=seal_state)
        notebook = Notebook(folder, medium=medium)
        stack.callback(notebook.close)
        client = Client(
            party.name,
            plan.digest,
            address,
            connector(party, address, side),
            Collaborator(
                plan,
                learner,
                _algorithm(plan),
                assemble.bounds(plan),
                notebook,
                (lambda update: None)
                if keep_updates is None
                else Kept(keep_updates, medium).begin().keep_file,
            ),
            lambda event, fields: party.tell(event, **fields),
            Pledge(
                remembered=Remembered(workspace.stated(party.name, plan.digest), plan.digest),
                key=lambda: Credentials.read(workspace.cert, party.name).private_key,
            ),
        )
        renewed = "the certificate was renewed"
        prove = proving.of_side(party, side)
        async with _looked_after(party, prove, lambda: client.reconnect(renewed)):
            return await client.run(plan.network.patience_s, plan.network.stall_s)


def _initial(workspace: Workspace) -> Tensors:
    """The initial model that an archive brought."""
    if not workspace.initial.is_file():
        raise UserError(f"there is no {workspace.initial}. Run 'fx plan initialize' first")
    return Stored(workspace.initial)


def _begun(plan: Plan, store: Store, params: Tensors) -> None:
    """Begin a run with this model."""
    store.begin(params, _algorithm(plan).init(params))


def _algorithm(plan: Plan) -> Algorithm:
    return catalogue.make(plan.algorithm.name, plan.algorithm.settings, assemble.bounds(plan))


def _rules(workspace: Workspace, plan: Plan, members: Callable[[], Collection[str]]) -> Rules:
    function, tasks = assemble.assignment_function(workspace, plan), list(plan.tasks)
    if function is None:
        assign = assignment.rule(plan.assignment, tasks, plan.seed)
    else:
        assign = assignment.user_rule(function, tasks, plan.seed)
    return Rules(
        plan=plan,
        algorithm=_algorithm(plan),
        bounds=assemble.bounds(plan),
        assign=assign,
        members=lambda: sorted(members()),
    )


def _asked(members: Callable[[], Collection[str]], hub: Hub) -> Callable[[], Collection[str]]:
    """The members that rounds are for: every task needs the model, which some may not receive."""
    return lambda: set(members()) - hub.withheld


class _Members:
    """The list of members, or the last good one while it has a mistake, of which is told once.

    So a slip of the pen in the middle of a run neither ends it nor lets anybody in.
    """

    def __init__(self, party: Party, read: Callable[[], Collection[str]]) -> None:
        self._party = party
        self._read = read
        self._last = read()  # a mistake at the start is the operator's to correct first
        self._said = ""

    def __call__(self) -> Collection[str]:
        try:
            self._last, self._said = self._read(), ""
        except PlanError as error:
            if str(error) != self._said:
                self._said = str(error)
                self._party.tell(
                    "members_trouble", message=f"{error} Until then the list before it counts"
                )
        return self._last


@asynccontextmanager
async def _serving(server: Server, listen: str) -> AsyncIterator[None]:
    await server.start(listen)
    try:
        yield
    finally:
        await server.stop(1.0)


@asynccontextmanager
async def _looked_after(
    party: Party, prove: Prove, renewed: Callable[[], None] = lambda: None
) -> AsyncIterator[None]:
    """The party's certificate and revocation list are kept fresh in the background."""
    task = asyncio.create_task(
        upkeep.keep_fresh(
            party.workspace.cert,
            party.name,
            clock=party.clock,
            notice=lambda message: party.tell("certificate", message=message),
            renewed=renewed,
            prove=prove,
        )
    )
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _reachable(listen: str, port: int, plan: Plan) -> str:
    """Where parties find the port: a wildcard address is the plan's host."""
    host = listen.rpartition(":")[0]
    if host in ("0.0.0.0", "[::]", ""):  # noqa: S104 - compared, not bound
        host = plan.network.address.rpartition(":")[0]
    return f"{host}:{port}"


def wildcard(address: str) -> str:
    """All interfaces, at an address's port.

    >>> wildcard("example.org:8443")
    '0.0.0.0:8443'
    """
    return f"0.0.0.0:{address.rpartition(':')[2]}"
