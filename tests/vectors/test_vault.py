# SPDX-License-Identifier: Apache-2.0
"""Sealed files as they were written once, read by the package and by a second implementation.

The second one is made of RFC 5869 and RFC 2104 by hand and AES-GCM by another interface.
"""

import hashlib
import hmac
import random
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fedclave.trust.vault import CHUNK, Vault

FOLDER = Path(__file__).with_name("vault")
KEY = bytes(range(32))
PINNED = {
    "one-chunk.vault": ("content", "it.vault", b"what is in it " * 3),
    "empty.vault": ("journal", "save/federation.vault", b""),
}


def hkdf(key: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869, 2.2 and 2.3."""
    prk = hmac.new(salt, key, hashlib.sha256).digest()
    out, last = b"", b""
    while len(out) < length:
        last = hmac.new(prk, last + info + bytes([len(out) // 32 + 1]), hashlib.sha256).digest()
        out += last
    return out[:length]


def opened(raw: bytes, key: bytes, purpose: str, name: str) -> bytes:
    """What is in a sealed file, by the second implementation."""
    assert raw[:8] == b"FEDVLT01"
    derived = hkdf(key, raw[8:40], b"fedclave vault 1 " + purpose.encode(), 71)
    assert raw[48:80] == hmac.new(derived[32:64], raw[:48] + name.encode(), hashlib.sha256).digest()
    size, at, number, out = int.from_bytes(raw[40:48], "big"), 80, 0, b""
    while at < len(raw):
        chunk = raw[at : at + CHUNK + 16]
        last = at + len(chunk) == len(raw)
        nonce = derived[64:] + number.to_bytes(4, "big") + bytes([last])
        mode = modes.GCM(nonce, chunk[-16:])
        cipher = Cipher(algorithms.AES(derived[:32]), mode).decryptor()
        cipher.authenticate_additional_data(raw[:40])
        out += cipher.update(chunk[:-16]) + cipher.finalize()
        at, number = at + len(chunk), number + 1
    assert len(out) == size
    return out


@pytest.mark.parametrize("file", PINNED)
def test_a_file_of_this_version_is_read_for_ever(file: str) -> None:
    purpose, name, content = PINNED[file]
    with Vault(KEY).reader(FOLDER / file, purpose=purpose, name=name) as reader:
        assert reader.readall() == content
    assert opened((FOLDER / file).read_bytes(), KEY, purpose, name) == content


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 77])
def test_a_second_implementation_reads_what_is_written(size: int) -> None:
    content = random.Random(size).randbytes(size)
    sealed = Vault(KEY).seal(content, purpose="content", name="a.vault")
    assert opened(sealed, KEY, "content", "a.vault") == content
