# SPDX-License-Identifier: Apache-2.0
"""The key that signs enclaves: RSA of 3072 bits with the exponent 3, as a CPU demands (SDM 38.13).

Its owner can sign any code under the same MRSIGNER, so it stays with its owner: no function here
hands it out, and none writes it but ``generate``. A key in an HSM signs through a command
(``enclave_command``).
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import (
    RSAPrivateKey,
    RSAPublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from fedclave.errors import Unavailable, UserError
from fedclave.tensors import sync_folder
from fedclave.trust import files, keys, sigstruct
from fedclave.trust.sigstruct import EXPONENT, KEY_BITS, Body

ANOTHER = "Create a key for enclaves: RSA with 3072 bits and the exponent 3"


class Signer(Protocol):
    """Who signs enclaves: a key's public half, and signatures by the other one."""

    @property
    def modulus(self) -> int:
        """The key's modulus; its exponent is 3."""

    def sign(self, data: bytes) -> int:
        """The signature over these bytes (RSASSA-PKCS1-v1_5, SHA-256; RFC 8017 8.2.1)."""


class FileKey:
    """A key that was in a file."""

    def __init__(self, key: RSAPrivateKey, source: str) -> None:
        """``UserError`` naming the source: a key that no CPU accepts."""
        self.modulus = check(key.public_key(), source)
        self._key = key

    def sign(self, data: bytes) -> int:
        """The signature over these bytes."""
        return int.from_bytes(self._key.sign(data, PKCS1v15(), SHA256()), "big")


def sign(body: Body, signer: Signer) -> bytes:
    """The SIGSTRUCT of a body, signed, and read back as a CPU would.

    ``Refused(BAD_SIGNATURE)``: the signer's signature is not that of its key.
    """
    raw = sigstruct.assemble(body, signer.modulus, signer.sign(body.signed_bytes))
    sigstruct.parse(raw)
    return raw


def load(path: Path, passphrase: Callable[[], bytes | None]) -> FileKey:
    """The key in a PEM file that only its owner can read; a link is as good as what it leads to.

    ``passphrase`` is called once, and only if the file is encrypted; None: there is none.
    ``UserError`` says what is wrong with the file or the key.
    """
    pem = files.read(path, "Name the file of the signing key, or create one")
    keys.check_private(path)
    key = _opened(pem, path, passphrase)
    if not isinstance(key, RSAPrivateKey):
        raise UserError(f"{path} is not an RSA key. {ANOTHER}")
    return FileKey(key, str(path))


def generate(path: Path, passphrase: bytes | None = None) -> FileKey:
    """Make a key and write its file (PKCS #8, PEM, 0600), encrypted if there is a passphrase.

    ``UserError``: something has this name already; nothing is ever replaced.
    """
    how: KeySerializationEncryption = NoEncryption()
    if passphrase is not None:
        if not passphrase:
            raise UserError("the passphrase is empty. Choose one that nobody guesses")
        how = BestAvailableEncryption(passphrase)
    if os.path.lexists(path):  # before the seconds that a key takes; _create decides
        raise _taken(path)
    key = generate_private_key(public_exponent=EXPONENT, key_size=KEY_BITS)
    _create(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how))
    return FileKey(key, str(path))


def check(key: RSAPublicKey, source: str) -> int:
    """The modulus of a key that a CPU accepts; ``UserError`` naming the source for another."""
    if key.key_size != KEY_BITS:
        raise UserError(f"{source} has {key.key_size} bits; SGX demands {KEY_BITS}. {ANOTHER}")
    numbers = key.public_numbers()
    if numbers.e != EXPONENT:
        raise UserError(f"{source} has the exponent {numbers.e}; SGX demands {EXPONENT}. {ANOTHER}")
    return numbers.n


def _opened(pem: bytes, path: Path, passphrase: Callable[[], bytes | None]) -> object:
    """The private key in PEM, of any kind."""
    try:
        return load_pem_private_key(pem, None)
    except TypeError:  # it is encrypted
        given = passphrase()
    except UnsupportedAlgorithm as error:
        raise UserError(
            f"{path} is not an RSA key, or is encrypted in a way that is not known here. {ANOTHER}"
        ) from error
    except ValueError as error:
        raise UserError(
            f"{path} is not a private key in PEM form. Name the file of the signing key, or"
            " restore it from a copy"
        ) from error
    if not given:
        raise UserError(
            f"{path} is encrypted, and no passphrase was given. Give the one that it was made with"
        )
    try:
        return load_pem_private_key(pem, given)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UserError(
            f"{path} does not open with this passphrase. Give the one that it was made with"
        ) from error


def _create(path: Path, pem: bytes) -> None:
    """Write a new file whole, for its owner alone from the first byte on, or leave none."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, files.PRIVATE)
    except FileExistsError as error:
        raise _taken(path) from error
    except OSError as error:
        raise UserError(
            f"{path} cannot be made ({error.strerror}). Name a file in a folder that is there and"
            " that you may write to"
        ) from error
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
            os.fchmod(descriptor, files.PRIVATE)  # the umask may have taken bits away
            file.write(pem)
            file.flush()
            os.fsync(descriptor)
        sync_folder(path.parent)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise Unavailable(
            f"{path} could not be written ({error.strerror}). Free space, then run again"
        ) from error


def _taken(path: Path) -> UserError:
    return UserError(f"{path} exists already. Move it away if you want another key")
