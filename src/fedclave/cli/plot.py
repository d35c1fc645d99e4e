# SPDX-License-Identifier: Apache-2.0
"""Curves of a run as a PNG. The one file that imports matplotlib, and only when it draws.

Drawn on a canvas of its own, without pyplot: no window, no state shared with the caller. Colours
are Okabe and Ito's, which people with any colour vision tell apart; line styles differ as well.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedclave.engine.events import Event
from fedclave.errors import UserError

_GLOBAL, _POOLED = "#0072B2", "#009E73"
_ALONE = ("#D55E00", "#E69F00", "#CC79A7", "#56B4E9", "#7F7F7F")
_DASHES: tuple[Any, ...] = ("--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)), (0, (3, 4)))
_INK, _FAINT = "#333333", "#DDDDDD"
_NAMED = len(_ALONE)


@dataclass(frozen=True, kw_only=True)
class Curves:
    """What to draw. Rounds are keys: 0 is the model before the first round."""

    title: str
    accuracy: Mapping[int, float]
    pooled: float | None = None
    alone: Mapping[str, float] = field(default_factory=dict)
    losses: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    accuracy_of: str = "accuracy"


def series(events: Iterable[Event], name: str) -> dict[int, float]:
    """A metric of ``round_closed`` events, by the round whose model it is about.

    A round measures ``TASK/global/...`` on the model that it began with: that of the round before.
    """
    back = 1 if "/global/" in name else 0
    return {
        event["round"] - back: event["metrics"][name]
        for event in events
        if event["event"] == "round_closed" and name in event["metrics"]
    }


def require() -> None:
    """Import matplotlib, which takes a second; ``UserError`` if it is not installed."""
    try:
        import matplotlib.backends.backend_agg
        import matplotlib.figure  # noqa: F401 - is it there at all
    except ModuleNotFoundError as error:
        raise UserError(
            "plots need matplotlib, which is not installed. Run: pip install 'fedclave[demo]'"
        ) from error


def draw(path: Path, curves: Curves) -> None:
    """Write the PNG: accuracy above, with the levels to compare it with; losses below."""
    require()
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(9, 6.6), dpi=150, layout="constrained")
        canvas: Any = FigureCanvasAgg(figure)
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        _draw_accuracy(upper, curves)
        _draw_losses(lower, curves.losses)
        figure.suptitle(curves.title, x=0.01, ha="left", fontsize=13, fontweight="bold")
        canvas.print_png(path)


_STYLE: Any = {  # Any: matplotlib types its keys as a Literal, where it is typed at all
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": "#999999",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _FAINT,
    "grid.linewidth": 0.8,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}


def _draw_accuracy(axes: Any, curves: Curves) -> None:
    rounds = sorted(curves.accuracy)
    values = [curves.accuracy[number] for number in rounds]
    axes.plot(rounds, values, color=_GLOBAL, marker="o", markersize=4, linewidth=2.4, zorder=3)
    levels = [("federation", values[-1], _GLOBAL)] if values else []
    if curves.pooled is not None:
        axes.axhline(curves.pooled, color=_POOLED, linestyle=(0, (8, 3)))
        levels.append(("pooled data", curves.pooled, _POOLED))
    for (label, value), colour, dash in zip(
        shown(curves.alone), _ALONE, _DASHES, strict=False
    ):  # there are as many colours as lines at most
        axes.axhline(value, color=colour, linestyle=dash)
        levels.append((label, value, colour))
    axes.set_ylabel(curves.accuracy_of)
    axes.set_ylim(0, 1.02)
    _label(axes, levels)


def _draw_losses(axes: Any, losses: Mapping[str, Mapping[int, float]]) -> None:
    levels = []
    for (label, points), colour in zip(
        losses.items(), (_GLOBAL, _ALONE[0], _ALONE[2]), strict=False
    ):
        rounds = sorted(points)
        values = [points[number] for number in rounds]
        axes.plot(rounds, values, color=colour, marker="o", markersize=3)
        if values:
            levels.append((label, values[-1], colour))
    axes.set_ylabel("loss")
    axes.set_xlabel("round")
    axes.set_ylim(bottom=0)
    axes.margins(x=0.01)
    axes.xaxis.get_major_locator().set_params(integer=True)
    _label(axes, levels)


def shown(alone: Mapping[str, float]) -> list[tuple[str, float]]:
    """The parties that get a line, the best first; of more than five, the best and the last.

    >>> shown({"alice": 0.5, "bob": 0.7})
    [('bob alone', 0.7), ('alice alone', 0.5)]
    """
    ranked = sorted(alone.items(), key=lambda item: -item[1])
    if len(ranked) > _NAMED:
        ranked = [ranked[0], ranked[-1]]
    return [(f"{name} alone", value) for name, value in ranked]


def _label(axes: Any, levels: Sequence[tuple[str, float, str]]) -> None:
    """Name each line at its right end, in its colour, moved apart where they would overlap."""
    bottom, top = axes.get_ylim()
    height_pt = axes.get_position().height * axes.figure.get_figheight() * 72
    gap = 13 / height_pt * (top - bottom)
    ordered = sorted(levels, key=lambda level: level[1])
    for (label, value, colour), at in zip(
        ordered, spread([value for _, value, _ in ordered], gap, top), strict=True
    ):
        axes.annotate(
            f"{label} {value:.3f}",
            xy=(1.0, at),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            annotation_clip=False,
        )


def spread(positions: Sequence[float], gap: float, top: float) -> list[float]:
    """Sorted positions, moved as little as it takes to lie ``gap`` apart and below ``top``.

    >>> spread([0.1, 0.9, 0.95, 1.0], 0.1, 1.0)
    [0.1, 0.8, 0.9, 1.0]
    """
    placed: list[float] = []
    for position in positions:
        placed.append(max(position, placed[-1] + gap) if placed else position)
    ceiling = top
    for index in reversed(range(len(placed))):
        placed[index] = round(min(placed[index], ceiling), 9)
        ceiling = placed[index] - gap
    return placed
