# SPDX-License-Identifier: Apache-2.0
"""Private keys: ECDSA on P-256, PKCS #8 in PEM, in files of 0600 in folders of 0700."""

from functools import lru_cache
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from fedclave.errors import UserError
from fedclave.trust import files

UNREADABLE = (
    ValueError,
    TypeError,
    InvalidSignature,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    Warning,  # about a serial number, say, where the process makes errors of warnings
)
"""What ``cryptography`` raises about bytes that are no key, certificate, request or CRL, or an odd
one. Most of these are no ``ValueError``."""


def generate() -> ec.EllipticCurvePrivateKey:
    """A new key from the operating system's randomness."""
    return ec.generate_private_key(ec.SECP256R1())


def encode(key: ec.EllipticCurvePrivateKey, passphrase: bytes | None = None) -> bytes:
    """A key as PEM, encrypted when there is a passphrase (PBES2; RFC 8018 6.2)."""
    how: KeySerializationEncryption = NoEncryption()
    if passphrase is not None:
        if not passphrase:
            raise UserError("the passphrase is empty. Choose one that nobody guesses")
        how = BestAvailableEncryption(passphrase)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how)


def save(
    path: Path,
    key: ec.EllipticCurvePrivateKey,
    passphrase: bytes | None = None,
    *,
    replace: bool = False,
) -> None:
    """Write a key's file. An existing one is a ``UserError`` unless it is to be replaced."""
    if not replace and path.exists():
        raise UserError(f"{path} exists already. Move it away if you want another key")
    files.write(path, encode(key, passphrase), files.PRIVATE)


def load(path: Path, passphrase: bytes | None = None) -> ec.EllipticCurvePrivateKey:
    """Read a key that nobody else can read. ``UserError`` says what is wrong with it otherwise."""
    pem = files.read(path, "Create the key first, or name the folder that holds it")
    check_private(path)
    return parse(pem, passphrase, str(path))


def parse(pem: bytes, passphrase: bytes | None, source: str) -> ec.EllipticCurvePrivateKey:
    """The key in PEM bytes; ``source`` names them in a ``UserError``."""
    try:
        key = load_pem_private_key(pem, passphrase)
    except TypeError as error:
        lacking = "is encrypted, and no passphrase was given. Give the one that it was made with"
        needless = "is not encrypted, but a passphrase was given. Leave it out"
        raise UserError(f"{source} {needless if passphrase else lacking}") from error
    except ValueError as error:
        reason = "is not a private key in PEM form. Restore it from a copy"
        if b"ENCRYPTED" in pem and "PEM" not in str(error):
            reason = "does not open with this passphrase. Give the one that it was made with"
        raise UserError(f"{source} {reason}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not is_p256(key.public_key()):
        raise UserError(f"{source} is not an ECDSA key on P-256. Create a new key")
    return key


def check_private(path: Path) -> None:
    """Raise ``UserError`` when others than the owner may read or write a file."""
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise UserError(
            f"{path} is open to other users (mode {mode:04o}). Run 'chmod 600 {path}', and"
            " replace the key if others may have read it"
        )


def is_p256(key: object) -> bool:
    """Whether a public key is an ECDSA key on P-256."""
    return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)


def public_bytes(document: x509.Certificate | x509.CertificateSigningRequest) -> bytes:
    """The DER bytes of a certificate or request: what its fingerprint is the SHA-256 of."""
    return document.public_bytes(Encoding.DER)


@lru_cache(maxsize=1024)
def fingerprint(document: x509.Certificate | x509.CertificateSigningRequest) -> str:
    """SHA-256 in eight groups of eight hex digits, for two people to compare."""
    sha = hashes.Hash(hashes.SHA256())
    sha.update(public_bytes(document))
    text = sha.finalize().hex()
    return " ".join(text[start : start + 8] for start in range(0, len(text), 8))
