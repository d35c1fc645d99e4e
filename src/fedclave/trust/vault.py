# SPDX-License-Identifier: Apache-2.0
"""A party's own files, sealed to itself: on a disk whose owner may read, change and exchange them.

    "FEDVLT01" | salt, 32 bytes | size of what is in it, 8 bytes | HMAC, 32 bytes | chunks of 1 MiB,
                                                                            each with its tag, 16

Each file has keys of its own, by HKDF-SHA256 (RFC 5869) from the vault's key, the file's random
salt and the purpose: one for the chunks, one for the header, and STREAM's nonce prefix. Chunks are
sealed by STREAM (Hoang, Reyhanitabar, Rogaway, Vizar, "Online Authenticated-Encryption and its
Nonce-Reuse Misuse-Resistance", CRYPTO 2015, section 7) over AES-256-GCM: the nonce is the prefix,
the chunk's number and whether it is the last; the chunk is bound to the header's first 40 bytes.

The HMAC-SHA256 is over the header and the file's logical name. It is written last, as a file may be
named by the digest of what is in it, and it is verified before anything else: with the size it says
how long the file is. So no byte can be changed, left out, repeated, moved or added, and no file can
stand in for another, or for one of another purpose or vault. That an old file is put back under its
own name is not seen here.
"""

import hmac
import io
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedclave.errors import Bug, Code, Refused, UserError
from fedclave.trust import files, keys

MAGIC = b"FEDVLT01"
KEY = 32  # bytes
CHUNK = 2**20  # bytes of what is sealed; all chunks but the last have exactly that many
TAG = 16
HEADER = 80

_SALT, _SIZE, _PREFIX = 32, 8, 7
_BOUND = len(MAGIC) + _SALT
_MOST_CHUNKS = 2**32


@dataclass(frozen=True, kw_only=True)
class _Keys:
    """Of one file."""

    chunks: AESGCM
    header: bytes
    prefix: bytes


class Vault:
    """A vault's key; all files of a party that it seals to itself are under it."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY:
            raise UserError(f"a vault's key has {KEY} bytes, this one {len(key)}")
        self._key = key

    @classmethod
    def open(cls, path: Path) -> "Vault":
        """The vault of a key's file, which is made (0600) if it is not there."""
        if not path.exists():
            files.write(path, secrets.token_bytes(KEY), files.PRIVATE)
        return cls.existing(path)

    @classmethod
    def existing(cls, path: Path) -> "Vault":
        """The same, where something was sealed before. ``UserError``: the key is not there."""
        key = files.read(path, "Restore it from a copy: what it sealed opens with no other key")
        keys.check_private(path)
        if len(key) != KEY:
            raise UserError(f"{path} has {len(key)} bytes, not {KEY}. Restore it from a copy")
        return cls(key)

    def writer(self, file: IO[bytes], *, purpose: str) -> "Writer":
        """Seals into a file that is open at its first byte, until ``finish``."""
        return Writer(file, self, purpose)

    def reader(self, path: Path, *, purpose: str, name: str) -> "Reader":
        """What is in a sealed file. ``OSError`` as of a plain one; ``Refused``: CANNOT_OPEN."""
        return Reader(path, self, purpose, name)

    def seal(self, data: bytes, *, purpose: str, name: str) -> bytes:
        """A whole sealed file in memory."""
        out = io.BytesIO()
        writer = self.writer(out, purpose=purpose)
        writer.write(memoryview(data))
        writer.finish(name)
        return out.getvalue()

    def mac(self, data: bytes, *, purpose: str) -> bytes:
        """HMAC-SHA256 under a key of the vault that is for this purpose only."""
        derived = HKDF(SHA256(), KEY, None, b"fedclave vault mac 1 " + purpose.encode())
        return hmac.digest(derived.derive(self._key), data, "sha256")

    def _of(self, salt: bytes, purpose: str) -> _Keys:
        info = b"fedclave vault 1 " + purpose.encode()
        derived = HKDF(SHA256(), 2 * KEY + _PREFIX, salt, info).derive(self._key)
        return _Keys(
            chunks=AESGCM(derived[:KEY]),
            header=derived[KEY : 2 * KEY],
            prefix=derived[2 * KEY :],
        )


