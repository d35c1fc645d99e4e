# SPDX-License-Identifier: Apache-2.0
"""``kill -9`` at every point of the journals and between folds: the same run comes of it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support.kill_trials import ROUNDS, TARGETS

from fedclave.engine import events, notebook, store

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module", params=["plain", "sealed"])
def trials(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("crashes")
    run = subprocess.run(
        [sys.executable, "-m", "tests.support.kill_trials", str(folder), request.param],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # a process with threads forks badly
        timeout=280,
    )
    assert run.returncode == 0, run.stderr
    return folder, json.loads(run.stdout)


def test_every_point_of_every_round_is_one_to_be_killed_at(
    trials: tuple[Path, dict[str, Any]],
) -> None:
    points = trials[1]["once"]
    assert all(trial["killed"] for trial in points.values())
    for round_ in range(1, ROUNDS + 2):  # the last is the closing evaluation
        assert {f"aggregator/{point}/{round_}" for point in store.POINTS} <= points.keys()
    for name in TARGETS:
        for round_ in range(1, ROUNDS + 1):
            assert {f"{name}/{point}/{round_}" for point in notebook.POINTS} <= points.keys()
    folds = {f"aggregator/{p}/{n}" for p in ("folding", "folded") for n in (1, 2, 3, 4)}
    assert folds <= points.keys()


def test_a_run_killed_once_anywhere_ends_as_if_it_had_not_been(
    trials: tuple[Path, dict[str, Any]],
) -> None:
    _, found = trials
    others = {p: t["same"] for p, t in found["once"].items() if t["same"] != found["undisturbed"]}
    assert others == {}


def test_a_run_killed_again_and_again_ends_as_if_it_had_not_been(
    trials: tuple[Path, dict[str, Any]],
) -> None:
    _, found = trials
    assert found["often"]["kills"] > 5
    assert found["often"]["same"] == found["undisturbed"]


def test_events_of_a_killed_run_are_read_to_the_end(
    trials: tuple[Path, dict[str, Any]],
) -> None:
    folder, found = trials
    for name in [*map(str, range(len(found["once"]))), "often"]:
        written = list(events.read(folder / name / "events.jsonl"))
        assert written[-1]["event"] == "run_finished"
        assert written[-1]["model"] == found["undisturbed"]["model"]
        closed = [event["round"] for event in written if event["event"] == "round_closed"]
        assert closed == sorted(set(closed)) == list(range(1, max(closed) + 1))
