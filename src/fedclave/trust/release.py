# SPDX-License-Identifier: Apache-2.0
"""Secrets sealed to a key that attested claims name: HPKE (RFC 9180), base mode, single shot.

    b"FEDSEAL1" | HPKE suite, 6 bytes | encapsulated key | ciphertext with its tag

What is sealed opens only with the private key, and only for the contract, policy, transcript and
purpose it was sealed for: they are HPKE's ``info``. Who sealed it, it does not tell: anybody can
who has the public key; the log says who released what. ``sealed`` is about whole files.

Suites: X25519 or, where both sides' ``cryptography`` has it, MLKEM768-X25519 (X-Wing; draft-ietf-
hpke-pq), so that who records today does not read with a quantum computer later; HKDF-SHA256,
AES-256-GCM. A public key is the X25519 key and, after it, the hybrid one if its maker has it; the
sealer takes the best that it can use. As both come from attested claims, nobody in between chooses.
"""

import base64
import hashlib
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from fedclave import canonical
from fedclave.errors import Code, Refused, UserError
from fedclave.trust import files, keys

if TYPE_CHECKING:  # it is imported when it is needed: old versions of the library lack it
    from cryptography.hazmat.primitives import hpke

MAGIC = b"FEDSEAL1"
TAG = 16  # bytes

X25519 = bytes.fromhex("0020 0001 0002")
HYBRID = bytes.fromhex("647a 0001 0002")
"""HPKE suites: KEM, KDF and AEAD, two bytes each (RFC 9180 7; draft-ietf-hpke-pq for 0x647a)."""

ENCAPSULATED = {X25519: 32, HYBRID: 1088 + 32}  # bytes
_CURVE, _MLKEM, _SEED = 32, 1184, 64  # bytes: keys of X25519, public keys and seeds of ML-KEM-768
FRAME = len(MAGIC) + len(X25519)
_PUBLIC = b"fedclave-hpke-1 "

Kind = Literal["message", "file"]
"""``file``: the key of a file."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a secret is sealed for. ``ValueError``: something is missing."""

    contract: str  # id, hex
    policy: str  # digest, hex
    transcript: str  # SHA-256 (hex) of the attestation that the release rests on
    purpose: str  # "initial-model", "final-model", ...

    def __post_init__(self) -> None:
        run = [self.contract, self.policy, self.transcript]
        if not self.purpose or (any(run) and not all(run)):
            raise ValueError(
                "a secret is sealed for a purpose and, of a run, for contract, policy and"
                " transcript; one of them is empty"
            )

    @classmethod
    def at_rest(cls, purpose: str) -> Self:
        """That of a file which its owner keeps: it is of no run."""
        return cls(contract="", policy="", transcript="", purpose=purpose)

    @property
    def encoded(self) -> bytes:
        """Canonical bytes."""
        return canonical.encode(asdict(self))

    def info(self, kind: Kind) -> bytes:
        """HPKE's ``info``: canonical bytes; ``kind`` keeps a file's key from being a message.

        The suite is not in it: HPKE's key schedule binds that (RFC 9180 5.1).
        """
        return b"fedclave/release/1\0" + canonical.encode({"kind": kind, **asdict(self)})


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


def seal(recipient: bytes, plaintext: bytes, *, context: Context, kind: Kind = "message") -> bytes:
    """A secret for who has the private key of ``recipient``, in this context.

    ``Refused`` (MALFORMED): that is not a public key.
    """
    try:
        suite, public = _best(recipient)
        return MAGIC + suite + _suite(suite).encrypt(plaintext, public, info=context.info(kind))
    except ValueError as error:  # of a wrong length, or a point of low order
        raise Refused(
            Code.MALFORMED,
            f"{len(recipient)} bytes that are not a public key to seal to ({error}). Let the peer"
            " attest again",
        ) from error


def open(  # RFC 9180 5.2: Open
    pair: KeyPair, sealed: bytes, *, context: Context, kind: Kind = "message"
) -> bytes:
    """The secret. ``Refused``: MALFORMED; CANNOT_OPEN for what does not fit, or was changed."""
    suite = sealed[len(MAGIC) : FRAME]
    if sealed[: len(MAGIC)] != MAGIC or suite not in ENCAPSULATED:
        raise malformed(f"they begin with {sealed[:FRAME].hex()}")
    if suite not in pair.keys:
        raise cannot_open("it (by the hybrid suite, which this key has no part of)")
    try:
        return _suite(suite).decrypt(sealed[FRAME:], pair.keys[suite], info=context.info(kind))
    except (InvalidTag, ValueError) as error:
        raise cannot_open("it") from error


def digest_of(public: bytes) -> str:
    """SHA-256 (hex) of a public key, as the log names it."""
    return hashlib.sha256(public).hexdigest()


def format_public(public: bytes) -> bytes:
    """A public key as a file that its owner gives away."""
    return _PUBLIC + base64.b64encode(public) + b"\n"


def parse_public(text: bytes, source: str) -> bytes:
    """The public key in such a file; ``source`` names it in a ``UserError``."""
    try:
        if not text.startswith(_PUBLIC) or len(text) > 4096:
            raise ValueError("it begins otherwise")
        public = base64.b64decode(text.removeprefix(_PUBLIC).strip(), validate=True)
        _best(public)
    except ValueError as error:
        raise UserError(
            f"{source} is not a public key to seal to ({error}). Get it from its owner again"
        ) from error
    return public


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


def malformed(found: str) -> Refused:
    """That something is not sealed at all."""
    return Refused(
        Code.MALFORMED,
        f"not something sealed: {found}. Get it again, from a release of fedclave like this one",
    )


def cannot_open(what: str) -> Refused:
    """That something sealed does not open."""
    return Refused(
        Code.CANNOT_OPEN,
        f"{what} does not open: it was changed, or sealed for another key, contract, policy,"
        " transcript or purpose. Get it again, and see that this is the key it was sealed to",
    )
