# SPDX-License-Identifier: Apache-2.0
"""How a collaborator stands with its aggregator, found out step by step (``fx collaborator ping``).

1  our own certificate is here and good      refused, user
2  somebody answers at the address           unavailable
3  it is the federation's aggregator         refused
4  both have proved what they run, if asked  refused (ATT-...)
5  it admits us                              refused
6  it follows the same plan                  refused (wrong-plan)
7  both clocks agree                         a warning
8  our certificate and our collateral last   a warning
"""

import asyncio
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from fedclave.cli.connecting import connector
from fedclave.cli.party import Party
from fedclave.errors import Code, Refused
from fedclave.transport.grpc.client import status
from fedclave.transport.grpc.frames import printable
from fedclave.trust.attesting import Side
from fedclave.trust.credentials import Credentials, renew_due

MAX_SKEW = timedelta(minutes=5)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What the aggregator said, and what to mind."""

    aggregator: str
    federation: str
    plan: str
    round: int
    rounds: int
    connected: tuple[str, ...]
    until: datetime
    word: str | None
    """What the aggregator has proved of itself: VERIFIED or SIMULATED; NOT ATTESTED where only
    collaborators must; None where the plan asks nobody.
    """
    measurement: str
    """What it runs; empty if it proved nothing."""
    skew_s: float
    warnings: tuple[str, ...]


async def ask(party: Party, address: str, side: Side | None = None) -> Standing:
    """Go through the steps. The first that fails raises what is wrong, with the next step."""
    until = party.certified("collaborator").not_after  # 1
    proved: dict[str, Any] = {}

    def listener(event: dict[str, Any]) -> None:
        if event["event"] == "attested":
            proved.update(event)
        party.listener(event)

    reply = await status(  # 2 to 5
        address, connector(replace(party, listener=listener), address, side)
    )
    now = party.clock()
    if reply.plan != party.plan.digest:  # 6
        raise Refused(
            Code.WRONG_PLAN,
            f"the aggregator follows plan {printable(reply.plan, 12)}, this workspace"
            f" {party.plan.digest[:12]}. Compare 'fx plan show' on both sides, and import the"
            " archive that all agreed on",
        )
    skew_s = (datetime.fromtimestamp(reply.time, UTC) - now).total_seconds()
    return Standing(
        aggregator=address,
        federation=printable(reply.federation, 64),
        plan=reply.plan,
        round=reply.round,
        rounds=reply.rounds,
        connected=tuple(printable(name, 64) for name in reply.connected),
        until=until,
        word=proved.get("word"),
        measurement=proved.get("measurement", ""),
        skew_s=round(skew_s, 1),
        warnings=tuple(await asyncio.to_thread(_warnings, party, skew_s, side)),
    )


def as_json(standing: Standing) -> dict[str, Any]:
    """The same as an object."""
    return asdict(standing)


def _warnings(party: Party, skew_s: float, side: Side | None) -> list[str]:
    found = []
    if abs(skew_s) > MAX_SKEW.total_seconds():  # 7
        way = "ahead of" if skew_s > 0 else "behind"
        found.append(
            f"the aggregator's clock is {abs(skew_s) / 60:.0f} min {way} ours. Certificates will"
            " seem expired or not yet valid: synchronise both clocks (NTP)"
        )
    now = party.clock()
    if renew_due(Credentials.read(party.workspace.cert, party.name).leaf, now):  # 8
        found.append(f"the certificate ends soon. Renew it: fx ca renew {party.name}")
    if side is not None:
        found += side.verifier.store.warnings(now)
    return found
