# SPDX-License-Identifier: Apache-2.0
"""A command's loop has as many threads beside it as an enclave has room for."""

import asyncio
import os
import threading

import pytest

from fedclave.cli import signals


@pytest.mark.parametrize(("processors", "most"), [(2, 6), (64, signals.MOST_THREADS), (None, 5)])
def test_work_beside_the_loop_has_no_more_threads(
    processors: int | None, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: processors)
    running, peak, lock = 0, 0, threading.Lock()
    full = threading.Event()

    def work() -> None:
        nonlocal running, peak
        with lock:
            running += 1
            peak = max(peak, running)
            if running >= most:
                full.set()
        assert full.wait(20)
        with lock:
            running -= 1

    async def many() -> None:
        await asyncio.gather(*(asyncio.to_thread(work) for _ in range(3 * most)))

    signals.run(many())
    assert peak == most
