# SPDX-License-Identifier: Apache-2.0
"""`fx` for tests: as it is, but for what the first argument (JSON) changes in this process.

    clock         a file with the seconds that this process's clock is ahead (read at each look)
    reconsider_s  between two looks at policy, collateral and sessions, in place of 30
    unrehearsed   the aggregator does not ask whether its own members would refuse it
    unallowed     likewise, and it judges others as without --allow-simulated

No switch of `fx` does any of this. It runs as a file, and is no part of what is measured.
"""

import json
import sys
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fedclave.cli import (
    aggregator,
    attest,
    attesting,
    collaborator,
    collateral,
    main,
    policy,
    vigil,
)
from fedclave.engine.events import FIELDS


class Turned:
    """``datetime``, by a clock that a file turns."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(datetime, name)

    def now(self, zone: tzinfo | None = None) -> datetime:
        """The time here."""
        ahead = float(self._file.read_text() or 0) if self._file.exists() else 0.0
        return datetime.now(zone) + timedelta(seconds=ahead)


def _nothing() -> dict[str, str]:
    """What an event tells of a standing that nobody found out."""
    return dict.fromkeys(FIELDS["attestation"], "")


def change(
    clock: str = "",
    reconsider_s: float = 0.0,
    *,
    unrehearsed: bool = False,
    unallowed: bool = False,
) -> None:
    """Change what the tests want changed."""
    if clock:
        for module in (aggregator, attest, attesting, collaborator, collateral, policy):
            module.datetime = Turned(Path(clock))  # type: ignore[attr-defined]
    if reconsider_s:
        vigil.RECONSIDER_S = reconsider_s
    if unallowed:
        side = attesting.Side
        attesting.Side = lambda **own: side(**{**own, "allow_simulated": False})  # type: ignore
    if unrehearsed or unallowed:
        word = SimpleNamespace(verdict=SimpleNamespace(word="SIMULATED"), facts=_nothing)
        attesting._rehearsed = lambda own, key: word  # type: ignore[assignment]


if __name__ == "__main__":
    change(**json.loads(sys.argv.pop(1)))
    main.main()
