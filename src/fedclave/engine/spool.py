# SPDX-License-Identifier: Apache-2.0
"""Uploads on their way: received in order, checked whole, read back in blocks, dropped.

Small ones stay in memory, others go to a file, so the aggregator's memory does not grow with the
number of members or the size of the model. An upload that broke off goes on where it stood, also
after a restart. Its size and header are the aggregator's own (it knows the round's tensors);
nothing is sized from the sender's claim, and only ``commit`` makes a ``Body``.

A file that is folded is kept for another upload to be written over, until the run ends: memory that
the page cache holds already is cheaper than new memory (docs/explanation/performance.md).
"""

import hashlib
import os
from collections.abc import Iterator
from copy import copy
from pathlib import Path
from typing import IO, Self

import numpy as np

from fedclave.errors import Code, Refused, Unavailable
from fedclave.tensors import DTYPES, Array, Layout

SMALL = 4 * 2**20  # bytes kept in memory
BLOCK = 2**18  # bytes read back at a time
SPARES = 16  # files kept to be written over
_SPARE = "*.spare"


class Body:
    """A complete, verified upload. ``blocks`` may be read several times, until ``discard``."""

    def __init__(self, layout: Layout, content: bytearray | Path) -> None:
        self.layout = layout
        self._content = content

    @property
    def size(self) -> int:
        """Bytes, header included."""
        return self.layout.size

    def blocks(self) -> Iterator[tuple[str, int, Array]]:
        """(tensor, first element, flat elements); each array is valid until the next one."""
        if isinstance(self._content, bytearray):
            yield from self._in_memory(memoryview(self._content))
        else:
            yield from self._from_file(self._content)

    def pieces(self) -> Iterator[memoryview]:
        """Its bytes; each piece is valid until the next one."""
        yield memoryview(self.layout.header)
        for _, _, block in self.blocks():
            yield block.view(np.uint8).data

    def discard(self) -> None:
        """Free the memory or the file."""
        if isinstance(self._content, Path):
            _retire(self._content)
        self._content = bytearray()

    def _in_memory(self, view: memoryview) -> Iterator[tuple[str, int, Array]]:
        base = len(self.layout.header)
        for e in self.layout.entries:
            if e.count:
                yield e.name, 0, np.frombuffer(view[base + e.start : base + e.end], DTYPES[e.dtype])

    def _from_file(self, path: Path) -> Iterator[tuple[str, int, Array]]:
        buffer = bytearray(BLOCK)
        base = len(self.layout.header)
        with path.open("rb", buffering=0) as file:
            for e in self.layout.entries:
                dtype = DTYPES[e.dtype]
                file.seek(base + e.start)
                for at in range(0, e.end - e.start, BLOCK):
                    view = memoryview(buffer)[: min(BLOCK, e.end - e.start - at)]
                    if file.readinto(view) != len(view):
                        raise Unavailable(
                            f"{path} became shorter while it was read. Check the disk"
                        )
                    yield e.name, at // dtype.itemsize, np.frombuffer(view, dtype)


