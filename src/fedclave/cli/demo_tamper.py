# SPDX-License-Identifier: Apache-2.0
"""``fx demo --tamper``: one thing is changed, and the federation fails closed.

    code      the operator runs a changed fedclave, which would keep a copy of each update
    plan      the operator runs another plan than the one that was signed
    relay     somebody with a certificate of the CA stands between, and passes the evidence on
    key       the same, who also makes the enclave believe that its own key is seen
    replay    the same, with evidence that the enclave gave at an earlier time
    revoked   the platform's certificate was revoked since

The processes are those of the demo. Between the parties and what they take for the aggregator lies
a wire that counts every byte, both ways: fewer than a model has went over it.
"""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import fedclave
from fedclave.cli import demo_folders, demo_rogue, demo_trust, demo_verdict, run
from fedclave.cli.child import Child
from fedclave.cli.demo_folders import Folders
from fedclave.cli.demo_run import LISTEN, environment
from fedclave.cli.demo_verdict import Ended, Outcome, Tamper
from fedclave.cli.party import AGGREGATOR
from fedclave.errors import Bug, Unavailable
from fedclave.plan import load
from fedclave.tensors import Stored
from fedclave.trust.measure import FROM_SOURCE
from fedclave.trust.simulated import Faults, SimulatedPlatform
from fedclave.workspace import agreement

MODES: tuple[Tamper, ...] = get_args(Tamper)
HIDDEN = 2048
"""Width of the model: its bytes are more than all that a handshake and an attestation take."""

WHAT: dict[Tamper, str] = {
    "code": "the operator runs a changed fedclave, which would keep a copy of each update",
    "plan": "the operator runs another plan than the one that was signed",
    "relay": "somebody with a good certificate stands between, and passes the evidence on",
    "key": "the same, and the enclave is told that its own key is seen",
    "replay": "the same, with evidence that the enclave gave at an earlier time",
    "revoked": "the platform's certificate has been revoked",
}


@dataclass
class Wire:
    """A TCP forwarder that counts bytes."""

    up: int = 0
    down: int = 0
    address: str = ""
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set)

    @asynccontextmanager
    async def to(self, address: str) -> AsyncIterator["Wire"]:
        """Listen, and forward every connection there."""
        host, _, port = address.rpartition(":")

        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            far_reader, far_writer = await asyncio.open_connection(host.strip("[]"), int(port))
            await asyncio.gather(
                self._pump(reader, far_writer, "up"), self._pump(far_reader, writer, "down")
            )

        server = await asyncio.start_server(carry, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(2**16):
                setattr(self, way, getattr(self, way) + len(data))
                writer.write(data)
                await writer.drain()
        writer.close()


async def play(folders: Folders, mode: Tamper, say: Callable[[str], None]) -> Outcome:
    """Change one thing, run the federation, and see how it ends."""
    python = await asyncio.to_thread(_change, folders, mode)
    await asyncio.to_thread(demo_folders.deal, folders)
    wire = Wire()
    async with AsyncExitStack() as stack:
        aggregator = await _aggregator(folders, python)
        stack.push_async_callback(aggregator.stop)
        events: list[dict[str, Any]] = []
        address = await _listening(aggregator, events, say)
        reading = asyncio.create_task(_read(aggregator, events))
        stack.callback(reading.cancel)
        between = AGGREGATOR
        if mode in ("relay", "key", "replay"):
            between = demo_rogue.NAME
            address = await stack.enter_async_context(demo_rogue.rogue(folders, address, mode))
        await stack.enter_async_context(wire.to(address))
        parties = [
            asyncio.create_task(_party(folders, name, wire.address, say))
            for name in folders.parties
        ]
        ended = await asyncio.gather(*parties)
        await aggregator.stop()
        await reading  # to the last line: it may tell of the last party
    return Outcome(
        mode=mode,
        refusals=demo_verdict.refusals(ended, events, between),
        differs=await asyncio.to_thread(_differing, folders),
        up=wire.up,
        down=wire.down,
        model=Stored(folders.aggregator.initial).size,
        updates=sum(event["event"] == "update_accepted" for event in events),
    )


def _differing(folders: Folders) -> tuple[str, ...]:
    """What the aggregator's contract has otherwise than the one that the parties accepted.

    No party could tell: each has its own contract, and only the id of the other's.
    """
    theirs, own = (
        agreement.find(one) for one in (next(iter(folders.parties.values())), folders.aggregator)
    )
    if theirs is None or own is None:
        raise Bug("a workspace of the demo has lost its contract")
    return agreement.changes(theirs.contract, own.contract)


def _change(folders: Folders, mode: Tamper) -> dict[str, str]:
    """Change what the mode says; returns variables for the aggregator's process."""
    now = datetime.now(UTC)
    if mode == "code":
        changed = str(_changed_package(folders.root / "tampered"))
        before = os.environ.get("PYTHONPATH")
        return {"PYTHONPATH": os.pathsep.join([changed, *([before] if before else [])])}
    if mode == "plan":
        demo_folders.set_numbers(folders.aggregator.plan, rounds=folders.plan.rounds + 1)
        _agree_alone(folders, now)
    elif mode == "revoked":
        platform = SimulatedPlatform.open(folders.aggregator.cert / "simulated")
        collateral = platform.collateral(now, Faults(revoked=["pck"]))
        for workspace in folders.parties.values():
            demo_trust.learn(workspace, platform, collateral, now)
    return {}


def _changed_package(folder: Path) -> Path:
    """A copy of this fedclave with one line more: the aggregator would keep each update.

    Its own check of itself is taken out too: an operator who changes the one changes the other.
    """
    package = folder / "fedclave"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(fedclave.__file__).parent, package, ignore=ignored)
    _replace(
        package / "engine" / "aggregator.py",
        "            await asyncio.to_thread(check_values, body.blocks(), self._rules.bounds)\n",
        "            self._copies = [*getattr(self, '_copies', []), list(body.blocks())]\n",
    )
    _replace(
        package / "cli" / "run.py",
        "            standing = await attesting.rehearsed(party, side)\n"
        "            own = standing.verdict.word\n",
        "            own = Word.SIMULATED\n",
    )
    _replace(
        package / "cli" / "run.py",
        '            events.emit("attestation", **standing.facts())\n',
        "",
    )
    return folder


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    if text.count(old) != 1:
        raise Bug(f"{path.name} has changed, and --tamper does not know how to change it")
    path.write_text(text.replace(old, new), encoding="utf-8")


