# SPDX-License-Identifier: Apache-2.0
"""Files of the trust room: written whole or not at all, and locked across processes."""

import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from fedclave import locks
from fedclave.errors import Unavailable, UserError
from fedclave.tensors import sync_folder

PRIVATE = 0o600
PUBLIC = 0o644
_ROOM = "Free space or change the folder's owner, then run again"


def write(path: Path, data: bytes, mode: int = PUBLIC) -> None:
    """Write a file atomically and durably, with its mode from the first byte on.

    Its folder is made private (0700): in this room it may hold keys.
    """
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
    with _writing(path):
        private_folder(path.parent)
        try:
            # O_EXCL: a file or link that somebody left under this name is not written into.
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
                os.fchmod(descriptor, mode)  # the umask may have taken bits away
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)


def append(path: Path, line: bytes) -> None:
    """Add a line to a file, durably. A line that a crash cut short stays apart from it."""
    with _writing(path), path.open("a+b") as file:
        if end := file.seek(0, os.SEEK_END):
            file.seek(end - 1)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(line + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read(path: Path, remedy: str) -> bytes:
    """A file's bytes; ``UserError`` with the remedy when it is not there or not readable."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}. {remedy}") from error


def private_folder(folder: Path) -> None:
    """Make a folder, or make it, accessible to its owner alone. ``Unavailable``: it cannot be."""
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if folder.stat().st_mode & 0o077:
            folder.chmod(0o700)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file; other processes and threads that lock it wait."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locks.held(path))
        except OSError as error:
            raise Unavailable(f"{path} cannot be locked ({error.strerror}). {_ROOM}") from error
        yield


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(f"{path} could not be written ({error.strerror}). {_ROOM}") from error
