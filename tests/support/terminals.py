# SPDX-License-Identifier: Apache-2.0
"""A page's marked blocks, run as its reader would: files written, commands typed into terminals.

    <!-- file: PATH -->                 the block that follows is written to PATH
    <!-- run: TERMINAL -->              ... is typed into that terminal, and has to succeed
    <!-- run: TERMINAL, until: TEXT --> ... is typed, and left alone once it has printed TEXT

A terminal keeps its folder and its variables from block to block. Its standard input is a terminal
at which somebody answers y to every question. TOKEN is the last join token that was printed.
"""

import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

BLOCK = re.compile(r"<!-- (file|run): ([^>]+?) -->\n+```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TOKEN = re.compile(r"fxj1\.[\w-]+")
WAIT_S = 90.0


@dataclass
class Running:
    """One block's shell: what it printed so far, and whether it has ended."""

    process: subprocess.Popen[str]
    keyboard: int
    printed: str = ""
    changed: threading.Condition = field(default_factory=threading.Condition)
    ended: bool = False

    def read(self) -> None:
        """Collect what is printed, until the end."""
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                with self.changed:
                    self.printed += line
                    self.changed.notify_all()
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def until(self, text: str) -> None:
        """Wait until it has printed a text."""
        with self.changed:
            seen = self.changed.wait_for(lambda: text in self.printed or self.ended, WAIT_S)
        assert seen and text in self.printed, f"no {text!r} in:\n{self.printed}"

    def end(self) -> None:
        """Wait for the end of what it prints."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.ended, WAIT_S), self.printed

    def succeed(self) -> None:
        """Wait for its end, which must be a good one."""
        self.end()
        assert self.process.wait(WAIT_S) == 0, self.printed


class Terminals:
    """The terminals of one reader in one folder."""

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        self.folder = folder
        venv = Path(sys.executable).parent
        path = f"{venv}{os.pathsep}{os.environ['PATH']}"
        self._environment = {**os.environ, "PATH": path, "PYTHONSAFEPATH": "", **variables}
        self._state = folder / ".terminals"
        self._state.mkdir()
        self._current: dict[str, Running] = {}
        self._all: list[Running] = []

    @property
    def printed(self) -> str:
        """Everything that was printed in any terminal."""
        return "".join(running.printed for running in self._all)

    def play(self, page: str) -> None:
        """Do what a page's marked blocks say, in order, and wait for all that is left running."""
        for kind, what, text in BLOCK.findall(page):
            if kind == "file":
                target = self.folder / what
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text, encoding="utf-8")
                continue
            terminal, _, until = what.partition(", until: ")
            self._type(terminal, text, until)
        for running in self._current.values():
            running.succeed()

    def close(self) -> None:
        """Leave no process behind."""
        for running in self._all:
            if running.process.poll() is None:
                os.killpg(running.process.pid, signal.SIGKILL)
            running.process.wait()
            running.end()
            os.close(running.keyboard)

    def _type(self, terminal: str, text: str, until: str) -> None:
        if terminal in self._current:
            self._current[terminal].succeed()
        tokens = TOKEN.findall(self.printed)
        text = re.sub(r"\bTOKEN\b", tokens[-1], text) if tokens else text
        running = self._start(terminal, text)
        self._current[terminal] = running
        if until:
            running.until(until)
        else:
            running.succeed()

    def _start(self, terminal: str, text: str) -> Running:
        state = shlex.quote(str(self._state / terminal))
        script = (
            f"set -e; [ ! -f {state} ] || . {state}\n{text}\n"
            f'{{ export -p; printf "cd %q\\n" "$PWD"; }} > {state}'
        )
        keyboard, stdin = pty.openpty()
        os.write(keyboard, b"y\n" * 8)
        process = subprocess.Popen(
            ["bash", "-c", script],
            cwd=self.folder,
            env=self._environment,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        os.close(stdin)
        running = Running(process, keyboard)
        self._all.append(running)
        threading.Thread(target=running.read, daemon=True).start()
        return running


@contextmanager
def terminals(folder: Path, **variables: str) -> Iterator[Terminals]:
    """Terminals that are closed with the block."""
    opened = Terminals(folder, variables)
    try:
        yield opened
    finally:
        opened.close()
