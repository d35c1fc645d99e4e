# SPDX-License-Identifier: Apache-2.0
"""Curves become one PNG, the same each time, without a window; its labels do not overlap."""

import struct
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclave.cli import plot
from fedclave.errors import UserError

CURVES = plot.Curves(
    title="digits: 3 parties, 4 rounds",
    accuracy={0: 0.1, 1: 0.5, 2: 0.8, 4: 0.9},
    pooled=0.95,
    alone={"alice": 0.5, "bob": 0.51, "carol": 0.2},
    losses={"global model": {0: 2.3, 1: 1.0, 2: 0.5}, "in training": {1: 0.9, 2: 0.4}},
)


def shape(path: Path) -> tuple[int, int]:
    """Width and height of a PNG (its IHDR chunk, RFC 2083 4.1.1)."""
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n" and head[12:16] == b"IHDR"
    return struct.unpack(">II", head[16:])


def test_the_curves_are_a_png_large_enough_to_read(tmp_path: Path) -> None:
    plot.draw(tmp_path / "curves.png", CURVES)
    assert shape(tmp_path / "curves.png") == (1350, 990)


def test_equal_curves_give_equal_files(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        plot.draw(tmp_path / name, CURVES)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    "curves",
    [
        plot.Curves(title="", accuracy={}),
        plot.Curves(title="one point", accuracy={0: 1.0}, losses={"loss": {}}),
        plot.Curves(title="many", accuracy={0: 0.5}, alone={str(n): n / 32 for n in range(32)}),
    ],
)
def test_few_points_and_many_parties_are_drawn_too(tmp_path: Path, curves: plot.Curves) -> None:
    plot.draw(tmp_path / "curves.png", curves)
    assert shape(tmp_path / "curves.png") == (1350, 990)


def test_of_many_parties_the_best_and_the_last_are_named() -> None:
    shown = plot.shown({f"party-{n}": n / 10 for n in range(10)})
    assert shown == [("party-9 alone", 0.9), ("party-0 alone", 0.0)]


def test_a_global_metric_is_of_the_model_that_the_round_began_with() -> None:
    metrics = {"train/loss": 1.0, "validate/global/loss": 2.0}
    events = [
        {"event": "round_opened", "round": 1},
        {"event": "round_closed", "round": 1, "metrics": metrics},
    ]
    assert plot.series(events, "validate/global/loss") == {0: 2.0}
    assert plot.series(events, "train/loss") == {1: 1.0}


@given(st.lists(st.floats(0, 1), max_size=9).map(sorted))
def test_labels_keep_their_order_and_their_distance(positions: list[float]) -> None:
    placed = plot.spread(positions, 0.1, 1.0)
    assert all(b - a >= 0.1 - 1e-6 for a, b in pairwise(placed))
    assert all(at <= 1.0 for at in placed)


def test_without_matplotlib_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"pip install 'fedclave\[demo\]'"):
        plot.require()


def test_importing_the_module_does_not_import_matplotlib() -> None:
    code = "import sys, fedclave.cli.plot; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
