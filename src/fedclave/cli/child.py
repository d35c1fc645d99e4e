# SPDX-License-Identifier: Apache-2.0
"""`fx` commands as child processes that never outlive the process that started them.

A child's standard input is a pipe whose other end only its parent holds. However the parent ends,
`kill -9` included, that end is closed; the child sees the end of the file and exits at once. Ending
a party at any moment loses nothing (``engine.store``), so no more ceremony is needed.
"""

import asyncio
import sys
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

LAST_LINES = 6
GRACE_S = 5.0
MAX_LINE = 2**22  # bytes of one JSON line
LEASH = "fedclave.cli.leash"  # the child's side: runs `fx` and ends with its parent


class Child:
    """A running `fx` command. Its errors, and unless they are read its lines, go to ``log``."""

    def __init__(self, name: str, log: Path, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.log = log
        self._process = process

    @classmethod
    async def start(
        cls,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str],
        read: bool = False,
        python: Sequence[str] = (),
    ) -> "Child":
        """Run ``fx *command``; ``read`` keeps its standard output for ``lines``. ``python`` are
        further options of the interpreter.

        It gets a session of its own: Ctrl-C is for the parent to handle, once.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            process = await asyncio.create_subprocess_exec(
                # -P: no module of this folder
                *(sys.executable, *python, "-P", "-m", LEASH, *command),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE if read else file,
                stderr=file,
                env=dict(environment),
                start_new_session=True,
                limit=MAX_LINE,
            )
        return cls(name, log, process)

    async def lines(self) -> AsyncIterator[bytes]:
        """What it writes to standard output, line by line, until it closes it."""
        if self._process.stdout is None:
            return
        async for text in self._process.stdout:
            yield text

    async def wait(self) -> int:
        """Its exit status, once it has ended; by signal N, 128 + N as in a shell."""
        code = await self._process.wait()
        return code if code >= 0 else 128 - code

    async def stop(self) -> None:
        """End it: asked first, then made to."""
        if self._process.returncode is None:
            self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), GRACE_S)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()

    def last_lines(self) -> str:
        """The end of its log."""
        with self.log.open(encoding="utf-8", errors="replace") as file:
            return "".join(deque(file, LAST_LINES)).rstrip()
