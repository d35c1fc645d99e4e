# SPDX-License-Identifier: Apache-2.0
"""Uploads on their way: received in order, checked whole, read back in blocks, dropped.

Small ones stay in memory, others go to a file, so the aggregator's memory does not grow with the
number of members or the size of the model. An upload that broke off goes on where it stood, also
after a restart. Its size and header are the aggregator's own (it knows the round's tensors);
nothing is sized from the sender's claim, and only ``commit`` makes a ``Body``.
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

    def discard(self) -> None:
        """Free the memory or the file."""
        if isinstance(self._content, Path):
            self._content.unlink(missing_ok=True)
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
            _write_whole(self._file, view, self._path)
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

    def flush(self) -> None:
        """Let the next connection see what came; a broken one leaves this upload to resume."""
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        """Let go of the file; what is there can be resumed."""
        if self._file is not None:
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
        """Open the file; what an earlier connection or process left is hashed and kept."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = self._path.open("ab+", buffering=0)
        file.seek(0)
        while piece := file.read(BLOCK):
            self._sha.update(piece)
            self.offset += len(piece)
        if self.offset > self.layout.size:
            file.truncate(0)
            self.offset, self._sha = 0, hashlib.sha256()
        return file


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
            for path in self._folder.glob("*.part"):
                path.unlink(missing_ok=True)

    def _forget(self, member: str, but: Path) -> None:
        """Drop what a process before this one left of the member's other uploads."""
        for path in self._folder.glob("*.part"):
            if path.stem.rpartition(".")[0] == member and path != but:
                path.unlink(missing_ok=True)


def _write_whole(file: IO[bytes], view: memoryview, path: Path) -> None:
    """Write all of it, or leave the file as it was: a nearly full disk takes a part."""
    start, at = file.seek(0, os.SEEK_END), 0
    try:
        while at < len(view):
            at += file.write(view[at:])
    except OSError as error:
        file.truncate(start)
        raise Unavailable(
            f"{path}: the upload could not be stored ({error.strerror}). Free space"
        ) from error
