# SPDX-License-Identifier: Apache-2.0
"""A transparency log that this party keeps: entries are added, never changed (RFC 9162, section 2).

An entry is acknowledged (``append`` returns) once it is durable. Whatever kills the process, at any
byte, opening the log again finds every entry that was acknowledged, and cuts off a last one that
was not written to its end:

    1   The newest head must be by this log's key and of this origin.
    2   The tree's file is believed up to that head, if it leads to its root; from there on, or from
        the beginning if it does not, it is derived from the entries again.
    3   An entry that is not whole is cut off, with all that follows. But if the head covers it, or
        something of it stands in the tree's file, it had been durable once: then it is damage, and
        nobody goes on with this log.

A log that is set back as a whole, head and all, cannot know it: those know who saw its later heads.

Step 3 rests on the order of writing: entries, fsync, only then the tree. A head is signed at least
every ``STRIDE`` entries, so opening a log costs as much as that many, however long it is.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedclave import locks
from fedclave.errors import Bug, Refused, Unavailable
from fedclave.tensors import sync_folder
from fedclave.trust import checkpoint, files, heads, merkle
from fedclave.trust.checkpoint import Head
from fedclave.trust.heads import Peer, Shown
from fedclave.trust.log_files import (
    CHECKPOINT,
    END,
    ENTRIES,
    FRAME,
    LOCK,
    MAX_ENTRY,
    TREE,
    Frame,
    LogFiles,
    damaged,
    tree_bytes,
)

STRIDE = 4096  # entries
_BATCH = 2**20  # bytes that are gathered before they are written


class Log:
    """An open log. One process writes it at a time; its threads may share it. Close it."""

    def __init__(self, folder: Path, key: Ed25519PrivateKey, origin: str) -> None:
        """Open the log in a folder, or begin one. ``origin`` names it among all logs.

        Raises ``Unavailable`` if another process writes it, or the disk does not; ``Refused`` if
        its files are damaged (LOG_PROOF) or another log's (BAD_SIGNATURE).
        """
        self.folder, self.origin = folder, origin
        self._key = key
        self._turn = Lock()
        self._head = Head(origin=origin, size=0, root=merkle.EMPTY)
        self._note = b""
        self._failed = False
        with ExitStack() as opened, _blamed_on(folder):
            files.private_folder(folder)
            opened.callback(_locked(folder / LOCK).close)
            self._files = LogFiles.open(folder, write=True)
            opened.callback(self._files.close)
            sync_folder(folder)
            self._tree, self._end = self._recover()
            self._size = self._tree.size
            self._sign()
            self._opened = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if not self._failed:
                self.checkpoint()
        finally:
            self.close()

    @property
    def size(self) -> int:
        """How many entries there are."""
        return self._size

    def append(self, entry: bytes) -> int:
        """Add an entry, durably. Returns its index.

        Raises ``Unavailable`` if the disk does not take it; then the log has to be opened again.
        """
        return self.extend([entry])[0]

    def extend(self, entries: Iterable[bytes]) -> range:
        """Add entries, durably when this returns; one fsync for about ``_BATCH`` bytes of them."""
        with self._turn:
            self._require_open()
            first = self._size
            batch: list[Frame] = []
            written = self._end
            for entry in entries:
                if len(entry) > MAX_ENTRY:
                    raise Bug(f"an entry of {len(entry)} bytes; at most {MAX_ENTRY} are logged")
                end = (batch[-1].end if batch else self._end) + FRAME.size + len(entry)
                batch.append(Frame(entry, merkle.leaf_hash(entry), end))
                if end - written >= _BATCH:
                    self._write(batch)
                    batch, written = [], self._end
            if batch:
                self._write(batch)
            return range(first, self._size)

    def checkpoint(self) -> bytes:
        """The signed head (``checkpoint.verified``) over all entries, and durable as such."""
        with self._turn:
            return self._sign()

    def shown(self, seen: int) -> Shown:
        """The head over all entries, for whoever has seen one of ``seen`` entries (0: none).

        If that is more than there are, nothing proves anything: who asked has to judge.
        """
        note = self.checkpoint()
        size = checkpoint.parse(note).claimed.size
        growth = self.consistency(seen, size) if 0 < seen <= size else []
        peer = Peer(origin=self.origin, key=self._key.public_key())
        return Shown(head=heads.show(note, peer), growth=tuple(growth))

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """The proof that entry ``index`` is among the first ``size``."""
        self._check_size(size)
        return self._files.inclusion(index, size)

    def consistency(self, old: int, new: int) -> list[bytes]:
        """The proof that the first ``new`` entries begin with the first ``old``."""
        self._check_size(new)
        return self._files.consistency(old, new)

    def entries(self, start: int, stop: int) -> Iterator[bytes]:
        """The entries from ``start`` up to ``stop``, each read when it is asked for."""
        self._check_size(stop)
        return self._files.read(start, stop)

    def close(self) -> None:
        """Let others write the log. What was acknowledged is on disk already."""
        self._failed = True
        self._opened.close()

    def _write(self, batch: list[Frame]) -> None:
        self._require_open()
        self._failed = True  # what part of a failed write is durable, only opening it again tells
        frames = b"".join(FRAME.pack(len(one.entry), one.leaf) + one.entry for one in batch)
        with _blamed_on(self.folder):
            _write_at(self._files.entries, frames, self._end)
            os.fsync(self._files.entries)
            at = tree_bytes(self._tree.size)
            nodes = b"".join(_slot(one, self._tree) for one in batch)
            _write_at(self._files.tree, nodes, at)
        self._end, self._size = batch[-1].end, self._tree.size
        self._failed = False
        if self._size - self._head.size >= STRIDE:
            self._sign()

    def _sign(self) -> bytes:
        self._require_open()
        if self._note and self._head.size == self._tree.size:
            return self._note
        head = Head(origin=self.origin, size=self._tree.size, root=self._tree.root())
        with _blamed_on(self.folder):
            os.fsync(self._files.tree)
        note = checkpoint.sign(head, self._key)
        # Nobody sees a head before it is durable: a log that forgot one could sign another.
        files.write(self.folder / CHECKPOINT, note)
        self._head, self._note = head, note
        return note

    def _recover(self) -> tuple[merkle.Frontier, int]:
        """The tree over all whole entries, and where they end. The steps are those above."""
        self._remember()
        os.fsync(self._files.entries)  # a killed process may have left it to the system
        begun = self._files.begun()
        grown, end = self._believed()
        pending: list[bytes] = []
        at = waiting = tree_bytes(grown.size)
        for frame in self._files.frames(end):
            pending.append(_slot(frame, grown))
            end, waiting = frame.end, waiting + len(pending[-1])
            if grown.size == self._head.size and grown.root() != self._head.root:
                raise damaged(self.folder / ENTRIES, "these are not the entries that were signed")
            if waiting - at >= _BATCH:
                _write_at(self._files.tree, b"".join(pending), at)
                pending, at = [], waiting
        if grown.size < self._head.size:
            raise damaged(
                self.folder / ENTRIES,
                f"entry {grown.size}, at byte {end}, is missing or changed; the head that was"
                f" signed has {self._head.size}",
            )
        if grown.size < begun:
            raise damaged(
                self.folder,
                f"{ENTRIES} has {grown.size} whole entries, up to byte {end}, and {TREE} something"
                f" of {begun}: one of these two files is not as it was written",
            )
        _write_at(self._files.tree, b"".join(pending), at)
        os.ftruncate(self._files.entries, end)
        os.fsync(self._files.entries)
        return grown, end

    def _remember(self) -> None:
        """Step 1."""
        try:
            note = (self.folder / CHECKPOINT).read_bytes()
        except FileNotFoundError:
            return
        self._head = checkpoint.verified(note, self.origin, self._key.public_key())
        self._note = note

    def _believed(self) -> tuple[merkle.Frontier, int]:
        """Step 2: the tree up to the head, and where its entries end; empty if it is not that."""
        try:
            size, end = self._head.size, self._files.end(self._head.size)
            grown = merkle.Frontier(size, self._files.node)
            # No root covers where entries end: it holds if the last one is read whole up to there.
            last = self._files.frames(self._files.end(max(size - 1, 0)))
            if grown.root() == self._head.root and (not size or next(last).end == end):
                return grown, end
        except (Refused, StopIteration):  # a tree too short, or not of these entries
            pass
        return merkle.Frontier(), 0

    def _require_open(self) -> None:
        if self._failed:
            raise Unavailable(
                f"the log in {self.folder} is closed, or a write failed before. Start again"
            )

    def _check_size(self, size: int) -> None:
        if size > self._size:
            raise Bug(f"a log of {self._size} entries, asked about {size}")


def _slot(frame: Frame, tree: merkle.Frontier) -> bytes:
    """What stands in ``tree`` about an entry, which is thereby added to the tree."""
    return END.pack(frame.end) + b"".join(tree.add(frame.leaf))


def _write_at(descriptor: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(descriptor, view, at)
        view, at = view[done:], at + done


def _locked(path: Path) -> locks.Held:
    try:
        return locks.hold(path)
    except BlockingIOError as error:
        raise Unavailable(
            f"{path.parent}: another process writes this log. Wait for its end, or stop it"
        ) from error


@contextmanager
def _blamed_on(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(
            f"the log in {folder} could not be written ({error.strerror}). Free space or change the"
            f" folder's owner, then start again; {ENTRIES} and {TREE} there are put right by that"
        ) from error
