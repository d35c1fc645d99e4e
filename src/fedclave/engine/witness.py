# SPDX-License-Identifier: Apache-2.0
"""A run whose members remember how far it has come (``trust.stated``), so that none sets it back.

``Witnessed`` is a transport before which no round opens until a quorum of those who countersigned
the last statement that lies here have shown theirs; each new statement is told before the model
that it names. A member may show a newer one at any time: that ends the run (``guarded``).
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedclave.engine.events import Events
from fedclave.engine.ports import Accept, Enough, Traffic, Transport
from fedclave.engine.store import Store
from fedclave.errors import Refused
from fedclave.messages import Request
from fedclave.tensors import Layout
from fedclave.trust import stated
from fedclave.trust.stated import Statement

T = TypeVar("T")


class Witness:
    """What an aggregator states, and who has shown or countersigned what."""

    def __init__(
        self,
        store: Store,
        events: Events,
        key: Ed25519PrivateKey,
        *,
        plan: str,
        contract: str,
        head: Callable[[], str],
    ) -> None:
        self._store, self._events, self._key = store, events, key
        self._plan, self._contract, self._head = plan, contract, head
        self._own = key.public_key().public_bytes_raw().hex()
        last = store.stated()
        self._needed = frozenset() if last is None else frozenset(last[1])
        self._shown: set[str] = set()
        self._signatures: dict[str, tuple[bytes, bytes]] = {}
        self._current: Statement | None = None
        self._found: Refused | None = None
        self._proven = asyncio.Event()

    def state(self) -> tuple[bytes, bool]:
        """The statement of what lies here now, and whether it is a new one."""
        latest = self._store.newest()
        if self._current is not None and self._current.round == latest[0]:
            return self._current.raw, False
        self.keep()
        self._current = stated.state(
            self._key,
            plan=self._plan,
            contract=self._contract,
            round_=latest[0],
            model=latest[1],
            head=self._head(),
        )
        self._signatures = {}
        return self._current.raw, True

    def keep(self) -> None:
        """Make durable who has countersigned the current statement."""
        if self._current is not None and self._signatures:
            self._store.set_stated(
                self._current.raw,
                {
                    name: {"certificate": pem.decode(), "signature": signature.hex()}
                    for name, (pem, signature) in self._signatures.items()
                },
            )

    def shown(self, member: str, raw: bytes) -> None:
        """A member shows the newest statement that it knows. ``Refused``: it is none."""
        known = stated.parse(raw)
        if known.key != self._own or known.plan != self._plan:
            return  # of no run that is known here: the member judges that
        latest = self._store.newest()[0]
        if known.round > latest and self._found is None:
            self._found = stated.set_back(member, known, latest)
            self._events.emit("run_stopped", round=latest + 1, message=str(self._found))
            self._proven.set()
        self._shown.add(member)

    def countersigned(self, member: str, certificate: bytes, raw: bytes, signature: bytes) -> None:
        """A member has countersigned, an older statement perhaps. ``Refused``: BAD_SIGNATURE."""
        if self._current is None or raw != self._current.raw:
            return
        stated.check_countersigned(certificate, raw, signature)
        self._signatures[member] = (certificate, signature)

    @property
    def lacking(self) -> tuple[int, list[str]]:
        """How many more must show theirs before a round opens, and who has not."""
        away = sorted(self._needed - self._shown)
        majority = len(self._needed) // 2 + 1 if self._needed else 0
        return max(majority - (len(self._needed) - len(away)), 0), away

    async def guarded(self, work: Awaitable[T]) -> T:
        """Do the work; raise ``Refused(SET_BACK)`` as soon as that is proven."""
        doing, proven = asyncio.ensure_future(work), asyncio.ensure_future(self._proven.wait())
        try:
            await asyncio.wait({doing, proven}, return_when=asyncio.FIRST_COMPLETED)
            if self._found is not None:
                raise self._found
            return await doing
        finally:
            for one in (doing, proven):
                one.cancel()
            await asyncio.gather(doing, proven, return_exceptions=True)


class Witnessed:
    """A transport (``ports.Transport``) whose members are told how far the run has come."""

    def __init__(
        self, inner: Transport, witness: Witness, events: Events, tell: Callable[[bytes], None]
    ) -> None:
        self._inner, self._witness, self._events, self._tell = inner, witness, events, tell

    @property
    def traffic(self) -> Traffic:
        """The inner transport's."""
        return self._inner.traffic

    @traffic.setter
    def traffic(self, traffic: Traffic) -> None:
        self._inner.traffic = traffic

    async def present(self, enough: Enough) -> None:
        """See ``Transport.present``; and witnesses must be there."""
        self._state()
        said: list[str] | None = None

        def witnessed(connected: Collection[str]) -> bool:
            nonlocal said
            more, away = self._witness.lacking
            if more and away != said:
                said = away
                number = self._number
                self._events.emit("members_awaited", round=number, needed=more, away=away)
            return not more and enough(connected)

        await self._inner.present(witnessed)

    async def ask(self, request: Request, update: Layout, accept: Accept) -> None:
        """See ``Transport.ask``."""
        self._state()
        await self._inner.ask(request, update, accept)

    @property
    def _number(self) -> int:
        return stated.parse(self._witness.state()[0]).round + 1

    def _state(self) -> None:
        raw, new = self._witness.state()
        if new:
            self._tell(raw)