class Upload:
    """One upload in progress; ``offset`` is the next byte that it takes."""

    def __init__(self, digest: str, layout: Layout, path: Path, small: int = SMALL) -> None:
        self.digest = digest
        self.layout = layout
        self.offset = 0
        self._sha = hashlib.sha256()
        self._memory: bytearray | None = bytearray() if layout.size <= small else None
        self._path = path
        self._superseded = False
        self._file = None if self._memory is not None else self._resume()

    def handed_on(self) -> Self:
        """Give a newer connection the upload; the older one can write no more."""
        newer = copy(self)
        self._superseded = True
        return newer

    def write(self, chunk: bytes | memoryview) -> None:
        """Take the next bytes. Raises ``Refused(TOO_LARGE)`` past the round's size."""
        if self._superseded:
            raise Unavailable("a newer connection goes on with this upload")
        view = memoryview(chunk)
        if self.offset + len(view) > self.layout.size:
            raise Refused(Code.TOO_LARGE, f"more than the {self.layout.size} bytes of this round")
        if self._memory is not None:
            self._memory += view
        elif self._file is not None:
            self._store(self._file, view)
        self._sha.update(view)
        self.offset += len(view)

    def commit(self) -> Body:
        """The whole upload, or ``Refused``: MALFORMED, WRONG_DIGEST, WRONG_TENSORS.

        An upload with the right length and wrong bytes is dropped, so that it can begin anew.
        """
        if self.offset != self.layout.size:
            self.close()
            raise Refused(Code.MALFORMED, f"{self.offset} of {self.layout.size} bytes at commit")
        if self._sha.hexdigest() != self.digest:
            self.drop()
            raise Refused(Code.WRONG_DIGEST, "the uploaded bytes do not have the promised SHA-256")
        self.close()
        content = self._memory if self._memory is not None else self._path
        if self._head(content) != self.layout.header:
            self.drop()
            raise Refused(Code.WRONG_TENSORS, "names, dtypes or shapes are not the model's")
        return Body(self.layout, content)

    def pause(self) -> None:
        """A connection has ended: the file's length says how much came, also after a restart."""
        if self._file is not None and not self._superseded:
            self._file.truncate(self.offset)

    def close(self) -> None:
        """Let go of the file; what is there can be resumed."""
        if self._file is not None:
            self.pause()
            self._file.close()
            self._file = None

    def drop(self) -> None:
        """Forget the upload and its bytes."""
        self.close()
        self._path.unlink(missing_ok=True)

    def _head(self, content: bytearray | Path) -> bytes:
        length = len(self.layout.header)
        if isinstance(content, bytearray):
            return bytes(content[:length])
        with content.open("rb") as file:
            return file.read(length)

    def _resume(self) -> IO[bytes]:
        """Open the file; what an earlier process left is hashed and kept.

        If it has the length of the whole and is not the whole, a spare file was being written over
        when that process was killed. How far is not known: the upload begins anew.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if not self._path.exists():
            mode = "r+b" if _take_spare(self._path) else "w+b"
            return self._path.open(mode, buffering=0)
        file = self._path.open("r+b", buffering=0)
        while self.offset <= self.layout.size and (piece := file.read(BLOCK)):
            self._sha.update(piece)
            self.offset += len(piece)
        if self.offset >= self.layout.size and self._sha.hexdigest() != self.digest:
            self.offset, self._sha = 0, hashlib.sha256()
        return file

    def _store(self, file: IO[bytes], view: memoryview) -> None:
        """Write all of it at the offset, or nothing: a nearly full disk takes a part."""
        at = 0
        try:
            while at < len(view):
                at += os.pwrite(file.fileno(), view[at:], self.offset + at)
        except OSError as error:
            file.truncate(self.offset)
            raise Unavailable(
                f"{self._path}: the upload could not be stored ({error.strerror}). Free space"
            ) from error


class Spool:
    """The uploads of one aggregator: at most one a member at a time."""

    def __init__(self, folder: Path, small: int = SMALL) -> None:
        self._folder = folder
        self._small = small
        self._uploads: dict[str, Upload] = {}

    def begin(self, member: str, digest: str, layout: Layout) -> Upload:
        """The member's upload of this content: the one that broke off, or a new one.

        ``member`` and ``digest`` name a file: both must have been checked against their patterns.
        """
        upload = self._uploads.get(member)
        if upload is None or upload.digest != digest or upload.layout != layout:
            if upload is not None:
                upload.drop()
            path = self._folder / f"{member}.{digest}.part"
            self._forget(member, but=path)
            upload = Upload(digest, layout, path, self._small)
        else:
            upload = upload.handed_on()
        self._uploads[member] = upload
        return upload

    def commit(self, member: str, upload: Upload) -> Body:
        """Finish the member's upload. Raises as ``Upload.commit``; dropped either way."""
        if self._uploads.get(member) is not upload:
            raise Unavailable("a newer connection goes on with this upload")
        del self._uploads[member]
        return upload.commit()

    def clear(self) -> None:
        """Drop whatever is left of a round."""
        for upload in self._uploads.values():
            upload.drop()
        self._uploads.clear()
        if self._folder.is_dir():
            for path in (*self._folder.glob("*.part"), *self._folder.glob(_SPARE)):
                path.unlink(missing_ok=True)

    def _forget(self, member: str, but: Path) -> None:
        """Drop what a process before this one left of the member's other uploads."""
        for path in self._folder.glob("*.part"):
            if path.stem.rpartition(".")[0] == member and path != but:
                path.unlink(missing_ok=True)


def _retire(path: Path) -> None:
    """Keep a file that is needed no more for a later upload, unless there are enough of them."""
    if sum(1 for _ in path.parent.glob(_SPARE)) < SPARES:
        path.rename(path.with_suffix(".spare"))
    else:
        path.unlink(missing_ok=True)


def _take_spare(path: Path) -> bool:
    for spare in path.parent.glob(_SPARE):
        spare.rename(path)
        return True
    return False
