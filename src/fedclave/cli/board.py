# SPDX-License-Identifier: Apache-2.0
"""What a run looks like at a moment: events folded into a ``Board``. Nothing is drawn here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from fedclave.engine.events import Event

METRIC = "validate/global/accuracy"
UNATTESTED = "NOT ATTESTED"
NOTICES = 3
"""How many of the latest refusals and departures stay in sight."""


@dataclass
class Party:
    """One row: what a member does, and what it last reported."""

    name: str
    state: str = "away"
    code: str = ""
    examples: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    word: str = UNATTESTED
    evidence: str = ""  # measurement, TCB status, age


@dataclass
class Board:
    """Everything that is shown, folded from events. ``metric`` is the plan's ``best.metric``."""

    metric: str = METRIC
    parties: dict[str, Party] = field(default_factory=dict)
    name: str = ""
    word: str = UNATTESTED  # of the aggregator itself
    evidence: str = ""
    address: str = ""
    rounds: int = 0
    waiting: bool = True  # no round is open yet in this process
    open: int = 0  # the latest round that was opened
    closed: int = 0  # the latest round that is over; beyond ``rounds``, the final evaluation
    metrics: Mapping[str, float] = field(default_factory=dict)
    best: tuple[int, float] | None = None
    up: int = 0  # bytes
    down: int = 0  # bytes
    begun: datetime | None = None
    ended: datetime | None = None
    outcome: str = ""
    notices: list[Event] = field(default_factory=list)

    def update(self, event: Event) -> None:
        """Take one event in; those of a later version are passed over."""
        fold = _FOLDS.get(event["event"])
        if fold is not None:
            fold(self, event)

    def party(self, name: str) -> Party:
        """The row of a member, a new one if need be."""
        return self.parties.setdefault(name, Party(name))

    def notice(self, event: Event) -> None:
        """Keep an event in sight."""
        self.notices = [*self.notices, event][-NOTICES:]


def _run_started(board: Board, event: Event) -> None:
    board.name, board.rounds = event["name"], event["rounds"]
    board.open = board.closed = event["round"]
    board.begun = datetime.fromisoformat(event["time"])


def _checkpoint_damaged(board: Board, event: Event) -> None:
    board.notice(event)


def _listening(board: Board, event: Event) -> None:
    board.address = event["address"]


def _member_joined(board: Board, event: Event) -> None:
    board.party(event["member"]).state = "ready"


def _member_attested(board: Board, event: Event) -> None:
    party = board.party(event["member"])
    party.word, party.evidence = event["word"], brief(event)


def _attestation(board: Board, event: Event) -> None:
    board.word, board.evidence = event["word"], brief(event)


def brief(event: Event) -> str:
    """Measurement, TCB status and age of the collateral, as far as there are any.

    >>> brief({"measurement": "41aa" * 16, "tcb": "UpToDate", "collateral_age_s": 180_000})
    '41aa41aa UpToDate 2d'
    """
    measurement, tcb = str(event["measurement"]), event.get("tcb", "")
    age = f"{event.get('collateral_age_s', 0) // 86_400}d" if tcb else ""
    return " ".join(part for part in (measurement[:8], tcb, age) if part)


def _member_left(board: Board, event: Event) -> None:
    if board.ended is None:  # at the end everybody leaves
        board.party(event["member"]).state = "away"
        board.notice(event)


def _trouble(board: Board, event: Event) -> None:
    board.notice(event)


def _peer_refused(board: Board, event: Event) -> None:
    board.notice(event)


def _members_awaited(board: Board, event: Event) -> None:
    for name in event["away"]:
        board.party(name)


def _round_opened(board: Board, event: Event) -> None:
    board.open, board.waiting = event["round"], False
    for name in event["asked"]:
        board.party(name)
    for party in board.parties.values():
        if party.state != "away":
            party.state = "asked" if party.name in event["asked"] else "ready"


def _task_started(board: Board, event: Event) -> None:
    board.party(event["member"]).state = "validating" if "/" in event["task"] else "training"


def _update_accepted(board: Board, event: Event) -> None:
    party = board.party(event["member"])
    party.state, party.metrics = "reported", {**party.metrics, **event["metrics"]}
    party.examples = event["weight"] or party.examples


def _update_refused(board: Board, event: Event) -> None:
    party = board.party(event["member"])
    party.state, party.code = "late" if event["code"] == "late" else "refused", event["code"]
    board.notice(event)


def _round_closed(board: Board, event: Event) -> None:
    board.closed = event["round"]
    board.metrics = {**board.metrics, **event["metrics"]}
    board.up += event["bytes"]["up"]
    board.down += event["bytes"]["down"]
    for name in event["missing"]:
        board.party(name).state = "late"


def _best_model(board: Board, event: Event) -> None:
    board.best = (event["round"], event["value"])


def _run_finished(board: Board, event: Event) -> None:
    board.ended, board.outcome = datetime.fromisoformat(event["time"]), "finished"
    for party in board.parties.values():
        if party.state == "reported":
            party.state = "done"


def _run_stopped(board: Board, event: Event) -> None:
    board.ended, board.outcome = datetime.fromisoformat(event["time"]), "stopped"
    board.notice(event)


_FOLDS: dict[str, Callable[[Board, Event], None]] = {
    "listening": _listening,
    "run_started": _run_started,
    "checkpoint_damaged": _checkpoint_damaged,
    "member_joined": _member_joined,
    "member_attested": _member_attested,
    "attestation": _attestation,
    "member_left": _member_left,
    "peer_refused": _peer_refused,
    "members_trouble": _trouble,
    "trouble": _trouble,
    "members_awaited": _members_awaited,
    "round_opened": _round_opened,
    "task_started": _task_started,
    "update_accepted": _update_accepted,
    "update_refused": _update_refused,
    "round_closed": _round_closed,
    "best_model": _best_model,
    "run_finished": _run_finished,
    "run_stopped": _run_stopped,
}
