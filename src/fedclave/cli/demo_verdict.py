# SPDX-License-Identifier: Apache-2.0
"""Who refused whom in ``fx demo --tamper``, and whether that is what must happen.

Each end tells its own side: a party how it ended, the aggregator whom it refused. Of a refusal that
it only heard of, either says so (``transport.grpc.attest``), so nobody's word counts as another's.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fedclave.cli.party import AGGREGATOR
from fedclave.transport.grpc.attest import BY_AGGREGATOR, BY_PEER

Tamper = Literal["code", "plan", "relay", "key", "replay", "revoked"]

EXPECTED: dict[Tamper, str] = {
    "code": "ATT-MRENCLAVE",
    "plan": "ATT-CONTRACT",
    "relay": "ATT-KEY-BINDING",
    "key": "ATT-KEY-BINDING",
    "replay": "ATT-NONCE",
    "revoked": "ATT-REVOKED",
}
"""With which code each must end."""

NOBODY = "nobody"
REFUSED = 3
"""The exit code of a party that ended by a refusal, whichever side's."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How one party's process ended; ``code`` is "none" where no error was told."""

    party: str
    code: str
    message: str
    exit_code: int


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """How one party ended, and who refused whom there."""

    party: str
    by: str
    """Who refused: this party, the aggregator, or nobody."""
    whom: str
    """Whom: the other end of the party's wire, or what came to the aggregator from there."""
    code: str
    message: str
    exit_code: int


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a tampered demo came to."""

    mode: Tamper
    refusals: tuple[Refusal, ...]
    differs: tuple[str, ...]
    """What the contract of the aggregator has otherwise than that of the parties."""
    up: int
    """Bytes that the parties sent, all layers above TCP included."""
    down: int
    """Bytes that were sent to them."""
    model: int
    """Bytes of one model."""
    updates: int
    """Updates that the aggregator took in."""

    @property
    def failed_closed(self) -> bool:
        """Every party ended with the right refusal, and too few bytes for a model went either way.

        A model that is sent down to who must not have it is no less lost than an update sent up.
        """
        right = all(
            (one.code, one.exit_code) == (EXPECTED[self.mode], REFUSED) and one.by != NOBODY
            for one in self.refusals
        )
        small = max(self.up, self.down) < self.model
        return right and bool(self.refusals) and not self.updates and small

    @property
    def sentence(self) -> str:
        """Who refused whom, with which codes."""
        refused = [one for one in self.refusals if one.by != NOBODY]
        if not refused:
            return f"nobody refused anybody ({len(self.refusals)} parties)."
        groups: dict[str, list[Refusal]] = {}
        for one in refused:
            groups.setdefault(_phrase(one), []).append(one)
        total = len(self.refusals)
        said = "; ".join(
            phrase.format(who=f"{len(group)} of {total} parties")
            for phrase, group in groups.items()
        )
        return f"{said}, with {', '.join(sorted({one.code for one in refused}))}."


def refusals(
    ended: Iterable[Ended], events: Sequence[Mapping[str, Any]], between: str
) -> tuple[Refusal, ...]:
    """Who refused whom, by how the parties ended and by the aggregator's events.

    ``between`` is who stands where the parties take the aggregator to be.
    """
    its_own = [
        event["peer"]
        for event in events
        if event["event"] == "peer_refused" and not event["message"].startswith(BY_PEER)
    ]
    return tuple(_refusal(one, its_own, between) for one in ended)


def _refusal(one: Ended, refused: Sequence[str], between: str) -> Refusal:
    by, whom = one.party, between
    if one.exit_code != REFUSED:
        by, whom = NOBODY, NOBODY
    elif one.message.startswith(BY_AGGREGATOR):
        by, whom = AGGREGATOR, one.party
        if one.party not in refused:  # what came to it from there had another name
            whom = between if between in refused else one.party
    return Refusal(
        party=one.party,
        by=by,
        whom=whom,
        code=one.code,
        message=one.message,
        exit_code=one.exit_code,
    )


def _phrase(one: Refusal) -> str:
    if one.by != AGGREGATOR:
        return f"{{who}} refused {_the(one.whom)}"
    if one.whom == one.party:
        return "the aggregator refused {who}"
    return f"the aggregator refused {one.whom}, through whom {{who}} came"


def _the(name: str) -> str:
    return "the aggregator" if name == AGGREGATOR else f"{name}, who stands in its place"
