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
from collections.abc import Iterator
from copy import copy
from pathlib import Path
from typing import Self

import numpy as np

from fedclave.durable import Opens, as_it_is
from fedclave.engine.medium import PLAIN, Medium
from fedclave.engine.parts import BLOCK, SPARE, Part, retire_part
from fedclave.errors import Code, Refused, Unavailable
from fedclave.tensors import DTYPES, Array, Layout

SMALL = 4 * 2**20  # bytes kept in memory


class Body:
    """A complete, verified upload. ``blocks`` may be read several times, until ``discard``."""

    def __init__(self, layout: Layout, content: bytearray | Path, opens: Opens = as_it_is) -> None:
        self.layout = layout
        self._content = content
        self._opens = opens

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
            retire_part(self._content)
        self._content = bytearray()

    def _in_memory(self, view: memoryview) -> Iterator[tuple[str, int, Array]]:
        base = len(self.layout.header)
        for e in self.layout.entries:
            if e.count:
                yield e.name, 0, np.frombuffer(view[base + e.start : base + e.end], DTYPES[e.dtype])

    def _from_file(self, path: Path) -> Iterator[tuple[str, int, Array]]:
        buffer = bytearray(BLOCK)
        base = len(self.layout.header)
        with self._opens(path) as file:
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

    def __init__(
        self,
        digest: str,
        layout: Layout,
        path: Path,
        small: int = SMALL,
        medium: Medium = PLAIN,
    ) -> None:
        self.digest = digest
        self.layout = layout
        self.offset = 0
        self._sha = hashlib.sha256()
        self._memory: bytearray | None = bytearray() if layout.size <= small else None
        self._path = path
        self._medium = medium
        self._superseded = False
        self._part = None if self._memory is not None else medium.part(path)
        if self._part is not None:
            self.offset, self._sha = self._part.resume(layout.size, digest)

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
        elif self._part is not None:
            self._store(self._part, view)
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
        if self._part is not None:
            self._part.finish()
        self.close()
        content = self._memory if self._memory is not None else self._path
        if self._head(content) != self.layout.header:
            self.drop()
            raise Refused(Code.WRONG_TENSORS, "names, dtypes or shapes are not the model's")
        return Body(self.layout, content, self._medium.opens_part)

    def pause(self) -> None:
        """A connection has ended: the file's length says how much came, also after a restart."""
        if self._part is not None and not self._superseded:
            self._part.pause(self.offset)

    def close(self) -> None:
        """Let go of the file; what is there can be resumed."""
        if self._part is not None:
            self.pause()
            self._part.close()
            self._part = None

    def drop(self) -> None:
        """Forget the upload and its bytes."""
        self.close()
        self._path.unlink(missing_ok=True)

    def _head(self, content: bytearray | Path) -> bytes:
        length = len(self.layout.header)
        if isinstance(content, bytearray):
            return bytes(content[:length])
        with self._medium.opens_part(content) as file:
            return file.read(length) or b""

    def _store(self, part: Part, view: memoryview) -> None:
        """Write all of it at the offset, or nothing: then the upload goes on from ``offset``."""
        try:
            part.write(view, self.offset)
        except Unavailable:
            self.offset = part.recover(self.offset)
            if not self.offset:
                self._sha = hashlib.sha256()
            raise


class Spool:
    """The uploads of one aggregator: at most one a member at a time."""

    def __init__(self, folder: Path, small: int = SMALL, medium: Medium = PLAIN) -> None:
        self._folder = folder
        self._small = small
        self._medium = medium
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
            upload = Upload(digest, layout, path, self._small, self._medium)
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
            for path in (*self._folder.glob("*.part"), *self._folder.glob(SPARE)):
                path.unlink(missing_ok=True)

    def _forget(self, member: str, but: Path) -> None:
        """Drop what a process before this one left of the member's other uploads."""
        for path in self._folder.glob("*.part"):
            if path.stem.rpartition(".")[0] == member and path != but:
                path.unlink(missing_ok=True)