class Writer:
    """A file that is being sealed; nothing can read it before ``finish``."""

    def __init__(self, file: IO[bytes], vault: Vault, purpose: str) -> None:
        self._file = file
        salt = secrets.token_bytes(_SALT)
        self._keys = vault._of(salt, purpose)
        self._bound = MAGIC + salt
        self._rest = memoryview(bytearray(CHUNK))  # what is not sealed yet: one buffer for all
        self._filled = 0
        self._number = 0
        self._put(self._bound + bytes(HEADER - _BOUND))

    def write(self, data: memoryview) -> None:
        """Seal the next bytes. A chunk is written once another byte follows it."""
        while data:
            if self._filled == CHUNK:
                self._seal(last=False)
            taken = data[: CHUNK - self._filled]
            self._rest[self._filled : self._filled + len(taken)] = taken
            self._filled += len(taken)
            data = data[len(taken) :]

    def finish(self, name: str) -> None:
        """Seal the last chunk and say what the file is, which stands at its end then."""
        size = self._number * CHUNK + self._filled
        self._seal(last=True)
        told = size.to_bytes(_SIZE, "big")
        self._file.seek(_BOUND)
        self._put(told + _header_tag(self._keys, self._bound + told, name))
        self._file.seek(_length(size))

    def _seal(self, *, last: bool) -> None:
        if self._number >= _MOST_CHUNKS:
            raise Bug("a sealed file of more than 2**32 chunks")
        nonce = _nonce(self._keys, self._number, last=last)
        self._number += 1  # first: what failed to be written is not sealed again by this key
        chunk, self._filled = self._rest[: self._filled], 0
        self._put(self._keys.chunks.encrypt(nonce, chunk, self._bound))

    def _put(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]  # a file without a buffer may take a part


class Reader(io.RawIOBase):
    """What is in a sealed file, from any place on; one chunk is in memory at a time."""

    def __init__(self, path: Path, vault: Vault, purpose: str, name: str) -> None:
        super().__init__()
        self._path = path
        self._at = 0
        self._number, self._chunk = -1, b""
        self._sealed = bytearray(CHUNK + TAG)
        self._file = path.open("rb", buffering=0)
        try:
            head = bytes(self._sealed[: _fill(self._file, memoryview(self._sealed)[:HEADER])])
            told, self._bound = head[:-KEY], head[:_BOUND]
            self.size = int.from_bytes(head[_BOUND : _BOUND + _SIZE], "big")
            if len(head) != HEADER or not head.startswith(MAGIC):
                raise self._refused("it is no sealed file")
            self._keys = vault._of(self._bound[len(MAGIC) :], purpose)
            if not hmac.compare_digest(head[-KEY:], _header_tag(self._keys, told, name)):
                raise self._refused("it is of another vault, name or purpose, or its header is not")
            if os.fstat(self._file.fileno()).st_size != _length(self.size):
                raise self._refused("it was cut off, or something was added")
            if not self.size:
                self._open(0)  # of which nobody will read a byte
        except BaseException:
            self._file.close()
            raise

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place in what was sealed."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        self._at = max(base + offset, 0)
        return self._at

    def tell(self) -> int:
        """The place where it stands."""
        return self._at

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]
        """Fill a buffer, unless the end comes first; whole chunks are not copied twice."""
        view = memoryview(buffer).cast("B")
        filled = 0
        while filled < len(view) and self._at < self.size:
            number, within = divmod(self._at, CHUNK)
            if number != self._number:
                self._chunk, self._number = self._open(number), number
            piece = memoryview(self._chunk)[within : within + len(view) - filled]
            view[filled : filled + len(piece)] = piece
            filled += len(piece)
            self._at += len(piece)
        return filled

    def close(self) -> None:
        """Let go of the file and of what is in memory."""
        self._chunk = b""
        if not self.closed:
            self._file.close()
        super().close()

    def _open(self, number: int) -> bytes:
        last = number == _chunks(self.size) - 1
        length = self.size - number * CHUNK if last else CHUNK
        self._file.seek(HEADER + number * (CHUNK + TAG))
        chunk = memoryview(self._sealed)[: length + TAG]
        chunk = chunk[: _fill(self._file, chunk)]
        try:
            return self._keys.chunks.decrypt(
                _nonce(self._keys, number, last=last), chunk, self._bound
            )
        except InvalidTag as error:
            raise self._refused(f"its part {number + 1} of 1 MiB is not") from error

    def _refused(self, reason: str) -> Refused:
        return Refused(
            Code.CANNOT_OPEN,
            f"{self._path} is not as this party sealed it: {reason}. Restore its folder, and"
            " cert/vault.key, from the newest copy",
        )


def pieces(reader: io.RawIOBase) -> Iterator[memoryview]:
    """What is in a file from where it stands; each piece is valid until the next one."""
    buffer = bytearray(CHUNK)
    while got := reader.readinto(buffer):
        yield memoryview(buffer)[:got]


def _header_tag(of: _Keys, told: bytes, name: str) -> bytes:
    return hmac.digest(of.header, told + name.encode("utf-8", "surrogateescape"), "sha256")


def _nonce(of: _Keys, number: int, *, last: bool) -> bytes:
    return of.prefix + number.to_bytes(4, "big") + bytes([last])


def _chunks(size: int) -> int:
    return max(-(-size // CHUNK), 1)


def _length(size: int) -> int:
    return HEADER + size + _chunks(size) * TAG


def _fill(file: io.RawIOBase, view: memoryview) -> int:
    """Read until a buffer is full, or the file ends; how many bytes."""
    filled = 0
    while filled < len(view) and (got := file.readinto(view[filled:])):
        filled += got
    return filled
