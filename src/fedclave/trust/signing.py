# SPDX-License-Identifier: Apache-2.0
"""Keys for signatures that are not TLS: Ed25519 (RFC 8032), PKCS #8 in PEM, 0600 in 0700.

Authors sign contracts with them, data owners countersign, policy signers sign policies. A key is
known by its ``key_id``, the SHA-256 of its SubjectPublicKeyInfo.
"""

import hashlib
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from fedclave.errors import UserError
from fedclave.trust import files, keys


def generate() -> Ed25519PrivateKey:
    """A new key from the operating system's randomness."""
    return Ed25519PrivateKey.generate()


def save(path: Path, key: Ed25519PrivateKey, passphrase: bytes | None = None) -> None:
    """Write a key's file, and its public half beside it (``.pub``). Replaces nothing."""
    if path.exists():
        raise UserError(f"{path} exists already. Move it away if you want another key")
    how: KeySerializationEncryption = NoEncryption()
    if passphrase is not None:
        if not passphrase:
            raise UserError("the passphrase is empty. Choose one that nobody guesses")
        how = BestAvailableEncryption(passphrase)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how)
    files.write(path, pem, files.PRIVATE)
    files.write(path.with_suffix(".pub"), public_pem(key.public_key()))


def load(path: Path, passphrase: bytes | None = None) -> Ed25519PrivateKey:
    """Read a key that nobody else can read. ``UserError`` says what is wrong with it otherwise."""
    pem = files.read(path, "Create the key first, or name its file")
    keys.check_private(path)
    try:
        key = load_pem_private_key(pem, passphrase)
    except TypeError as error:
        lacking = "is encrypted, and no passphrase was given. Give the one that it was made with"
        needless = "is not encrypted, but a passphrase was given. Leave it out"
        raise UserError(f"{path} {needless if passphrase else lacking}") from error
    except ValueError as error:
        reason = "is not a private key in PEM form. Restore it from a copy"
        if b"ENCRYPTED" in pem:
            reason = "does not open with this passphrase. Give the one that it was made with"
        raise UserError(f"{path} {reason}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise UserError(f"{path} is not an Ed25519 key. Signatures here are made with Ed25519")
    return key


def public_pem(key: Ed25519PublicKey) -> bytes:
    """A public key in PEM: what its owner gives to those who are to trust it."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def parse_public(pem: bytes, source: str) -> Ed25519PublicKey:
    """The public key in PEM bytes; ``source`` names them in a ``UserError``."""
    try:
        key = load_pem_public_key(pem)
    except keys.UNREADABLE as error:
        raise UserError(f"{source} is not a public key in PEM form. Get it again") from error
    if not isinstance(key, Ed25519PublicKey):
        raise UserError(f"{source} is not an Ed25519 key. Signatures here are made with Ed25519")
    return key


def key_id(key: Ed25519PublicKey) -> str:
    """SHA-256 (hex) of the key's SubjectPublicKeyInfo (RFC 5280 4.1)."""
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()
