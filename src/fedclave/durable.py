# SPDX-License-Identifier: Apache-2.0
"""Files that are there whole or not at all, whatever is killed, and how they are opened again."""

import hashlib
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import get_ident
from typing import IO, Protocol

_SPARE = ".spare"

Opens = Callable[[Path], io.RawIOBase]
"""Opens the content of a file, to be read from any place on."""


class Sink(Protocol):
    """Takes the bytes of a file that is being written."""

    def write(self, data: memoryview, /) -> object:
        """The next bytes, all of them."""

    def finish(self, name: str) -> object:
        """They were all; this is what the file will be called. It stands at its end then."""


class AsItIs:
    """A file's bytes are its content."""

    def __init__(self, file: IO[bytes]) -> None:
        self.write = file.write

    def finish(self, name: str) -> None:
        """Nothing is left to do."""


def as_it_is(path: Path) -> io.RawIOBase:
    """A file whose bytes are its content (``Opens``)."""
    return path.open("rb", buffering=0)


def write_file(
    folder: Path,
    name: Callable[[str], str],
    data: Iterator[memoryview],
    *,
    durable: bool,
    sink: Callable[[IO[bytes]], Sink] = AsItIs,
) -> str:
    """Write a file atomically; returns the SHA-256 (hex) of its content, of which its name is made.

    Temporary file, fsync, rename, fsync of the folder: after a crash there is the old file or the
    new one. ``OSError`` passes through, with the temporary file removed. Not ``durable``: whole
    after a crash of the process, perhaps not after one of the machine.
    """
    sha = hashlib.sha256()
    temporary = folder / f".{os.getpid()}.{get_ident()}.tmp"  # two threads may write at once
    try:
        with _over_spare(temporary) as file:
            taking = sink(file)
            for piece in data:
                sha.update(piece)
                taking.write(piece)
            named = name(sha.hexdigest())
            taking.finish(named)
            file.truncate()
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.rename(folder / named)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(folder)
    return sha.hexdigest()


def retire(path: Path) -> None:
    """Drop a file that is needed no more; its folder's next write may go over it.

    Memory that the page cache holds already is cheaper than new memory: much so on virtual
    machines that give back what they do not use (docs/explanation/performance.md).
    """
    spare = path.with_name(_SPARE)
    if spare.exists():
        path.unlink(missing_ok=True)
    else:
        path.rename(spare)


def sync_folder(folder: Path) -> None:
    """Make renames and new names in a folder durable (fsync(2) of the directory)."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _over_spare(temporary: Path) -> IO[bytes]:
    try:
        temporary.with_name(_SPARE).rename(temporary)
    except FileNotFoundError:
        return temporary.open("wb")
    return temporary.open("r+b")
