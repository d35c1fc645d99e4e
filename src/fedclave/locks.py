# SPDX-License-Identifier: Apache-2.0
"""Locked files: one holder at a time, among the threads of a process and among processes.

POSIX record locks (POSIX.1-2017, fcntl: F_SETLK), since Gramine has no ``flock``. They belong to
the process, which has two consequences. Two holders in one process would not notice each other, so
holders are counted here as well. And a lock ends when the process closes any descriptor of its
file, not only the one that took it: a file that is held here is not opened here once more.
"""

import errno
import fcntl
import io
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MODE = 0o600
_BUSY = (errno.EACCES, errno.EAGAIN)  # held by another process; systems differ in which they say
_AGAIN_S = 0.01

_changed = threading.Condition()
_held: set[str] = set()  # by real path; guarded by _changed


class Held(io.FileIO):
    """A locked file, until it is closed or the process ends."""

    _key: str | None = None

    def close(self) -> None:
        """End the lock. Once more does nothing."""
        try:
            super().close()
        finally:
            key, self._key = self._key, None
            if key is not None:
                _give_back(key)


def hold(path: Path) -> Held:
    """Lock a file, made if it is missing. ``BlockingIOError``: another holds it; ``OSError``."""
    key = _key_of(path)
    with _changed:
        if key in _held:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), str(path))
        _held.add(key)
    return _locked(path, key, wait=False)


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold a file's lock; other threads and processes that want it wait. ``OSError``."""
    key = _key_of(path)
    with _changed:
        _changed.wait_for(lambda: key not in _held)
        _held.add(key)
    with _locked(path, key, wait=True):
        yield


def _locked(path: Path, key: str, *, wait: bool) -> Held:
    try:
        file = Held(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE), "r+b")
    except BaseException:
        _give_back(key)
        raise
    file._key = key
    try:
        _lock(file, wait=wait)
    except BaseException:
        file.close()
        raise
    return file


def _lock(file: Held, *, wait: bool) -> None:
    while True:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            # The kernel counts processes, not threads: what is a circle of waiting to it is none
            # where another thread of one of them goes on (fcntl(2), EDEADLK).
            if wait and error.errno == errno.EDEADLK:
                time.sleep(_AGAIN_S)
                continue
            if not wait and error.errno in _BUSY:
                raise BlockingIOError(*error.args) from error
            raise
        return


def _give_back(key: str) -> None:
    with _changed:
        _held.discard(key)
        _changed.notify_all()


def _key_of(path: Path) -> str:
    return os.path.realpath(path)
