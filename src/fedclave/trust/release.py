# SPDX-License-Identifier: Apache-2.0
"""Secrets sealed to a key that attested claims name: HPKE (RFC 9180), base mode, single shot.

    sealed    b"FEDSEAL1" | HPKE suite, 6 bytes | encapsulated key | ciphertext with its tag
    file      b"FEDFILE1" | a sealed file key   | chunks of 1 MiB, each with its tag

What is sealed opens only with the private key, and only for the contract, policy, transcript and
purpose it was sealed for: they are HPKE's ``info``. Who sealed it, it does not tell: anybody can
who has the public key; the log says who released what.

Suites: X25519 or, where both sides' ``cryptography`` has it, MLKEM768-X25519 (X-Wing; draft-ietf-
hpke-pq), so that who records today does not read with a quantum computer later; HKDF-SHA256,
AES-256-GCM. A public key is the X25519 key and, after it, the hybrid one if its maker has it; the
sealer takes the best that it can use. As both come from attested claims, nobody in between chooses.

Files are sealed in chunks by STREAM (Hoang, Reyhanitabar, Rogaway, Vizar, "Online Authenticated-
Encryption and its Nonce-Reuse Misuse-Resistance", CRYPTO 2015, section 7) over AES-256-GCM: the
nonce holds the chunk's number and whether it is the last, so that none can be changed, left out,
repeated, exchanged or cut off. The key is new for each file: nonces need no random part.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedclave import canonical
from fedclave.errors import Code, Refused, Unavailable, UserError
from fedclave.tensors import sync_folder
from fedclave.trust import files, keys

if TYPE_CHECKING:  # it is imported when it is needed: old versions of the library lack it
    from cryptography.hazmat.primitives import hpke

MAGIC = b"FEDSEAL1"
FILE_MAGIC = b"FEDFILE1"
CHUNK = 2**20  # bytes of plaintext; all but the last have exactly that many
TAG = 16  # bytes

X25519 = bytes.fromhex("0020 0001 0002")
HYBRID = bytes.fromhex("647a 0001 0002")
"""HPKE suites: KEM, KDF and AEAD, two bytes each (RFC 9180 7; draft-ietf-hpke-pq for 0x647a)."""

_ENCAPSULATED = {X25519: 32, HYBRID: 1088 + 32}  # bytes
_CURVE, _MLKEM, _SEED = 32, 1184, 64  # bytes: keys of X25519, public keys and seeds of ML-KEM-768
_FILE_KEY = 32  # bytes
_FRAME = len(MAGIC) + len(X25519)


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a secret is sealed for. ``ValueError``: something is missing."""

    contract: str  # id, hex
    policy: str  # digest, hex
    transcript: str  # SHA-256 (hex) of the attestation that the release rests on
    purpose: str  # "initial-model", "final-model", ...

    def __post_init__(self) -> None:
        for what in ("contract", "policy", "transcript", "purpose"):
            if not getattr(self, what):
                raise ValueError(f"a secret is sealed for a {what}, and it is empty")

    def info(self, kind: str) -> bytes:
        """HPKE's ``info``: canonical bytes; ``kind`` keeps a file's key from being a message.

        The suite is not in it: HPKE's key schedule binds that (RFC 9180 5.1).
        """
        return b"fedclave/release/1\0" + canonical.encode(
            {
                "kind": kind,
                "contract": self.contract,
                "policy": self.policy,
                "transcript": self.transcript,
                "purpose": self.purpose,
            }
        )


