# SPDX-License-Identifier: Apache-2.0
"""Who has attested, and until when: the live sessions of a server, by the TLS key behind them.

A session ends when its time is up, when the party attests again and fails, or when a second look at
what it proved (``reconsider``: newer collateral, another policy) refuses what was good before.
Who has none may call ``Attest`` and nothing else.
"""

import threading
from collections.abc import Callable
from datetime import datetime, timedelta

from fedclave.errors import Code, Refused
from fedclave.trust.gate import Standing

SKEW = timedelta(minutes=5)
"""How far this machine's clock may be set back while a session lives."""


class Sessions:
    """Sessions by the SHA-256 of a TLS public key. Safe to use from several threads."""

    def __init__(self) -> None:
        self._live: dict[bytes, Standing] = {}
        self._ended: dict[bytes, Refused] = {}
        self._lock = threading.Lock()

    def open(self, key: bytes, standing: Standing) -> None:
        """Begin a session, in place of an earlier one of this key."""
        with self._lock:
            self._live[key] = standing
            self._ended.pop(key, None)

    def require(self, key: bytes, now: datetime) -> Standing:
        """The live session of a key. ``Refused``: there is none, or why there is none any more."""
        with self._lock:
            standing = self._live.get(key)
            if standing is None:
                raise self._ended.get(key) or Refused(
                    Code.ATT_REQUIRED,
                    "this call needs a session, and the peer has not attested on this key. Attest"
                    " first (fl-attest/1)",
                )
            verdict = standing.verdict
            if not verdict.since - SKEW <= now < verdict.expires:
                raise Refused(
                    Code.ATT_REQUIRED,
                    f"the session of {verdict.role} {verdict.name!r} lasted from"
                    f" {verdict.since:%Y-%m-%d %H:%M:%S} to {verdict.expires:%Y-%m-%d %H:%M:%S}"
                    f" UTC; here it is {now:%Y-%m-%d %H:%M:%S}. Attest again",
                )
            return standing

    def close(self, key: bytes, why: Refused) -> None:
        """End a session; calls on its key are refused for this reason from now on."""
        with self._lock:
            if self._live.pop(key, None) is not None:
                self._ended[key] = why

    def reconsider(self, look: Callable[[Standing], Standing]) -> list[tuple[Standing, Refused]]:
        """Look at every session again; returns those that ended, and why."""
        with self._lock:
            live = dict(self._live)
        ended: list[tuple[Standing, Refused]] = []
        for key, standing in live.items():
            try:
                renewed = look(standing)
            except Refused as refused:
                ended.append((standing, refused))
                self.close(key, refused)
            else:
                with self._lock:
                    if self._live.get(key) is standing:
                        self._live[key] = renewed
        return ended

    def standings(self) -> list[Standing]:
        """All that are live, or were until their time was up."""
        with self._lock:
            return list(self._live.values())
