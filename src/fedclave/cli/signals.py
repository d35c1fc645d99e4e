# SPDX-License-Identifier: Apache-2.0
"""Long commands end in order when they are asked to: SIGINT (Ctrl-C) and SIGTERM."""

import asyncio
import os
import signal
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

SIGNALS = (signal.SIGINT, signal.SIGTERM)

MOST_THREADS = 24
"""For work beside the loop. An enclave has room for so many threads and no more; by itself asyncio
would have up to 32 on a machine with many processors."""


class Stopped(BaseException):
    """The user, or the system, ended the command; ``advice`` says how to go on."""

    def __init__(self, number: int, advice: str = "") -> None:
        self.number = number
        self.advice = advice
        super().__init__(number)


def run(work: Coroutine[Any, Any, T], advice: str = "") -> T:
    """Run to the end; the first signal cancels ``work``, a second one ends the process at once.

    Raises ``Stopped`` once what was cancelled has cleaned up.
    """
    return asyncio.run(_watched(work, advice))


async def _watched(work: Coroutine[Any, Any, T], advice: str) -> T:
    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work)
    most = min(MOST_THREADS, (os.cpu_count() or 1) + 4)
    loop.set_default_executor(ThreadPoolExecutor(most, thread_name_prefix="asyncio"))
    received: list[int] = []

    def stop(number: int) -> None:
        received.append(number)
        for one in SIGNALS:
            loop.remove_signal_handler(one)
        task.cancel()

    for one in SIGNALS:
        loop.add_signal_handler(one, stop, one)
    try:
        return await task
    except asyncio.CancelledError:
        if received:
            raise Stopped(received[0], advice) from None
        raise
