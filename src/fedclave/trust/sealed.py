# SPDX-License-Identifier: Apache-2.0
"""Sealed files: whole, or not at all, for the key and the purpose that they were sealed for.

    b"FEDFILE1" | length, 2 bytes | context: canonical JSON | a sealed file key | chunks of 1 MiB,
                                                                                  each with its tag

The file's key is sealed by ``release``, so it opens for one contract, policy, transcript and
purpose; the file shows which, and that is held to what is sealed.

Chunks are sealed by STREAM (Hoang, Reyhanitabar, Rogaway, Vizar, "Online Authenticated-
Encryption and its Nonce-Reuse Misuse-Resistance", CRYPTO 2015, section 7) over AES-256-GCM: the
nonce holds the chunk's number and whether it is the last, so that none can be changed, left out,
repeated, exchanged or cut off. The key is new for each file: nonces need no random part.
"""

import io
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedclave import canonical
from fedclave.durable import Opens, as_it_is
from fedclave.errors import Refused, Unavailable, UserError
from fedclave.tensors import sync_folder
from fedclave.trust import files, release
from fedclave.trust.release import (
    ENCAPSULATED,
    FRAME,
    MAGIC,
    TAG,
    Context,
    KeyPair,
    cannot_open,
    malformed,
)

FILE_MAGIC = b"FEDFILE1"
CHUNK = 2**20  # bytes of plaintext; all but the last have exactly that many

_FILE_KEY = 32  # bytes
_MOST_HEADER = 2**16 + 2048  # bytes


def seal_file(
    recipient: bytes,
    source: Path,
    target: Path,
    *,
    context: Context,
    opens: Opens = as_it_is,
) -> None:
    """Seal a file of any size into another (0600), which is there whole or not at all.

    ``opens``: how the source is opened, which may be sealed itself, in another way.
    ``Refused``: as ``seal``. ``UserError``: no source. ``Unavailable``: the target's disk.
    """
    key, shown = secrets.token_bytes(_FILE_KEY), context.encoded
    header = FILE_MAGIC + len(shown).to_bytes(2, "big") + shown
    header += release.seal(recipient, key, context=context, kind="file")
    cipher = AESGCM(key)
    with _reading(source, opens) as file, _writing(target) as out:
        out.write(header)
        for number, chunk, last in _chunks(file, CHUNK):
            out.write(cipher.encrypt(_nonce(number, last), chunk, None))


def open_file(pair: KeyPair, source: Path, target: Path, *, context: Context) -> None:
    """Open what ``seal_file`` made, into a file (0600) that is there only when all of it was good.

    ``Refused``: as ``open``. ``UserError``: no source. ``Unavailable``: the target's disk.
    """
    key = file_key(pair, source, context=context)
    with _writing(target) as out:
        decrypt(key, source, out)


def file_key(pair: KeyPair, source: Path, *, context: Context) -> bytes:
    """The key of one sealed file: who is given it can open that file, and no other."""
    with _reading(source) as file:
        found, sealed = _header(file)
    if found != context:
        wrong = [name for name, value in asdict(context).items() if value != getattr(found, name)]
        raise cannot_open(f"{source} (it is of another {' and '.join(wrong)})")
    return release.open(pair, sealed, context=context, kind="file")


def decrypt(key: bytes, source: Path, out: BinaryIO) -> None:
    """Write what is in a sealed file, by its key. ``Refused``: what was written is not all."""
    if len(key) != _FILE_KEY:
        raise malformed(f"a file's key of {len(key)} bytes")
    cipher = AESGCM(key)
    with _reading(source) as file:
        _header(file)
        for number, chunk, last in _chunks(file, CHUNK + TAG):
            try:
                plain = cipher.decrypt(_nonce(number, last), chunk, None)
            except InvalidTag as error:
                raise cannot_open(f"{source}, in its part {number + 1} of 1 MiB") from error
            out.write(plain)


def context_of(source: Path) -> Context:
    """What a sealed file says it was sealed for; ``open_file`` holds it to that.

    ``Refused`` (MALFORMED): this is no sealed file. ``UserError``: it is not there.
    """
    with _reading(source) as file:
        return _header(file)[0]


def is_sealed(path: Path) -> bool:
    """Whether a file begins as ``seal_file`` writes it."""
    if not path.is_file():
        return False
    with _reading(path) as file:
        return file.read(len(FILE_MAGIC)) == FILE_MAGIC


def sealed_size(size: int) -> int:
    """Most bytes that a sealed file has of a file with so many."""
    chunks = size // CHUNK + 1
    return size + chunks * TAG + _MOST_HEADER


def _header(file: BinaryIO) -> tuple[Context, bytes]:
    """What a sealed file is for, and its sealed key; the file stands at its first chunk then."""
    magic = file.read(len(FILE_MAGIC))
    if magic != FILE_MAGIC:
        raise malformed(f"the file begins with {magic.hex()}")
    shown = file.read(int.from_bytes(file.read(2), "big"))
    try:
        fields = canonical.decode(shown)
        if not isinstance(fields, dict) or not all(isinstance(v, str) for v in fields.values()):
            raise ValueError("it is no map of texts")
        context = Context(**fields)
    except (Refused, ValueError, TypeError) as error:
        raise malformed(f"what it was sealed for does not parse ({error})") from error
    frame = file.read(FRAME)
    # Exactly as long as a key of 32 bytes is when sealed: none of another length opens.
    rest = ENCAPSULATED.get(frame[len(MAGIC) :], 0) + _FILE_KEY + TAG
    return context, frame + file.read(rest)


def _nonce(number: int, last: bool) -> bytes:
    """STREAM's nonce, 12 bytes: a prefix, the chunk's number, whether it is the last."""
    return bytes(7) + number.to_bytes(4, "big") + bytes([last])


def _chunks(file: BinaryIO, size: int) -> Iterator[tuple[int, bytes, bool]]:
    """Number, bytes and whether it is the last, of each piece of a file; at least one."""
    number, piece = 0, file.read(size)
    while following := file.read(size):
        yield number, piece, False
        number, piece = number + 1, following
    yield number, piece, True


@contextmanager
def _reading(path: Path, opens: Opens = as_it_is) -> Iterator[BinaryIO]:
    try:
        file = io.BufferedReader(opens(path))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}. Name a file that is there") from error
    with file:
        yield file


@contextmanager
def _writing(path: Path) -> Iterator[BinaryIO]:
    """A new file, private from its first byte, that takes its name only when all is written."""
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
    try:
        # O_EXCL: a file or link that somebody left under this name is not written into.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, files.PRIVATE)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise Unavailable(
            f"{path} could not be written ({error.strerror}). Free space, or name another folder,"
            " then run again"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
