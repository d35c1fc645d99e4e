# SPDX-License-Identifier: Apache-2.0
"""The file of an upload on its way: as it is, or sealed (``engine.medium``).

A plain one is continued where it stood, also by another process. A sealed one is not: chunks that
are sealed once more under the same key and number would give the key's secret away, so after a
restart, or a write that failed, an upload begins anew under another key.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from fedclave.errors import Unavailable
from fedclave.trust.vault import Vault

if TYPE_CHECKING:
    from hashlib import _Hash

BLOCK = 2**18  # bytes read back at a time
SPARES = 16  # files kept to be written over
SPARE = "*.spare"


class Part(Protocol):
    """An upload's file, open for writing."""

    def resume(self, size: int, digest: str) -> "tuple[int, _Hash]":
        """How much of an upload of this size and SHA-256 is there, and the hash of that."""

    def write(self, view: memoryview, at: int) -> None:
        """Write all of it there, or raise ``Unavailable``."""

    def recover(self, at: int) -> int:
        """After a write that failed at a place: where the upload goes on, there or at 0."""

    def pause(self, at: int) -> None:
        """So much of it is there."""

    def finish(self) -> None:
        """All of it is there; it can be read once the file is closed."""

    def close(self) -> None:
        """Let go of the file."""


class PlainPart:
    """Its length says how much came."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._new = not path.exists()
        mode = "r+b" if not self._new or take_spare(path) else "w+b"
        self._file = path.open(mode, buffering=0)

    def resume(self, size: int, digest: str) -> "tuple[int, _Hash]":
        """What an earlier process left is hashed and kept.

        If it has the length of the whole and is not the whole, a spare file was being written over
        when that process was killed. How far is not known: the upload begins anew.
        """
        offset, sha = 0, hashlib.sha256()
        for piece in () if self._new else self._left():
            if offset > size:
                break
            sha.update(piece)
            offset += len(piece)
        if offset >= size and sha.hexdigest() != digest:
            return 0, hashlib.sha256()
        return offset, sha

    def write(self, view: memoryview, at: int) -> None:
        """A nearly full disk takes a part, which is cut off again."""
        done = 0
        try:
            while done < len(view):
                done += os.pwrite(self._file.fileno(), view[done:], at + done)
        except OSError as error:
            raise unstored(self._path, error) from error

    def recover(self, at: int) -> int:
        """There: what the disk took of it is cut off."""
        self._file.truncate(at)
        return at

    def pause(self, at: int) -> None:
        """The file's length says so, also after a restart."""
        self._file.truncate(at)

    def finish(self) -> None:
        """Nothing is left to do."""

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _left(self) -> Iterator[bytes]:
        while piece := self._file.read(BLOCK):
            yield piece


class SealedPart:
    """Chunks under a key that only this process has until the last one is written."""

    def __init__(self, path: Path, vault: Vault, purpose: str) -> None:
        self._path = path
        self._vault, self._purpose = vault, purpose
        path.parent.mkdir(parents=True, exist_ok=True)
        take_spare(path)
        self._file = path.open("r+b" if path.exists() else "w+b", buffering=0)
        self._writer = vault.writer(self._file, purpose=purpose)

    def resume(self, size: int, digest: str) -> "tuple[int, _Hash]":
        """Nothing."""
        return 0, hashlib.sha256()

    def write(self, view: memoryview, at: int) -> None:
        """Each byte comes once, in order."""
        try:
            self._writer.write(view)
        except OSError as error:
            raise unstored(self._path, error) from error

    def recover(self, at: int) -> int:
        """At 0, under another key."""
        self._file.truncate(0)
        self._file.seek(0)
        self._writer = self._vault.writer(self._file, purpose=self._purpose)
        return 0

    def pause(self, at: int) -> None:
        """How much there is, this process knows."""

    def finish(self) -> None:
        """Write the last chunk and the header."""
        try:
            self._writer.finish(self._path.name)
            self._file.truncate()
        except OSError as error:
            raise unstored(self._path, error) from error

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def unstored(path: Path, error: OSError) -> Unavailable:
    """An upload that the disk did not take."""
    return Unavailable(f"{path}: the upload could not be stored ({error.strerror}). Free space")


def retire_part(path: Path) -> None:
    """Keep a file that is needed no more for a later upload, unless there are enough of them."""
    if sum(1 for _ in path.parent.glob(SPARE)) < SPARES:
        path.rename(path.with_suffix(".spare"))
    else:
        path.unlink(missing_ok=True)


def take_spare(path: Path) -> bool:
    """Give a file that is needed no more this name; whether there was one."""
    for spare in path.parent.glob(SPARE):
        spare.rename(path)
        return True
    return False
