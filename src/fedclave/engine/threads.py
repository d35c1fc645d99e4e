# SPDX-License-Identifier: Apache-2.0
"""Long work of user code, in a thread that does not keep a stopped process alive.

``asyncio.to_thread`` joins its threads at exit: Ctrl-C would wait for an epoch to end.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def run(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> "asyncio.Future[T]":
    """Run a function in a daemon thread; its result or exception arrives in the future."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    future.add_done_callback(lambda f: f.cancelled() or f.exception())  # nobody may wait for it

    def settle(setter: Callable[[], None]) -> None:
        if not future.done():
            setter()

    def work() -> None:
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            setter = _raising(future, error)
        else:
            setter = _returning(future, result)
        with suppress(RuntimeError):  # the loop has closed: nobody waits any more
            loop.call_soon_threadsafe(settle, setter)

    threading.Thread(target=work, name="learner", daemon=True).start()
    return future


def _raising(future: "asyncio.Future[T]", error: BaseException) -> Callable[[], None]:
    return lambda: future.set_exception(error)


def _returning(future: "asyncio.Future[T]", result: T) -> Callable[[], None]:
    return lambda: future.set_result(result)
