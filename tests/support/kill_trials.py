# SPDX-License-Identifier: Apache-2.0
"""A federation killed anywhere, and what comes of it.

``python -m tests.support.kill_trials DIR plain``, or ``sealed``.

Each trial is a process of its own (forked, so that the imports are paid once) that runs the whole
federation and sends itself SIGKILL at one point; a second process then goes on to the end.
"""

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.local import Chaser, Federation, plan, sealed

from fedclave.engine.medium import PLAIN, Medium

ROUNDS = 2
TARGETS = {"anna": 1.0, "bernd": 2.0}
MEDIA: dict[str, Callable[[Path], Medium]] = {"plain": lambda folder: PLAIN, "sealed": sealed}


class Points:
    """Counts the points that are passed; the one that is named, or the nth, kills the process."""

    def __init__(self, fatal: str | None, passes: int | None = None) -> None:
        self.passed: list[str] = []
        self._fatal = fatal
        self._left = passes
        self._seen: Counter[str] = Counter()

    def at(self, point: str) -> None:
        self._seen[point] += 1
        label = f"{point}/{self._seen[point]}"
        self.passed.append(label)
        if self._left is not None:
            self._left -= 1
        if label == self._fatal or self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def outcome(folder: Path, points: Points, medium: str) -> dict[str, Any]:
    """Run to the end; what is equal for all runs of this plan, and the points passed."""
    learners = {name: Chaser(target) for name, target in TARGETS.items()}
    agreed = plan(rounds=ROUNDS)
    fed = Federation(
        folder=folder,
        plan=agreed,
        learners=learners,
        at=points.at,
        small=0,
        medium=MEDIA[medium],
    )
    run = fed.run()
    if run.error is not None:
        raise run.error
    same = {
        "model": run.model,
        "records": [{k: v for k, v in r.items() if k != "bytes"} for r in run.records],
        "best": vars(run.best) if run.best else None,
        "uploads left": sorted(path.name for path in (folder / "spool").glob("*.part")),
    }
    return {"same": same, "points": points.passed}


def child(folder: Path, points: Points, medium: str) -> dict[str, Any] | None:
    """The outcome of a process; None if it was killed."""
    result = folder / "outcome.json"
    folder.mkdir(parents=True, exist_ok=True)
    pid = os.fork()
    if not pid:
        try:
            result.write_text(json.dumps(outcome(folder, points, medium)))
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status == -signal.SIGKILL:
        return None
    if status:
        raise SystemExit(f"a process in {folder} failed")
    read: dict[str, Any] = json.loads(result.read_text())
    return read


def main(folder: Path, medium: str) -> dict[str, Any]:
    """Kill once at each point; then one run at more and more points, again and again."""
    undisturbed = child(folder / "undisturbed", Points(None), medium)
    assert undisturbed is not None
    once: dict[str, Any] = {}
    for number, point in enumerate(sorted(undisturbed["points"])):
        killed = child(folder / str(number), Points(point), medium) is None
        resumed = child(folder / str(number), Points(None), medium)
        assert resumed is not None
        once[point] = {"killed": killed, "same": resumed["same"]}
    kills = 0
    while (last := child(folder / "often", Points(None, passes=kills + 1), medium)) is None:
        kills += 1
    return {
        "undisturbed": undisturbed["same"],
        "once": once,
        "often": {"kills": kills, "same": last["same"]},
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2])))
