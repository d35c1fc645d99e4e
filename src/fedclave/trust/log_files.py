# SPDX-License-Identifier: Apache-2.0
"""A log's files, and how they are read: by its writer, by other processes, by an auditor.

    entries     for each entry: length (4 bytes), leaf hash (32), the entry; nothing else
    tree        for each entry: where it ends in ``entries`` (8 bytes), its leaf hash, and the nodes
                that it completes, lowest first (RFC 9162 2.1.1)
    checkpoint  the newest signed head
    lock        held by the one process that writes

Numbers are big-endian. An entry and its nodes never change once they are written, and the head is
replaced as a whole: so readers need no lock, and see the log as its newest head has it. A node lies
where arithmetic says, so a proof reads as many nodes as it has. ``tree`` follows from ``entries``.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedclave.errors import Bug, Code, Refused, UserError
from fedclave.trust import checkpoint, merkle
from fedclave.trust.checkpoint import Head

ENTRIES, TREE, CHECKPOINT, LOCK = "entries", "tree", "checkpoint", "lock"
MAX_ENTRY = 16 * 2**20  # bytes
FRAME = struct.Struct(">I32s")  # before each entry: its length and its leaf hash
END = struct.Struct(">Q")
_BUFFER = 2**18  # bytes
_FARTHEST = 2**62  # bytes into a file; what a false size leads beyond, no system can be asked for


class Frame(NamedTuple):
    """A whole entry, and where it ends in ``entries``."""

    entry: bytes
    leaf: bytes
    end: int


@dataclass(frozen=True, kw_only=True)
class LogFiles:
    """Both files of a log, open. Knows no head: callers say how many entries count."""

    folder: Path
    entries: int
    tree: int
    """File descriptors."""

    @classmethod
    def open(cls, folder: Path, *, write: bool = False) -> Self:
        """Open the files; to write, make what is missing, for its owner alone."""
        how = os.O_RDWR | os.O_CREAT if write else os.O_RDONLY
        entries = os.open(folder / ENTRIES, how, 0o600)
        try:
            return cls(folder=folder, entries=entries, tree=os.open(folder / TREE, how, 0o600))
        except BaseException:
            os.close(entries)
            raise

    def close(self) -> None:
        """Give the descriptors back."""
        os.close(self.entries)
        os.close(self.tree)

    def node(self, level: int, index: int) -> bytes:
        """The hash of a complete subtree (``merkle.Node``)."""
        last = ((index + 1) << level) - 1  # the leaf that completed it
        at = tree_bytes(last) + END.size + merkle.HASH * level
        return self._read(self.tree, at, merkle.HASH, TREE)

    def end(self, size: int) -> int:
        """Where so many entries end in ``entries``, in bytes."""
        if not size:
            return 0
        raw = self._read(self.tree, tree_bytes(size - 1), END.size, TREE)
        return int(END.unpack(raw)[0])

    def begun(self) -> int:
        """Of how many entries something stands in ``tree``."""
        length, low, high = os.fstat(self.tree).st_size, 0, 1
        while tree_bytes(high) < length:
            high *= 2
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if tree_bytes(middle) < length else (low, middle)
        return low

    def frames(self, at: int) -> Iterator[Frame]:
        """The whole entries from a place on; ends before the first that is not whole."""
        length = os.fstat(self.entries).st_size
        if at > length:
            return
        with (self.folder / ENTRIES).open("rb", _BUFFER) as file:
            file.seek(at)
            while (frame := _frame(file, length - at, at)) is not None:
                yield frame
                at = frame.end

    def read(self, start: int, stop: int) -> Iterator[bytes]:
        """These entries, each with the leaf hash that the tree has. ``Refused(LOG_PROOF)``."""
        frames = self.frames(self.end(start))
        for index in range(start, stop):
            frame = next(frames, None)
            if frame is None or frame.leaf != self.node(0, index):
                raise self._blame(index)
            yield frame.entry

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """The proof that an entry is among the first ``size``. No false one is given out."""
        path = merkle.inclusion(index, size, self.node)
        root = merkle.root_at(size, self.node)
        merkle.check_inclusion(self.node(0, index), index, path, size=size, root=root)
        return path

    def consistency(self, old: int, new: int) -> list[bytes]:
        """The proof that ``new`` entries begin with the first ``old``; likewise."""
        path = merkle.consistency(old, new, self.node)
        roots = [(size, merkle.root_at(size, self.node)) for size in (old, new)]
        merkle.check_consistency(roots[0], roots[1], path)
        return path

    def _blame(self, index: int) -> Refused:
        """Which of the two files is damaged, where they differ about an entry."""
        if next(islice(self.frames(0), index, None), None) is None:
            return damaged(self.folder / ENTRIES, f"entry {index} is not what was logged")
        return damaged(self.folder / TREE, f"it differs from the entries at entry {index}")

    def _read(self, descriptor: int, at: int, length: int, name: str) -> bytes:
        data = os.pread(descriptor, length, at) if at < _FARTHEST else b""
        if len(data) != length:
            raise damaged(self.folder / name, f"it ends before byte {at + length}")
        return data


class Reader:
    """A log as its newest signed head has it, whoever writes it meanwhile. Changes nothing.

    ``claimed`` is that head, not to be trusted before ``verify``.
    """

    def __init__(self, folder: Path) -> None:
        """Open a log's folder. Raises ``UserError`` if there is none in it."""
        self.folder = folder
        try:
            self.note = _head(folder)
            self.files = LogFiles.open(folder)
        except OSError as error:
            raise UserError(
                f"{folder} holds no log that can be read ({error.strerror}). Name a log's folder;"
                " the aggregator writes one while it runs"
            ) from error
        try:
            self.claimed = checkpoint.parse(self.note).claimed
        except BaseException:
            self.files.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.files.close()

    def entries(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Some of the entries in order, all by default; each is read when it is asked for."""
        stop = self.claimed.size if stop is None else stop
        if not 0 <= start <= stop <= self.claimed.size:
            raise Bug(f"no entries {start} to {stop} in a log of {self.claimed.size}")
        return self.files.read(start, stop)

    def verify(self, key: Ed25519PublicKey) -> Head:
        """The head, after every entry and every stored node was checked against its signature.

        Reads the whole log once; memory stays flat. Raises ``Refused``: MALFORMED, BAD_SIGNATURE,
        or LOG_PROOF with the first entry that is wrong.
        """
        head = checkpoint.verified(self.note, self.claimed.origin, key)
        grown, end, odd = merkle.Frontier(), 0, -1
        path = self.folder / TREE
        with path.open("rb", _BUFFER) as tree:
            for frame in self.files.frames(0):
                if grown.size == head.size:
                    break
                slot = END.pack(frame.end) + b"".join(grown.add(frame.leaf))
                if odd < 0 and tree.read(len(slot)) != slot:
                    odd = grown.size - 1  # of the two files, the head tells which is right
                end = frame.end
        if grown.size != head.size:
            raise damaged(
                self.folder / ENTRIES,
                f"entry {grown.size}, at byte {end}, is missing or changed; the head that was"
                f" signed has {head.size}",
            )
        if grown.root() != head.root:
            raise damaged(self.folder / ENTRIES, "these are not the entries whose head was signed")
        if odd >= 0:
            raise damaged(path, f"it differs from the entries at entry {odd}")
        return head


def tree_bytes(size: int) -> int:
    """How long ``tree`` is with so many entries: 2 * size - popcount(size) hashes, and the ends."""
    return merkle.HASH * (2 * size - size.bit_count()) + END.size * size


def damaged(path: Path, reason: str) -> Refused:
    """What is raised about files that are not as they were written."""
    remedy = "Restore the newest copy of its folder; peers refuse a log that lacks what they saw"
    if path.name == TREE:
        remedy = f"It follows from {ENTRIES}: move it away, and the log's writer makes it again"
    return Refused(Code.LOG_PROOF, f"{path} is damaged: {reason}. {remedy}")


def _head(folder: Path) -> bytes:
    with (folder / CHECKPOINT).open("rb") as file:
        return file.read(checkpoint.MAX_NOTE + 1)


def _frame(file: BinaryIO, left: int, at: int) -> Frame | None:
    head = file.read(FRAME.size)
    if len(head) < FRAME.size:
        return None
    length, leaf = FRAME.unpack(head)
    if length > min(MAX_ENTRY, left - FRAME.size):
        return None
    entry = file.read(length)
    if len(entry) != length or merkle.leaf_hash(entry) != leaf:
        return None
    return Frame(entry, leaf, at + FRAME.size + length)
