# SPDX-License-Identifier: Apache-2.0
"""Gramine's ``/dev/attestation`` as calls of ``os``: what each does is from Gramine 1.9's source
(libos/src/fs/dev/attestation.c).

Report data is one buffer of the process: a write keeps at most 64 bytes of what it was given, pads
them with zeros, replaces what was there and says that it took everything. The quote is made when
its file is opened. Reads give less than was asked for.
"""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import PurePath

MAX_READ = 1000  # bytes


class FakeDevice:
    """``quote`` makes the quote over 64 bytes; ``meanwhile`` runs just before it is made."""

    def __init__(
        self,
        quote: Callable[[bytes], bytes],
        *,
        folder: str = "/dev/attestation",
        kind: bytes = b"dcap",
    ) -> None:
        self.meanwhile: Callable[[], None] = lambda: None
        self.writes: list[bytes] = []
        self.takes = 2**20  # bytes of one write
        self.aesm = True
        self.quoted: list[bytes] = []
        self._quote = quote
        self._folder = folder
        self._kind = kind
        self._report_data = bytes(64)
        self._files: dict[int, tuple[str, int, bytes]] = {}
        self._next = 1000
        self._lock = threading.Lock()

    @property
    def open_files(self) -> int:
        return len(self._files)

    def set(self, data: bytes) -> None:
        """What any code in the process may do."""
        self._report_data = data[:64].ljust(64, b"\0")

    def open(self, path: str, flags: int, /) -> int:
        name = PurePath(path).name
        if not path.startswith(f"{self._folder}/") or self._kind == b"":
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        content = {"attestation_type": self._kind, "user_report_data": self._report_data}
        if name == "quote" and self._kind == b"dcap":
            self.meanwhile()
            if not self.aesm:
                raise OSError(errno.EACCES, os.strerror(errno.EACCES), path)
            self.quoted.append(self._report_data)
            content["quote"] = self._quote(self._report_data)
        if name not in content:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        if flags & os.O_ACCMODE != os.O_RDONLY and name != "user_report_data":
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), path)
        with self._lock:
            self._next += 1
            self._files[self._next] = (name, 0, content[name])
            return self._next

    def write(self, descriptor: int, data: bytes, /) -> int:
        if self._files[descriptor][0] != "user_report_data":
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        taken = bytes(data)[: self.takes]
        self.writes.append(taken)
        self.set(taken)
        return len(taken)

    def read(self, descriptor: int, size: int, /) -> bytes:
        name, position, content = self._files[descriptor]
        part = content[position : position + min(size, MAX_READ)]
        self._files[descriptor] = (name, position + len(part), content)
        return part

    def close(self, descriptor: int, /) -> None:
        del self._files[descriptor]
