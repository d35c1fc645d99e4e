# SPDX-License-Identifier: Apache-2.0
"""A model on its way into memory: each tensor is filled as its bytes come, then all are verified.

Nothing is believed that has not arrived: an array is made when its first byte is there, and memory
that is only promised stays untouched, so what is held grows with what was received.
"""

import hashlib
from collections.abc import Iterator

import numpy as np

from fedclave.errors import Code, Refused
from fedclave.tensors import DTYPES, MAX_HEADER, Array, Entry, parse_layout


class Incoming:
    """Content of ``size`` bytes, received in order; ``offset`` is the next byte that it takes."""

    def __init__(self, digest: str, size: int) -> None:
        self.digest = digest
        self.size = size
        self.offset = 0
        self._sha = hashlib.sha256()
        self._head = bytearray()
        self._begun = False  # whether the header is there
        self._coming: Iterator[Entry] = iter(())
        self._rest = memoryview(b"")  # of the tensor that is being filled
        self._tensors: dict[str, Array] = {}

    def write(self, chunk: bytes | memoryview) -> None:
        """Take the next bytes. Raises ``Refused``: TOO_LARGE past the size, MALFORMED."""
        view = memoryview(chunk)
        if self.offset + len(view) > self.size:
            raise Refused(Code.TOO_LARGE, f"more than the {self.size} bytes that were promised")
        self._sha.update(view)
        self.offset += len(view)
        if not self._begun:
            view = self._begin(view)
        while len(view):
            if not len(self._rest):
                self._next()
            taken = min(len(view), len(self._rest))
            self._rest[:taken] = view[:taken]
            self._rest, view = self._rest[taken:], view[taken:]

    def whole(self) -> dict[str, Array]:
        """The tensors. Raises ``Refused``: MALFORMED if bytes are missing, WRONG_DIGEST."""
        if self._sha.hexdigest() != self.digest:
            raise Refused(
                Code.WRONG_DIGEST, "the model does not have the SHA-256 that was promised"
            )
        if not self._begun or self.offset != self.size:
            raise Refused(Code.MALFORMED, f"{self.offset} of {self.size} bytes of the model")
        for entry in self._coming:  # what is left has no bytes
            self._make(entry)
        return self._tensors

    def _begin(self, view: memoryview) -> memoryview:
        """Collect the header; once it is there, return what follows it."""
        self._head += view
        length = int.from_bytes(self._head[:8], "little")
        if len(self._head) >= 8 and length > min(MAX_HEADER, self.size - 8):
            raise Refused(Code.MALFORMED, "the model's header is longer than the model")
        if len(self._head) < 8 + length or len(self._head) < 8:
            return memoryview(b"")
        self._coming = iter(parse_layout(memoryview(self._head), self.size).entries)
        self._begun = True
        head, self._head = self._head, bytearray()
        return memoryview(head)[8 + length :]

    def _next(self) -> None:
        """Go on with the next tensor that has bytes; the layout covers ``size``: there is one."""
        while not len(self._rest):
            self._rest = self._make(next(self._coming)).reshape(-1).view(np.uint8).data

    def _make(self, entry: Entry) -> Array:
        try:
            array = np.empty(entry.shape, DTYPES[entry.dtype])
        except MemoryError as error:
            raise Refused(
                Code.TOO_LARGE, f"tensor {entry.name!r} of the model does not fit into memory"
            ) from error
        self._tensors[entry.name] = array
        return array
