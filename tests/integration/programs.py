# SPDX-License-Identifier: Apache-2.0
"""Roles that run, as processes or in containers, and a run of all of them to its end."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from tests.integration.shell import output
from tests.integration.town import ALL

LIMIT_S = 600


class Program(Protocol):
    """A role that was started."""

    def ended(self) -> int | None:
        """Its exit code; None while it runs."""

    def said(self) -> str:
        """What it printed."""

    def stop(self) -> None:
        """End it, and leave nothing of it."""


class Process:
    """One of this machine; it may be a container's, in the foreground."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self._log = log
        with log.open("w") as file:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )

    def ended(self) -> int | None:
        """See ``Program``."""
        return self._process.poll()

    def said(self) -> str:
        """See ``Program``."""
        return self._log.read_text(errors="replace")

    def stop(self) -> None:
        """See ``Program``."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Container:
    """One of docker's or podman's, in the background."""

    def __init__(self, tool: str, name: str, line: str) -> None:
        self._tool, self._name = tool, name
        try:
            output("sh", "-c", line)
        except BaseException:
            self.stop()
            raise

    def ended(self) -> int | None:
        """See ``Program``."""
        form = "{{.State.Status}} {{.State.ExitCode}}"
        status, code = output(self._tool, "inspect", "--format", form, self._name).split()
        return int(code) if status == "exited" else None

    def said(self) -> str:
        """See ``Program``."""
        logs = [self._tool, "logs", self._name]
        done = subprocess.run(logs, capture_output=True, text=True, check=False, errors="replace")
        return done.stdout + done.stderr

    def stop(self) -> None:
        """See ``Program``."""
        remove = [self._tool, "rm", "--force", self._name]
        subprocess.run(remove, capture_output=True, check=False)


Start = Callable[[str], Program]
"""Starts a role by its name."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run that was finished."""

    digest: str  # of the final model
    seconds: float  # from the first round's opening to the end
    start: float  # until the aggregator was ready for its members


def run(start: Start, events: Path, errands: Callable[[], None] = lambda: None) -> Run:
    """Start all roles, and wait until all have ended well; ``events`` is the aggregator's file.

    ``errands`` is called all the while: what a host does for its party. ``SystemExit``: a role
    failed, with what it said.
    """
    begun = time.time()
    with ExitStack() as stack:
        running: dict[str, Program] = {}
        for name in ALL:
            running[name] = start(name)
            stack.callback(running[name].stop)
        while any(program.ended() is None for program in running.values()):
            errands()
            time.sleep(0.2)
            failed = [name for name in ALL if running[name].ended() not in (None, 0)]
            late = time.time() - begun > LIMIT_S
            if failed or late:
                told = "".join(f"--- {name}\n{running[name].said()}" for name in failed or ALL)
                why = f"{', '.join(failed)} failed" if failed else f"not over after {LIMIT_S} s"
                raise SystemExit(f"{why}:\n{told}")
    times: dict[str, float] = {}
    digest = ""
    for event in _events(events):
        times.setdefault(event["event"], datetime.fromisoformat(event["time"]).timestamp())
        if event["event"] == "run_finished":
            digest = event["model"]
    if not digest:
        raise SystemExit(f"the run did not finish: {events}")
    seconds = times["run_finished"] - times["round_opened"]
    return Run(digest=digest, seconds=seconds, start=min(times.values()) - begun)


def _events(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text().splitlines():
        yield json.loads(line)
