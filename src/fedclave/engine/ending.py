# SPDX-License-Identifier: Apache-2.0
"""The end of a run: where its model lies then, and the event that says so."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fedclave.engine.events import Events
from fedclave.engine.ports import Traffic
from fedclave.engine.store import Best, State


@dataclass(frozen=True, kw_only=True)
class Published:
    """The file of a run's final model, and how those stood who made it."""

    path: Path
    word: str | None = None
    """VERIFIED, SIMULATED or NOT ATTESTED; None where the plan asks nobody for proof."""


Publish = Callable[[State], Published]
"""Makes the final model what its users get. What a kill interrupts is done again."""


def as_it_lies(state: State) -> Published:
    """The store's own file, with nothing to say of it."""
    return Published(path=state.params.path)


def tell(
    events: Events,
    model: str,
    published: Published,
    *,
    rounds: int,
    best: Best | None,
    traffic: Traffic,
    seconds: float,
) -> None:
    """The run is over. The file is there by now, so that nobody is told of one that is not."""
    events.emit(
        "run_finished",
        rounds=rounds,
        model=model,
        path=str(published.path),
        word=published.word,
        best=best.model if best else model,
        bytes={"up": traffic.up, "down": traffic.down},
        seconds=round(seconds, 4),
    )
