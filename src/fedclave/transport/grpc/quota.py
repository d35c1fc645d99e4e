# SPDX-License-Identifier: Apache-2.0
"""What one member may use, so that a peer that floods slows only itself."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fedclave.errors import Code, Refused

RATE = 50.0  # calls and messages a second, in the long run
BURST = 200.0  # of them at once
AT_ONCE = {"Work": 2, "Fetch": 2, "Push": 2, "Status": 2}
"""Calls of one kind that a member may have open; two, as a new one replaces one that was lost."""


@dataclass
class _Bucket:
    tokens: float
    at: float


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
