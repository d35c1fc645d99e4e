# SPDX-License-Identifier: Apache-2.0
"""Looking again while a run lasts: what was good at the start may not be any more.

A policy, collateral or a revocation list that comes into the workspace counts from the next look
on. Both sides look: the aggregator at its members (``attesting``), each member at the aggregator
(``connecting``). What changed is told by content: in an enclave no file has a time (``st_mtime`` is
0), and what else the host says of a file is not to be relied on.
"""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic

from fedclave.workspace.layout import Workspace

LOOK_S = 1.0
"""Between two looks at whether one of the files changed."""

RECONSIDER_S = 30.0
"""After so long everything is looked at again, changed or not: time passes too."""

_MOST = 2**22  # bytes of a file that are looked at; none that counts has as many

_Contents = frozenset[tuple[str, bytes]]
"""SHA-256 of each file, by its path."""


async def looks(workspace: Workspace) -> AsyncIterator[bool]:
    """Every ``LOOK_S``: whether there is reason to consider again whom we trust. At first there is:
    something may have changed since the start.
    """
    known: _Contents | None = None
    considered = monotonic()
    while True:
        await asyncio.sleep(min(LOOK_S, RECONSIDER_S))
        found = await asyncio.to_thread(_contents, workspace)
        due = found != known or monotonic() - considered >= RECONSIDER_S
        if due:
            known, considered = found, monotonic()
        yield due


@asynccontextmanager
async def beside(work: Awaitable[None]) -> AsyncIterator[None]:
    """Do some work for as long as the block lasts; where the work fails, so does the block."""
    block, task = asyncio.current_task(), asyncio.ensure_future(work)

    def ended(task: "asyncio.Future[None]") -> None:
        if block is not None and not task.cancelled() and task.exception():
            block.cancel()

    task.add_done_callback(ended)
    try:
        yield
    except asyncio.CancelledError:
        if block is None or not task.done() or task.cancelled() or task.exception() is None:
            raise
        block.uncancel()
        task.result()
    finally:
        task.remove_done_callback(ended)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def first_failure(*works: Awaitable[None]) -> None:
    """Do several things at once, until one of them ends; the others are then given up."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _contents(workspace: Workspace) -> _Contents:
    return frozenset(_each(workspace))


def _each(workspace: Workspace) -> Iterator[tuple[str, bytes]]:
    collateral = workspace.cert / "collateral"
    try:
        # Not its lock: to close that anywhere here is to let go of it everywhere here (``locks``).
        kept = [Path(one.path) for one in os.scandir(collateral) if not one.name.startswith(".")]
    except OSError:
        kept = []
    own = (workspace.attestation, workspace.attestation_signatures, workspace.cert / "crl.pem")
    for path in (*own, *kept):
        try:
            if not path.is_file():  # a pipe would hold us up
                continue
            with path.open("rb") as file:
                content = file.read(_MOST)
        except OSError:
            continue
        yield str(path), hashlib.sha256(content).digest()
