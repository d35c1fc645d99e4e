# SPDX-License-Identifier: Apache-2.0
"""How a member reaches the aggregator: mutual TLS and, where the plan asks for it, attestation."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from fedclave.cli import attesting, vigil
from fedclave.cli.party import Party
from fedclave.errors import Code, Refused, Unavailable, UserError
from fedclave.plan import load
from fedclave.transport.grpc import frames
from fedclave.transport.grpc.attest import attest
from fedclave.transport.grpc.channel import Opened, open_channel
from fedclave.transport.grpc.client import Connect, Connection
from fedclave.trust import gate
from fedclave.trust.attesting import Side
from fedclave.trust.collateral_store import Reminder
from fedclave.trust.credentials import Credentials
from fedclave.trust.gate import Anchors
from fedclave.trust.heads import Heads
from fedclave.trust.sessions import Sessions
from fedclave.workspace import layout


def connector(party: Party, address: str, side: Side | None) -> Connect:
    """Opens a channel to the aggregator, with the files and the time of each moment.

    Where the plan knows attestation, both ends have attested before anybody uses the channel.
    """
    cert = party.workspace.cert
    judge = None if side is None else _Judge(party, address, side)

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
        if judge is None:
            return Connection(channel=opened.channel, keep=lambda: _watch(party, opened, None))

        async def again(seconds: float) -> None:
            while True:
                await asyncio.sleep(seconds)
                seconds = await judge.again(opened, identity)

        try:
            first_s = await judge.attest(opened, identity)
        except BaseException:
            await opened.channel.close()
            raise
        return Connection(
            channel=opened.channel,
            keep=lambda: vigil.first_failure(again(first_s), _watch(party, opened, judge)),
        )

    return connect


async def _watch(party: Party, opened: Opened, judge: "_Judge | None") -> None:
    """Raise ``Refused`` once the aggregator at the other end is not to be trusted any more."""
    due = False
    async for changed in vigil.looks(party.workspace):
        if judge is not None:
            judge.check_time()
        if not (due := due or changed):
            continue
        _admit(party, opened)
        due = judge is not None and not await judge.reconsider()


def _admit(party: Party, opened: Opened) -> None:
    """Put the aggregator's certificate before the gate again: it may be revoked by now."""
    try:
        gate.admit(
            opened.leaf,
            anchors=Anchors.read(party.workspace.cert),
            role="aggregator",
            now=party.clock(),
            members=None,
        )
    except Refused as refused:
        if refused.code is Code.CERTIFICATE_EXPIRED:  # it may have been renewed: look
            raise Unavailable(refused.message) from refused
        raise


class _Judge:
    """A member's judgement of the aggregator, by the policy and the collateral of each moment."""

    def __init__(self, party: Party, address: str, side: Side) -> None:
        self._party, self._address, self._side = party, address, side
        self._heads = Heads(party.workspace.heads(party.name))
        self._sessions = Sessions()  # of one: the aggregator's
        self._troubles = attesting.Troubles(party)
        self._reminder = Reminder()
        self._pause_s = _FIRST_PAUSE_S

    async def attest(self, opened: Opened, identity: Credentials) -> float:
        """Attest on a channel; returns after how many seconds to do it again."""
        self._follow()
        standing, again_s = await attest(
            opened.channel,
            self._side,
            self._heads,
            address=self._address,
            server=opened.leaf,
            own=identity.leaf,
        )
        self._sessions.open(_THE, standing)
        self._party.tell("attested", peer="aggregator", **standing.facts())
        return again_s

    async def again(self, opened: Opened, identity: Credentials) -> float:
        """Attest anew. While the two sides follow different versions of the policy, for one of them
        gets it first, it is tried again until the session from before is over (``check_time``).
        """
        try:
            again_s = await self.attest(opened, identity)
        except Refused as refused:
            if refused.code is not Code.ATT_POLICY_VERSION:
                raise
            self._troubles.note("version", refused)
            pause_s, self._pause_s = self._pause_s, min(2 * self._pause_s, _LONGEST_PAUSE_S)
            return pause_s
        self._troubles.note("version", None)
        self._pause_s = _FIRST_PAUSE_S
        return again_s

    def check_time(self) -> None:
        """Raise ``Unavailable`` when what the aggregator proved is too old: it must do it again."""
        try:
            self._sessions.require(_THE, self._side.now())
        except Refused as refused:
            raise Unavailable(refused.message) from refused

    async def reconsider(self) -> bool:
        """Look again at what the aggregator proved. Whether that could be done, or ``Refused``."""
        followed = self._follow()
        standing, side = self._sessions.require(_THE, self._side.now()), self._side
        look = partial(
            gate.reconsider,
            standing,
            policy=side.terms.policy,
            verifier=side.verifier,
            now=side.now(),
        )
        try:
            await asyncio.to_thread(look)
        except (UserError, Unavailable) as error:  # of this machine, not of the aggregator
            self._troubles.note("collateral", error)
            return False
        except OSError as error:
            self._troubles.note("collateral", attesting.unreadable(error))
            return False
        except Refused as refused:
            raise Refused(
                refused.code, f"the aggregator is not trusted any more: {refused.message}"
            ) from refused
        self._troubles.note("collateral", None)
        await attesting.remind(self._party, self._reminder, self._side)
        return followed

    def _follow(self) -> bool:
        self._side, error = attesting.followed(self._party, self._side, self._party.tell)
        self._troubles.note("policy", error)
        return error is None


_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
"""Before the next try while the aggregator follows another version of the policy."""

_THE = b"aggregator"
"""The key of the only session that a member keeps."""


def asked(
    folder: Path, name: str, address: str, *, allow_simulated: bool
) -> dict[str, str | float]:
    """What the aggregator at an address proves to a party, now."""
    from fedclave.cli import signals

    workspace = layout.open_(folder)
    party = Party(
        workspace=workspace, plan=load(workspace.plan), name=name, clock=lambda: datetime.now(UTC)
    )
    attesting.run_from_source(party.plan, "collaborator", allow_simulated=allow_simulated)
    heard: list[dict[str, Any]] = []
    with attesting.side(party, "collaborator", allow_simulated=allow_simulated) as own:
        if own is None:
            raise UserError(f"{workspace.plan} asks for no attestation, so nobody proves anything")
        connect = connector(replace(party, listener=heard.append), address, own)

        async def once() -> None:
            await (await connect()).channel.close()

        signals.run(once())
    return {key: value for key, value in heard[-1].items() if key not in ("v", "time", "event")}
