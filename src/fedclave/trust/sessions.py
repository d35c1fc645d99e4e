# SPDX-License-Identifier: Apache-2.0
"""Who has attested, and until when: the live sessions of a server, by the TLS key behind them.

A session ends when its time is up, when the party attests again and fails (but for a policy of
another version: one side gets the next one first), or when a second look at what it proved
(``reconsider``: newer collateral, another policy) refuses what was good before.
Who has none may call ``Attest`` and nothing else.

Its time is also measured by a clock that nobody sets: to set this machine's clock back neither
prolongs a session nor brings one back.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from time import monotonic

from fedclave.errors import Code, Refused
from fedclave.trust.gate import Standing

SKEW = timedelta(minutes=5)
"""How far this machine's clock may be set back while a session lives."""


@dataclass(frozen=True, kw_only=True)
class _Session:
    standing: Standing
    opened: float
    """When it began, by the clock that nobody sets."""


class Sessions:
    """Sessions by the SHA-256 of a TLS public key. Safe to use from several threads."""

    def __init__(self, elapsed: Callable[[], float] = monotonic) -> None:
        """``elapsed`` is seconds since some moment, and never goes back."""
        self._elapsed = elapsed
        self._live: dict[bytes, _Session] = {}
        self._ended: dict[bytes, Refused] = {}
        self._lock = threading.Lock()

    def open(self, key: bytes, standing: Standing) -> None:
        """Begin a session, in place of an earlier one of this key."""
        with self._lock:
            self._live[key] = _Session(standing=standing, opened=self._elapsed())
            self._ended.pop(key, None)

    def require(self, key: bytes, now: datetime) -> Standing:
        """The live session of a key. ``Refused``: there is none, or why there is none any more."""
        with self._lock:
            session = self._live.get(key)
            if session is None:
                raise self._ended.get(key) or Refused(
                    Code.ATT_REQUIRED,
                    "this call needs a session, and the peer has not attested on this key. Attest"
                    " first (fl-attest/1)",
                )
        self._check_time(session, now)
        return session.standing

    def close(self, key: bytes, why: Refused) -> None:
        """End a session; calls on its key are refused for this reason from now on."""
        with self._lock:
            if self._live.pop(key, None) is not None:
                self._ended[key] = why

    def reconsider(
        self, look: Callable[[Standing], Standing], now: datetime
    ) -> list[tuple[Standing, Refused]]:
        """Look at every session again; returns those that ended, and why."""
        with self._lock:
            live = dict(self._live)
        ended: list[tuple[Standing, Refused]] = []
        for key, session in live.items():
            try:
                self._check_time(session, now)
                renewed = replace(session, standing=look(session.standing))
            except Refused as refused:
                with self._lock:
                    if self._live.get(key) is session:  # else it has attested again meanwhile
                        del self._live[key]
                        self._ended[key] = refused
                        ended.append((session.standing, refused))
            else:
                with self._lock:
                    if self._live.get(key) is session:
                        self._live[key] = renewed
        return ended

    def standings(self) -> list[Standing]:
        """All that are live, or were until their time was up."""
        with self._lock:
            return [session.standing for session in self._live.values()]

    def _check_time(self, session: _Session, now: datetime) -> None:
        verdict = session.standing.verdict
        at_least = verdict.since + timedelta(seconds=self._elapsed() - session.opened)
        if at_least - SKEW <= now < verdict.expires and at_least < verdict.expires:
            return
        back = now < at_least - SKEW
        raise Refused(
            Code.ATT_REQUIRED,
            f"the session of {verdict.role} {verdict.name!r} lasted from"
            f" {verdict.since:%Y-%m-%d %H:%M:%S} to {verdict.expires:%Y-%m-%d %H:%M:%S} UTC; here"
            f" it is {now:%Y-%m-%d %H:%M:%S}"
            f"{', for the clock was set back since. Set it right' if back else ''}. Attest again",
        )