def _agree_alone(folders: Folders, now: datetime) -> None:
    """The operator signs what was changed as an author would, and has a policy that allows it."""
    aggregator = folders.aggregator
    (aggregator.cert / f"{agreement.AUTHOR}.key").unlink()
    (aggregator.cert / f"{agreement.AUTHOR}.pub").unlink()
    aggregator.contract.unlink()
    shutil.rmtree(aggregator.save / "models", ignore_errors=True)
    for path in aggregator.save.glob("federation.*"):
        path.unlink()
    plan = load(aggregator.plan)
    run.begin(aggregator, plan, Stored(aggregator.initial))
    platform = SimulatedPlatform.open(aggregator.cert / "simulated")
    demo_trust.settle(aggregator, plan, platform, folders.root / "policy" / "signer.key", now)


async def _aggregator(folders: Folders, variables: dict[str, str]) -> Child:
    root = folders.aggregator.root
    return await Child.start(
        "aggregator",
        ("aggregator", "start", "-C", str(root), "--listen", LISTEN, "--json", "--allow-simulated"),
        log=root / "logs" / "output.log",
        environment={**environment(os.environ), **variables},
        read=True,
        python=FROM_SOURCE,
    )


async def _listening(
    aggregator: Child, events: list[dict[str, Any]], say: Callable[[str], None]
) -> str:
    async for text in aggregator.lines():
        event = json.loads(text)
        events.append(event)
        if "error" in event:
            raise Unavailable(f"the aggregator did not start: {event['error']['message']}")
        if event["event"] == "listening":
            say(f"the aggregator listens on {event['address']}")
            return str(event["address"])
    raise Unavailable(f"the aggregator ended. Its log is {aggregator.log}")


async def _read(aggregator: Child, events: list[dict[str, Any]]) -> None:
    """Its events to the last, and not how it ended."""
    async for text in aggregator.lines():
        event = json.loads(text)
        if "event" in event:
            events.append(event)


async def _party(folders: Folders, name: str, address: str, say: Callable[[str], None]) -> Ended:
    """Run a collaborator to its end, which must be a refusal."""
    root = folders.parties[name].root
    child = await Child.start(
        name,
        ("collaborator", "start", "-C", str(root), "-n", name, "--address", address,
         "--json", "--allow-simulated"),
        log=root / "logs" / "output.log",
        environment=environment(os.environ),
        read=True,
    )  # fmt: skip
    error: dict[str, Any] = {"code": "none", "message": "it was not refused"}
    try:
        async with asyncio.timeout(PATIENCE_S):
            async for text in child.lines():
                error = json.loads(text).get("error", error)
            code = await child.wait()
    except TimeoutError:
        code = -1
    finally:
        await child.stop()
    message = error["message"].removeprefix(f"{error['code']}: ")
    say(f"{name} ends with {error['code']}: {message}")
    return Ended(party=name, code=error["code"], message=message, exit_code=code)


PATIENCE_S = 60.0
"""How long a party may take to end; it takes about a second."""
