# SPDX-License-Identifier: Apache-2.0
"""A round while it runs, and what must hold at its end."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from fedclave.engine.round import Outcome, Round
from fedclave.errors import Unavailable, UserError
from fedclave.learners.base import is_finite
from fedclave.messages import Measurement, Packet
from fedclave.tensors import Layout, Tensors


@dataclass
class Progress:
    """A round while it runs. Only the event loop's thread touches it."""

    round: Round
    layout: Layout
    fold: Any
    begun: float
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    measured: dict[str, tuple[Measurement, ...]] = field(default_factory=dict)
    judging: set[str] = field(default_factory=set)
    judgements: set["asyncio.Task[None]"] = field(default_factory=set)
    packets: dict[str, Packet] = field(default_factory=dict)


async def until_over(progress: Progress, asks: Sequence["asyncio.Task[None]"]) -> None:
    """Return once the round has an outcome and nothing of it is being judged."""
    while progress.judging or progress.round.outcome(monotonic()) is None:
        for ask in asks:
            if ask.done() and not ask.cancelled():
                ask.result()  # a failing disk or a bug of ours is not a member's to answer for
        progress.changed.clear()
        left = progress.round.deadline - monotonic()
        try:
            await asyncio.wait_for(progress.changed.wait(), left if left > 0 else None)
        except TimeoutError:
            continue


def told(record: Mapping[str, Any]) -> dict[str, Any]:
    """What an event has of a round's record."""
    return {key: value for key, value in record.items() if key != "ledger"}


def require_finite(params: Tensors, number: int) -> None:
    """A model that is not finite is of no use to anybody, and would not be noticed as early."""
    for name in params:
        if not is_finite(params[name]):
            raise UserError(
                f"round {number} would make tensor {name!r} of the global model infinite or NaN."
                " Lower the learning rates, or fold.limit; the model of the round before is kept"
            )


def require_quorum(end: Round) -> None:
    """Raise ``Unavailable`` if the round ended without the answers that it needs."""
    if end.outcome(monotonic()) is Outcome.FAILED:
        failed = ", ".join(f"{member} ({code})" for member, code in end.failed.items())
        raise Unavailable(
            f"round {end.number} has {len(end.accepted)} of the {end.needed} answers that it"
            f" needs. Failed: {failed or 'none'}. Not heard: {', '.join(end.missing) or 'none'}."
            f" Start again when they are back, or without those who will not be (plan/cols.yaml):"
            f" the run goes on with round {end.number}"
        )
