# SPDX-License-Identifier: Apache-2.0
"""A run as it looks while it happens: a table updated in place, or plain lines off a terminal.

All of it is made from events (``engine.events``): a ``Board`` folds them, ``table`` draws a board,
``line`` says one event. Nothing here asks, waits or decides. Names, addresses and messages of peers
are shown without control characters, which could rewrite a terminal.
"""

import io
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fedclave.cli.board import METRIC, Board, Party, brief
from fedclave.cli.console import count
from fedclave.engine.events import Event

_STYLES = {
    "away": "dim",
    "ready": "default",
    "asked": "default",
    "training": "cyan",
    "validating": "blue",
    "reported": "green",
    "done": "green",
    "late": "yellow",
    "refused": "red",
}
_WORDS = {"VERIFIED": "green", "SIMULATED": "bold black on yellow", "NOT ATTESTED": "dim"}
_REFRESH_HZ = 10
_BAR = 28  # columns
_NAMED = 8  # members in one line


class View:
    """Shows a run on a console, and listens to events (``Events(path, now, view)``).

    On a terminal a table that stays in place; elsewhere one line for each thing that a reader of a
    log would miss. The last table stays on the screen when the view is left.
    """

    def __init__(
        self,
        console: Console,
        *,
        now: Callable[[], datetime],
        metric: str = METRIC,
        members: Sequence[str] = (),
    ) -> None:
        self.board = Board(metric, {name: Party(name) for name in members})
        self._console = console
        self._now = now
        self._lock = threading.Lock()  # the screen is drawn by a thread of its own
        self._live: Live | None = None
        if console.is_terminal and not console.is_dumb_terminal:
            self._live = Live(
                console=console, get_renderable=self._draw, refresh_per_second=_REFRESH_HZ
            )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start(refresh=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        with self._lock:
            after_the_end = self.board.ended is not None
            self.board.update(event)
        if self._live is None and not (after_the_end and event["event"] == "member_left"):
            say(self._console, line(event, self.board))

    def _draw(self) -> RenderableType:
        with self._lock:
            return table(self.board, self._now(), self._console.height)


def say(console: Console, text: str | None) -> None:
    """Print one line as it is: not wrapped, not coloured, no markup."""
    if text is not None:
        console.print(text, soft_wrap=True, markup=False, highlight=False, emoji=False)


def table(board: Board, now: datetime, height: int) -> RenderableType:
    """The board as a header, a row for each party, and the latest notices."""
    parties = sorted(board.parties.values(), key=lambda party: party.name)
    room = max(3, height - 9 - len(board.notices))
    shown = parties if len(parties) <= room else parties[: room - 1]
    what = board.metric.split("/")[-1]
    rows = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    rows.add_column("party", min_width=10, max_width=24, no_wrap=True)
    rows.add_column("state", min_width=10, no_wrap=True)
    for heading in ("examples", f"{what}: global", "own"):
        rows.add_column(heading, justify="right", min_width=6, no_wrap=True)
    rows.add_column("attestation", min_width=12, no_wrap=True)
    own = _local(board.metric)
    for party in shown:
        values = (_number(party.metrics.get(name)) for name in (board.metric, own))
        examples = "" if party.examples is None else str(party.examples)
        proved = _word(party.word, party.evidence)
        rows.add_row(Text(clean(party.name)), _state(party), examples, *values, proved)
    notices = [
        Text(line(event, board) or "", style="yellow", overflow="ellipsis", no_wrap=True)
        for event in board.notices
    ]
    more = [Text(_more(parties[len(shown) :]), style="dim")] if len(shown) < len(parties) else []
    return Group(*_header(board, now), Text(), rows, *more, *notices)


def _header(board: Board, now: datetime) -> Iterator[RenderableType]:
    head = Table.grid(padding=(0, 2))
    row: list[RenderableType] = [Text(clean(board.name) or "federation", style="bold")]
    row.append(_where(board))
    if board.rounds and not (board.waiting and not board.closed):
        done = min(board.closed, board.rounds)
        row.append(ProgressBar(total=board.rounds, completed=done, width=_BAR))
    for _ in row:
        head.add_column(no_wrap=True)
    head.add_row(*row)
    yield head
    what = board.metric.split("/")[-1]
    figures = [
        (what, _number(board.metrics.get(board.metric))),
        ("loss", _number(_loss(board.metrics, board.metric))),
        ("up", size(board.up)),
        ("down", size(board.down)),
        ("time", _clock(board, now)),
    ]
    if board.waiting:
        figures = [("listening on", clean(board.address))] if board.address else []
    yield Text("   ").join(
        Text.assemble((f"{label} ", "dim"), (value or "-", "bold")) for label, value in figures
    )
    yield Text.assemble(("aggregator ", "dim"), _word(board.word, board.evidence))


def _where(board: Board) -> str:
    if board.outcome:
        rounds = count(board.rounds, "round")
        return f"{board.outcome} after {min(board.closed, board.rounds)} of {rounds}"
    if board.waiting:
        there = sum(party.state != "away" for party in board.parties.values())
        known = f" of {len(board.parties)}" if board.parties else ""
        return f"waiting for parties: {there}{known} connected"
    if board.open > board.rounds:
        return "final evaluation"
    return f"round {board.open} of {board.rounds}"


def _state(party: Party) -> Text:
    text = party.state
    if party.state == "refused" and party.code:
        text = f"refused ({clean(party.code)})"
    return Text(text, style=_STYLES.get(party.state, ""))


def _word(word: str, evidence: str) -> Text:
    """What a party has proved of itself. What is simulated cannot be overlooked."""
    return Text.assemble((clean(word), _WORDS.get(word, "")), f" {clean(evidence)}".rstrip())


def _more(parties: Sequence[Party]) -> str:
    """What became of the rows that the screen has no room for."""
    states = [party.state for party in parties]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    return f"and {len(parties)} more: {counts}"


def line(event: Event, board: Board | None = None) -> str | None:
    """One event as a sentence in ASCII but for names; None for those that a log can do without.

    >>> line({"event": "listening", "address": "localhost:8443"})
    'listening on localhost:8443'
    """
    say_it = _SENTENCES.get(event["event"])
    return None if say_it is None else clean(say_it(event, board or Board()))


def _say_started(event: Event, board: Board) -> str:
    if event["round"] > event["rounds"]:
        return f"{event['name']}: the run was over, after {count(event['rounds'], 'round')}"
    start = f"goes on after round {event['round']} of" if event["resumed"] else "begins:"
    model = f"a model of {size(event['size'])}, plan {event['plan'][:12]}"
    return f"{event['name']} {start} {count(event['rounds'], 'round')}, {model}"


def _say_refused_update(event: Event, board: Board) -> str:
    return f"round {event['round']}: {event['member']} {_refusal(event)}"


def _say_attested(event: Event, board: Board) -> str:
    who, seen = event.get("member", "this aggregator"), brief(event)
    reason = f" ({event['reason']})" if event["reason"] else ""
    return f"{who} is {event['word']}{': ' if seen else ''}{seen}{reason}"


def _say_closed(event: Event, board: Board) -> str:
    number, rounds = event["round"], board.rounds
    parts = [f"round {number}/{rounds or '?'}"]
    if 0 < rounds < number:
        parts = ["final evaluation"]
    figures = {
        board.metric.split("/")[-1]: event["metrics"].get(board.metric),
        "loss": _loss(event["metrics"], board.metric),
    }
    parts += [f"{label} {_number(value)}" for label, value in figures.items() if value is not None]
    parts.append(f"{len(event['accepted'])} reported")
    parts += [f"{word} {', '.join(event[key])}" for key, word in _ABSENT if event[key]]
    parts += [f"{way} {size(event['bytes'][way])}" for way in ("up", "down")]
    return ", ".join([*parts, f"{event['seconds']:.2f} s"])


def _say_awaited(event: Event, board: Board) -> str:
    first, more = event["away"][:_NAMED], len(event["away"]) - _NAMED
    names = ", ".join(first) + (f" and {more} more" if more > 0 else "")
    needed = count(event["needed"], "member")
    return f"round {event['round']} opens with {needed}; not connected: {names}"


_ABSENT = (("missing", "late"), ("failed", "failed"))

_SENTENCES: dict[str, Callable[[Event, Board], str]] = {
    "listening": lambda event, board: f"listening on {event['address']}",
    "members_trouble": lambda event, board: f"warning: {event['message']}",
    "policy": lambda event, board: f"follows policy version {event['version']} from now on",
    "policy_trouble": lambda event, board: f"warning: {event['message']}",
    "session_ended": lambda event, board: (
        f"the session of {event['member']} is over: {event['code']}: {event['message']}"
    ),
    "trouble": lambda event, board: f"warning: {event['message']}",
    "recalling": lambda event, board: (
        f"the run was over before: for {event['seconds']:.0f} s, parties that have not heard are"
        " told"
    ),
    "run_started": _say_started,
    "checkpoint_damaged": lambda event, board: (
        f"{event['path']} is missing or damaged; the run goes on after round {event['round']}"
    ),
    "member_joined": lambda event, board: f"{event['member']} joined from {event['address']}",
    "member_attested": _say_attested,
    "attestation": _say_attested,
    "member_left": lambda event, board: f"{event['member']} left: {event['reason']}",
    "peer_refused": lambda event, board: f"{event['peer']} {_refusal(event)}",
    "members_awaited": _say_awaited,
    "update_refused": _say_refused_update,
    "round_closed": _say_closed,
    "run_finished": lambda event, board: (
        f"finished: {count(event['rounds'], 'round')} in {event['seconds']:.1f} s,"
        f"{_stood(event)} model {event['path']}"
    ),
    "run_stopped": lambda event, board: f"stopped in round {event['round']}: {event['message']}",
}


def _stood(event: Event) -> str:
    """How those stood who made a model, where anybody was asked."""
    return f" {event['word']}," if event.get("word") else ""


def _refusal(event: Event) -> str:
    return f"was refused: {event['code']}: {event['message']}"


def clean(text: str) -> str:
    r"""Text without control characters.

    >>> clean("a\x1b[2Jb")
    'a?[2Jb'
    """
    return "".join(c if c.isprintable() else "?" for c in text)


def size(count: float) -> str:
    """Bytes for people, in powers of ten.

    >>> size(19), size(19_500), size(104_000_000)
    ('19 B', '19.5 kB', '104.0 MB')
    """
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count:.0f} B"


def _loss(metrics: Mapping[str, float], metric: str) -> float | None:
    """The loss beside the plan's metric, or else any."""
    beside = metric.rpartition("/")[0] + "/loss"
    others = (name for name in sorted(metrics) if name.endswith("/loss"))
    return metrics.get(beside, metrics.get(next(others, ""), None))


def _local(metric: str) -> str:
    """The same metric of the model that a member has trained: ``.../local/...``."""
    return metric.replace("/global/", "/local/")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}" if abs(value) >= 10 else f"{value:.3f}"


def _clock(board: Board, now: datetime) -> str:
    if board.begun is None:
        return ""
    elapsed = max((board.ended or now) - board.begun, timedelta())
    minutes, seconds = divmod(int(elapsed.total_seconds()), 60)
    return f"{minutes}:{seconds:02d}"


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """End in order, as main decides; rich would exit there and then."""
        raise BrokenPipeError


def stdout_console() -> Console:
    """A console on stdout, which does not break where the encoding lacks a character."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    return _Console(file=sys.stdout)
