# SPDX-License-Identifier: Apache-2.0
"""How a member reaches the aggregator: mutual TLS and, where the plan asks for it, attestation."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedclave.cli import attesting
from fedclave.cli.party import Party
from fedclave.errors import UserError
from fedclave.plan import load
from fedclave.transport.grpc import frames
from fedclave.transport.grpc.attest import attest
from fedclave.transport.grpc.channel import Opened, open_channel
from fedclave.transport.grpc.client import Connect, Connection
from fedclave.trust.attesting import Side
from fedclave.trust.credentials import Credentials
from fedclave.trust.gate import Anchors
from fedclave.trust.heads import Heads
from fedclave.workspace import layout


def connector(party: Party, address: str, side: Side | None) -> Connect:
    """Opens a channel to the aggregator, with the files and the time of each moment.

    Where the plan knows attestation, both ends have attested before anybody uses the channel.
    """
    cert = party.workspace.cert
    attested = None if side is None else _attested(party, address, side)

    async def connect() -> Connection:
        identity = Credentials.read(cert, party.name)
        opened = await open_channel(
            address,
            identity=identity,
            anchors=Anchors.read(cert),
            role="aggregator",
            now=party.clock(),
            options=frames.OPTIONS,
        )
        if attested is None:
            return Connection(channel=opened.channel)

        async def keep(again_s: float) -> None:
            while True:
                await asyncio.sleep(again_s)
                again_s = await attested(opened, identity)

        try:
            first_s = await attested(opened, identity)
        except BaseException:
            await opened.channel.close()
            raise
        return Connection(channel=opened.channel, keep=lambda: keep(first_s))

    return connect


def _attested(
    party: Party, address: str, side: Side
) -> Callable[[Opened, Credentials], Awaitable[float]]:
    """Attests on a channel, by the policy of that moment; returns when to do it again."""
    heads = Heads(party.workspace.heads(party.name))

    async def once(opened: Opened, identity: Credentials) -> float:
        nonlocal side
        side, error = attesting.followed(party, side, party.tell)
        if error is not None:
            party.tell("policy_trouble", message=str(error))
        standing, again_s = await attest(
            opened.channel,
            side,
            heads,
            address=address,
            server=opened.leaf,
            own=identity.leaf,
        )
        party.tell("attested", peer="aggregator", **standing.facts())
        return again_s

    return once


def asked(
    folder: Path, name: str, address: str, *, allow_simulated: bool
) -> dict[str, str | float]:
    """What the aggregator at an address proves to a party, now."""
    from fedclave.cli import signals

    workspace = layout.open_(folder)
    party = Party(
        workspace=workspace, plan=load(workspace.plan), name=name, clock=lambda: datetime.now(UTC)
    )
    heard: list[dict[str, Any]] = []
    with attesting.side(party, "collaborator", allow_simulated=allow_simulated) as own:
        if own is None:
            raise UserError(f"{workspace.plan} asks for no attestation, so nobody proves anything")
        connect = connector(replace(party, listener=heard.append), address, own)

        async def once() -> None:
            await (await connect()).channel.close()

        signals.run(once())
    return {key: value for key, value in heard[-1].items() if key not in ("v", "time", "event")}
