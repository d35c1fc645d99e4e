# SPDX-License-Identifier: Apache-2.0
"""Mutual attestation on a channel, and many collaborators that attest at once.

    python benchmarks/attest_channel.py --collaborators 200

A real ``fx aggregator start`` process with a simulated TEE, whose plan makes both sides prove what
they run; the collaborators' ends are in this process, each with a key and certificate of its own.
First, one after the other: connecting (TLS probe, channel, first call refused) without attesting,
and connecting with mutual attestation; printed are medians. Then all at once: from the first to the
last session. Collateral is cached on both sides; every quote is made and verified anew, by both
verifiers. All processes share this machine's cores.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

from cryptography import x509

from fedclave.cli import attesting, demo_folders
from fedclave.cli.child import Child
from fedclave.cli.demo_folders import Folders
from fedclave.cli.demo_run import LISTEN, environment
from fedclave.errors import Code, Refused
from fedclave.transport.grpc import client, frames
from fedclave.transport.grpc.attest import attest
from fedclave.transport.grpc.channel import Opened, open_channel
from fedclave.trust import measure, release
from fedclave.trust.attesting import Side, Terms
from fedclave.trust.credentials import Credentials
from fedclave.trust.dcap import DcapJudge
from fedclave.trust.gate import Anchors
from fedclave.trust.heads import Heads
from fedclave.trust.measure import FROM_SOURCE
from fedclave.trust.quoting import QuotingService, SimulatedAttester
from fedclave.trust.verify import Verifier
from fedclave.workspace import agreement, members

AIM_MS, AIM_S = 60.0, 30.0


def now() -> datetime:
    """The time of this machine."""
    return datetime.now(UTC)


def side(folders: Folders, service: QuotingService, second: DcapJudge) -> Side:
    """What all collaborators here have in common."""
    workspace = folders.aggregator
    found = agreement.find(workspace)
    if found is None:
        raise SystemExit("there is no contract")
    policy = attesting.current_policy(workspace, folders.plan, now())
    measured = measure.measure_code(workspace.src, found.contract.measured_id)
    return Side(
        terms=Terms(
            federation=folders.plan.name,
            contract=found.contract.id,
            policy=policy,
            required=attesting.required(folders.plan),
        ),
        role="collaborator",
        name="",
        attester=SimulatedAttester(service.socket, measured.digest),
        verifier=Verifier(store=attesting.store(workspace, policy), second=second),
        allow_simulated=True,
        pair=release.generate(),
        now=now,
    )


class Town:
    """Collaborators by name, and the aggregator's address."""

    def __init__(self, folders: Folders, names: list[str], address: str, common: Side) -> None:
        self.names = names
        self._address = address
        self._common = common
        self._anchors = Anchors.read(folders.aggregator.cert)
        self._heads = folders.aggregator.root.with_name("heads")
        self._own = {
            name: demo_folders.certified(folders.authority, "collaborator", name, now())
            for name in names
        }

    async def connect(self, name: str) -> tuple[Opened, Credentials]:
        """TLS probe and pinned channel."""
        own = self._own[name]
        opened = await open_channel(
            self._address,
            identity=own,
            anchors=self._anchors,
            role="aggregator",
            now=now(),
            options=frames.OPTIONS,
        )
        return opened, own

    async def plain(self, name: str) -> float:
        """Seconds to connect and have one call answered, which is refused for want of a session."""
        begun = perf_counter()
        opened, _ = await self.connect(name)

        async def again() -> client.Connection:
            return client.Connection(channel=opened.channel)

        try:
            await client.status(self._address, again)
        except Refused as refused:
            if refused.code is not Code.ATT_REQUIRED:
                raise
        seconds = perf_counter() - begun
        await opened.channel.close()
        return seconds

    async def attested(self, name: str) -> float:
        """Seconds to connect and attest both ways."""
        begun = perf_counter()
        opened, own = await self.connect(name)
        who = replace(self._common, name=name)
        leaf: x509.Certificate = own.leaf
        heads = Heads(self._heads / name)  # what each has seen of the aggregator's log, on disk
        await attest(
            opened.channel, who, heads, address=self._address, server=opened.leaf, own=leaf
        )
        seconds = perf_counter() - begun
        await opened.channel.close()
        return seconds


async def measured(town: Town, repetitions: int) -> None:
    """Take the figures, and print them."""
    first = town.names[0]
    await town.attested(first)
    plain = [await town.plain(first) for _ in range(repetitions)]
    attested = [await town.attested(first) for _ in range(repetitions)]
    begun = perf_counter()
    each = await asyncio.gather(*(town.attested(name) for name in town.names))
    whole = perf_counter() - begun
    base, mutual = (1000 * statistics.median(found) for found in (plain, attested))
    print(f"{'':34} {'median ms':>10} {'more ms':>8}")
    print(f"{'connect, one call':34} {base:10.1f}")
    print(f"{'connect, mutual attestation':34} {mutual:10.1f} {mutual - base:8.1f}")
    met = "met" if mutual - base < AIM_MS else "MISSED"
    print(f"aim: under {AIM_MS:g} ms beside the connection: {met}")
    print(
        f"{len(each)} collaborators at once: {whole:.2f} s, {whole / len(each) * 1000:.1f} ms each"
    )
    met = "met" if whole < AIM_S else "MISSED"
    print(f"aim: under {AIM_S:g} s: {met}")


async def run(root: Path, collaborators: int, repetitions: int) -> None:
    """Make the federation, start its aggregator, measure."""
    folders = demo_folders.make(root, ["alice"], 1, 7, now(), both=True)
    names = [f"party-{number}" for number in range(collaborators)]
    members.set_members(folders.aggregator, names)
    service = await asyncio.to_thread(
        QuotingService.start, attesting.simulated(folders.aggregator) / "platform"
    )
    here = folders.aggregator.root
    aggregator = await Child.start(
        "aggregator",
        ("aggregator", "start", "-C", str(here), "--listen", LISTEN, "--allow-simulated", "--json"),
        log=here / "logs" / "output.log",
        environment=environment(os.environ),
        read=True,
        python=FROM_SOURCE,
    )
    try:
        address = await listening(aggregator)
        with DcapJudge() as second:
            town = Town(folders, names, address, side(folders, service, second))
            await measured(town, repetitions)
    finally:
        await aggregator.stop()
        service.stop()


async def listening(aggregator: Child) -> str:
    """Where it listens; its further output is read and dropped."""
    lines = aggregator.lines()
    async for line in lines:
        event = json.loads(line)
        if event.get("event") == "listening":
            asyncio.get_running_loop().create_task(drained(aggregator))
            return str(event["address"])
    raise SystemExit(f"the aggregator did not start; see {aggregator.log}")


async def drained(aggregator: Child) -> None:
    """Read what else it says."""
    async for _ in aggregator.lines():
        pass


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--collaborators", type=int, default=200)
    parser.add_argument("--repetitions", type=int, default=30)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder), args.collaborators, args.repetitions))
    return 0


if __name__ == "__main__":
    sys.exit(main())
