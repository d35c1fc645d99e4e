# SPDX-License-Identifier: Apache-2.0
"""A command that signs enclaves, for keys that cannot leave an HSM or a signing service.

It reads the 256 bytes that are to be signed from its standard input, and writes the signature to
its standard output: 384 bytes, big-endian, RSASSA-PKCS1-v1_5 with SHA-256 (RFC 8017 8.2.1), and
nothing else. ``openssl dgst -sha256 -sign key.pem`` is such a command. No shell reads its words.
What it writes to standard error, and asks at the terminal (a PIN), reaches the user.

What comes back is believed only if it is a signature by the key that was named.
"""

import os
import selectors
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from fedclave.errors import Unavailable, UserError
from fedclave.trust import enclave_key, files
from fedclave.trust.sigstruct import KEY_SIZE

DEADLINE_S = 120.0  # long enough to type a PIN, or to touch a token


class CommandKey:
    """A key that signs when a command is run."""

    def __init__(
        self, command: Sequence[str], public_key: Path, *, deadline_s: float = DEADLINE_S
    ) -> None:
        """``UserError``: no command, or no public key that a CPU accepts (PEM)."""
        if not command:
            raise UserError("the signing command is empty. Name a program, and its arguments")
        self._command = tuple(command)
        self._source = public_key
        self._key = _public(public_key)
        self.modulus = enclave_key.check(self._key, str(public_key))
        self._deadline_s = deadline_s

    def sign(self, data: bytes) -> int:
        """The command's signature over these bytes, verified.

        ``UserError``: it cannot be started, fails, or writes anything but a signature by this
        key. ``Unavailable``: it takes too long.
        """
        name = self._command[0]
        signature = _output(self._command, data, time.monotonic() + self._deadline_s)
        if len(signature) != KEY_SIZE:
            raise UserError(
                f"the signing command {name} wrote {_size(signature)}; a raw signature has"
                f" {KEY_SIZE}. Make it write that, in binary, and nothing else"
            )
        try:
            self._key.verify(signature, data, PKCS1v15(), SHA256())
        except InvalidSignature as error:
            raise UserError(
                f"what the signing command {name} wrote is no signature by {self._source} over"
                " what it was given (PKCS #1 v1.5, SHA-256). Name the public half of its key, and"
                " see that it reads standard input"
            ) from error
        return int.from_bytes(signature, "big")


def _public(path: Path) -> RSAPublicKey:
    pem = files.read(path, "Name the file of the signing key's public half (PEM)")
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UserError(
            f"{path} is not a public key in PEM form. Export the public half of the signing key"
        ) from error
    if not isinstance(key, RSAPublicKey):
        raise UserError(f"{path} is not an RSA key. {enclave_key.ANOTHER}")
    return key


def _output(command: tuple[str, ...], data: bytes, deadline: float) -> bytes:
    """What a command writes, up to one byte more than a signature has."""
    name = command[0]
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603 - the user's own, no shell
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"the signing command {name!r} cannot be started ({reason}). Name a program that is"
            " there, and each of its arguments by itself"
        ) from error
    with process:
        try:
            written = _exchange(process, data, deadline)
            if len(written) > KEY_SIZE:  # it need not go on
                return written
            code = process.wait(max(0.0, deadline - time.monotonic()))
        except (TimeoutError, subprocess.TimeoutExpired) as error:
            raise Unavailable(
                f"the signing command {name} did not end in time. See that its HSM or service"
                " answers, then run again"
            ) from error
        finally:
            process.kill()  # does nothing to one that has ended
    if code:
        how = f"with code {code}" if code > 0 else f"by signal {-code}"
        raise UserError(
            f"the signing command {name} ended {how}. What it says itself stands above; run it by"
            " hand to see more"
        )
    return written


def _exchange(process: subprocess.Popen[bytes], data: bytes, deadline: float) -> bytes:
    """Give a process its input, and take its output. ``TimeoutError`` at the deadline."""
    assert process.stdin is not None and process.stdout is not None  # noqa: S101 - for the types
    try:
        with process.stdin as pipe:
            pipe.write(data)  # 256 bytes: less than any pipe holds, so this waits for nobody
    except BrokenPipeError:
        pass  # it reads nothing: what it writes is judged all the same
    written = b""
    with selectors.DefaultSelector() as ready:
        ready.register(process.stdout, selectors.EVENT_READ)
        while len(written) <= KEY_SIZE:
            if not ready.select(max(0.0, deadline - time.monotonic())):
                raise TimeoutError
            part = os.read(process.stdout.fileno(), KEY_SIZE + 1 - len(written))
            if not part:
                return written
            written += part
    return written


def _size(signature: bytes) -> str:
    return f"{len(signature)} bytes" if len(signature) <= KEY_SIZE else f"over {KEY_SIZE} bytes"