class KeyPair:
    """A key that secrets can be sealed to. ``public`` goes into claims: 32 bytes, or 1248.

    ``private``: X25519 (32 bytes), then for the hybrid an ML-KEM-768 seed (64) and X25519 (32).
    """

    def __init__(self, private: bytes) -> None:
        """``ValueError``: these bytes are no private key. ``UserError``: no HPKE here."""
        if len(private) not in (_CURVE, _CURVE + _SEED + _CURVE):
            raise ValueError(f"a private key of {len(private)} bytes")
        hpke, mlkem = _library()
        curve = X25519PrivateKey.from_private_bytes(private[:_CURVE])
        self.private = private
        self.public = curve.public_key().public_bytes_raw()
        self.keys: dict[bytes, Any] = {X25519: curve}
        """By suite."""
        if hybrid := private[_CURVE:]:
            seed = mlkem.MLKEM768PrivateKey.from_seed_bytes(hybrid[:_SEED])
            curve = X25519PrivateKey.from_private_bytes(hybrid[_SEED:])
            self.public += seed.public_key().public_bytes_raw()
            self.public += curve.public_key().public_bytes_raw()
            self.keys[HYBRID] = hpke.MLKEM768X25519PrivateKey(seed, curve)


def generate() -> KeyPair:
    """A new key, with a hybrid one where this machine's ``cryptography`` has ML-KEM."""
    _, mlkem = _library()
    try:
        hybrid = mlkem.MLKEM768PrivateKey.generate().private_bytes_raw() + _curve_key()
    except UnsupportedAlgorithm:
        hybrid = b""
    return KeyPair(_curve_key() + hybrid)


def save(path: Path, pair: KeyPair) -> None:
    """Write a private key's file, 0600. An existing one is a ``UserError``."""
    if path.exists():
        raise UserError(f"{path} exists already. Move it away if you want another key")
    files.write(path, pair.private, files.PRIVATE)


def load(path: Path) -> KeyPair:
    """Read a private key that nobody else can read. ``UserError`` says what is wrong otherwise."""
    raw = files.read(path, "Create the key first, or name the file that holds it")
    keys.check_private(path)
    try:
        return KeyPair(raw)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UserError(
            f"{path} is not a key to open sealed files with ({error}). Restore it from a copy"
        ) from error


def seal(recipient: bytes, plaintext: bytes, *, context: Context) -> bytes:
    """A secret for who has the private key of ``recipient``, in this context.

    ``Refused`` (MALFORMED): that is not a public key.
    """
    return _seal(recipient, plaintext, context, "message")


def open(pair: KeyPair, sealed: bytes, *, context: Context) -> bytes:  # RFC 9180 5.2: Open
    """The secret. ``Refused``: MALFORMED; CANNOT_OPEN for what does not fit, or was changed."""
    return _open(pair, sealed, context, "message")


def seal_file(recipient: bytes, source: Path, target: Path, *, context: Context) -> None:
    """Seal a file of any size into another (0600), which is there whole or not at all.

    ``Refused``: as ``seal``. ``UserError``: no source. ``Unavailable``: the target's disk.
    """
    key = secrets.token_bytes(_FILE_KEY)
    header = FILE_MAGIC + _seal(recipient, key, context, "file")
    cipher = AESGCM(key)
    with _reading(source) as file, _writing(target) as out:
        out.write(header)
        for number, chunk, last in _chunks(file, CHUNK):
            out.write(cipher.encrypt(_nonce(number, last), chunk, None))


def open_file(pair: KeyPair, source: Path, target: Path, *, context: Context) -> None:
    """Open what ``seal_file`` made, into a file (0600) that is there only when all of it was good.

    ``Refused``: as ``open``. ``UserError``: no source. ``Unavailable``: the target's disk.
    """
    with _reading(source) as file, _writing(target) as out:
        cipher = AESGCM(_file_key(pair, file, context))
        for number, chunk, last in _chunks(file, CHUNK + TAG):
            try:
                plain = cipher.decrypt(_nonce(number, last), chunk, None)
            except InvalidTag as error:
                raise _cannot_open(f"{source}, in its part {number + 1} of 1 MiB") from error
            out.write(plain)


