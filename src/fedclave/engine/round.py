# SPDX-License-Identifier: Apache-2.0
"""One round as a state machine: who was asked, who has answered, may it close. No I/O, no clock.

open --accept/fail--> open ... --all answered, or the deadline with a quorum--> closed
                               --no quorum any more, or none at the deadline--> failed
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType

from fedclave.errors import Code, Refused


class Outcome(StrEnum):
    """How a round ended."""

    CLOSED = "closed"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Round:
    """A round in progress. ``deadline`` and every ``now`` are seconds of one monotonic clock."""

    number: int
    asked: frozenset[str]
    needed: int
    deadline: float
    accepted: frozenset[str] = frozenset()
    failed: Mapping[str, Code] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def open(cls, number: int, asked: Collection[str], needed: int, deadline: float) -> "Round":
        """A round that asks these members and needs that many of them."""
        return cls(number=number, asked=frozenset(asked), needed=needed, deadline=deadline)

    def accept(self, member: str, now: float) -> "Round":
        """The round with this member's answer in it.

        Raises ``Refused``: NOT_ASKED, DUPLICATE, or LATE once the round has an outcome.
        """
        self._may_answer(member, now)
        return replace(self, accepted=self.accepted | {member})

    def fail(self, member: str, code: Code, now: float) -> "Round":
        """The round knowing that this member gives no update. Raises as ``accept`` does."""
        self._may_answer(member, now)
        return replace(self, failed=MappingProxyType({**self.failed, member: code}))

    def outcome(self, now: float) -> Outcome | None:
        """None while it is worth waiting."""
        waiting = len(self.asked) - len(self.accepted) - len(self.failed)
        if len(self.accepted) + waiting < self.needed:
            return Outcome.FAILED
        if waiting and now < self.deadline:
            return None
        return Outcome.CLOSED if len(self.accepted) >= self.needed else Outcome.FAILED

    @property
    def missing(self) -> tuple[str, ...]:
        """Members asked that have not answered."""
        return tuple(sorted(self.asked - self.accepted - self.failed.keys()))

    def _may_answer(self, member: str, now: float) -> None:
        if member not in self.asked:
            raise Refused(Code.NOT_ASKED, f"round {self.number} asks nothing of {member!r}")
        if member in self.accepted or member in self.failed:
            raise Refused(Code.DUPLICATE, f"round {self.number} has {member!r}'s answer already")
        if self.outcome(now) is not None:
            raise Refused(Code.LATE, f"round {self.number} is over")
