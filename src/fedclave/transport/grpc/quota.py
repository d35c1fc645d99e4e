# SPDX-License-Identifier: Apache-2.0
"""What one member may use, so that a peer that floods slows only itself."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fedclave.errors import Code, Refused

RATE = 50.0  # calls and messages a second, in the long run
BURST = 200.0  # of them at once
AT_ONCE = {"Attest": 2, "Work": 2, "Fetch": 2, "Push": 2, "Status": 2}
"""Calls of one kind that a member may have open; two, as a new one replaces one that was lost."""

MOST_PEERS = 4096  # remembered at once


@dataclass
class _Bucket:
    tokens: float
    at: float


class Told:
    """How often one peer may be written about: a line for each call would fill the disk."""

    def __init__(self, burst: int = 20, each_s: float = 60.0) -> None:
        self._burst = burst
        self._each_s = each_s
        self._told: dict[str, tuple[float, int]] = {}  # when the count began, and the count

    def more(self, peer: str, now: float) -> int | None:
        """None: not this time. Else how many times it was not, since the last time it was."""
        begun, count = self._told.get(peer, (now, 0))
        passed_over = 0
        if now - begun >= self._each_s:
            begun, count, passed_over = now, 0, max(count - self._burst, 0)
        if len(self._told) > MOST_PEERS:
            self._told.clear()
        self._told[peer] = (begun, count + 1)
        return None if count >= self._burst else passed_over


class Quota:
    """Token buckets and open calls by member. ``now`` is seconds of a monotonic clock."""

    def __init__(self, rate: float = RATE, burst: float = BURST) -> None:
        self._rate = rate
        self._burst = burst
        self._buckets: dict[str, _Bucket] = {}
        self._open: Counter[tuple[str, str]] = Counter()

    def spend(self, member: str, now: float) -> None:
        """Count one call or message. Raises ``Refused(OVER_QUOTA)``."""
        bucket = self._buckets.setdefault(member, _Bucket(self._burst, now))
        bucket.tokens = min(self._burst, bucket.tokens + (now - bucket.at) * self._rate)
        bucket.at = now
        if bucket.tokens < 1:
            raise Refused(Code.OVER_QUOTA, f"more than {self._rate:g} messages a second")
        bucket.tokens -= 1

    @contextmanager
    def calling(self, member: str, call: str) -> Iterator[None]:
        """Hold one of the member's open calls. Raises ``Refused(OVER_QUOTA)``."""
        key = (member, call)
        if self._open[key] >= AT_ONCE[call]:
            raise Refused(Code.OVER_QUOTA, f"more than {AT_ONCE[call]} {call} calls at once")
        self._open[key] += 1
        try:
            yield
        finally:
            self._open[key] -= 1
            if not self._open[key]:
                del self._open[key]