def _seal(recipient: bytes, plaintext: bytes, context: Context, kind: str) -> bytes:
    try:
        suite, public = _best(recipient)
        return MAGIC + suite + _suite(suite).encrypt(plaintext, public, info=context.info(kind))
    except ValueError as error:  # of a wrong length, or a point of low order
        raise Refused(
            Code.MALFORMED,
            f"{len(recipient)} bytes that are not a public key to seal to ({error}). Let the peer"
            " attest again",
        ) from error


def _open(pair: KeyPair, sealed: bytes, context: Context, kind: str) -> bytes:
    suite = sealed[len(MAGIC) : _FRAME]
    if sealed[: len(MAGIC)] != MAGIC or suite not in _ENCAPSULATED:
        raise _malformed(f"they begin with {sealed[:_FRAME].hex()}")
    if suite not in pair.keys:
        raise _cannot_open("it (by the hybrid suite, which this key has no part of)")
    try:
        return _suite(suite).decrypt(sealed[_FRAME:], pair.keys[suite], info=context.info(kind))
    except (InvalidTag, ValueError) as error:
        raise _cannot_open("it") from error


def _best(recipient: bytes) -> tuple[bytes, "X25519PublicKey | hpke.MLKEM768X25519PublicKey"]:
    """The best suite for a public key, and the part of it. ``ValueError``: it is none."""
    if len(recipient) not in (_CURVE, _CURVE + _MLKEM + _CURVE):
        raise ValueError(f"expected {_CURVE} or {_CURVE + _MLKEM + _CURVE}")
    curve, hybrid = recipient[:_CURVE], recipient[_CURVE:]
    hpke, mlkem = _library()
    if hybrid:
        with suppress(UnsupportedAlgorithm):  # not on this machine: X25519 then
            first = mlkem.MLKEM768PublicKey.from_public_bytes(hybrid[:_MLKEM])
            second = X25519PublicKey.from_public_bytes(hybrid[_MLKEM:])
            return HYBRID, hpke.MLKEM768X25519PublicKey(first, second)
    return X25519, X25519PublicKey.from_public_bytes(curve)


def _file_key(pair: KeyPair, file: BinaryIO, context: Context) -> bytes:
    """The key in a sealed file's header; the file stands at its first chunk then."""
    magic, frame = file.read(len(FILE_MAGIC)), file.read(_FRAME)
    if magic != FILE_MAGIC:
        raise _malformed(f"the file begins with {magic.hex()}")
    # Exactly as long as a key of 32 bytes is when sealed: none of another length opens.
    rest = _ENCAPSULATED.get(frame[len(MAGIC) :], 0) + _FILE_KEY + TAG
    return _open(pair, frame + file.read(rest), context, "file")


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
def _reading(path: Path) -> Iterator[BinaryIO]:
    try:
        file = path.open("rb")
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


def _curve_key() -> bytes:
    return X25519PrivateKey.generate().private_bytes_raw()


def _suite(suite: bytes) -> "hpke.Suite":
    library, _ = _library()
    kem = library.KEM.MLKEM768_X25519 if suite == HYBRID else library.KEM.X25519
    suite_of: hpke.Suite = library.Suite(kem, library.KDF.HKDF_SHA256, library.AEAD.AES_256_GCM)
    return suite_of


def _library() -> tuple[Any, Any]:
    """The modules for HPKE and ML-KEM."""
    try:
        from cryptography.hazmat.primitives import hpke
        from cryptography.hazmat.primitives.asymmetric import mlkem
    except ImportError as error:
        raise UserError(
            "sealing needs version 47 of 'cryptography', or a newer one. Run pip install"
            " 'fedclave[attest]'"
        ) from error
    return hpke, mlkem


def _malformed(found: str) -> Refused:
    return Refused(
        Code.MALFORMED,
        f"not something sealed: {found}. Get it again, from a release of fedclave like this one",
    )


def _cannot_open(what: str) -> Refused:
    return Refused(
        Code.CANNOT_OPEN,
        f"{what} does not open: it was changed, or sealed for another key, contract, policy,"
        " transcript or purpose. Get it again, and see that this is the key it was sealed to",
    )
