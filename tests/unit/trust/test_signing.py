# SPDX-License-Identifier: Apache-2.0
"""Signing keys: their files, and what is not one."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from fedclave.errors import UserError
from fedclave.trust import keys, signing


@pytest.mark.parametrize("passphrase", [None, b"correct horse"])
def test_a_saved_key_is_loaded_and_its_public_half_lies_beside_it(
    passphrase: bytes | None, tmp_path: Path
) -> None:
    key, path = signing.generate(), tmp_path / "keys/author.key"
    signing.save(path, key, passphrase)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert (b"ENCRYPTED" in path.read_bytes()) == (passphrase is not None)
    again = signing.load(path, passphrase).public_key()
    beside = signing.parse_public((tmp_path / "keys/author.pub").read_bytes(), "author.pub")
    ids = {signing.key_id(one) for one in (key.public_key(), again, beside)}
    assert len(ids) == 1 and len(ids.pop()) == 64


def test_a_key_is_not_replaced(tmp_path: Path) -> None:
    signing.save(tmp_path / "a.key", signing.generate())
    with pytest.raises(UserError, match="exists already"):
        signing.save(tmp_path / "a.key", signing.generate())


def test_files_that_hold_no_signing_key_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    with pytest.raises(UserError, match="Create the key first"):
        signing.load(path)
    signing.save(path, signing.generate(), b"right")
    with pytest.raises(UserError, match="does not open"):
        signing.load(path, b"wrong")
    with pytest.raises(UserError, match="no passphrase was given"):
        signing.load(path)
    path.chmod(0o640)
    with pytest.raises(UserError, match="chmod 600"):
        signing.load(path, b"right")
    keys.save(tmp_path / "tls.key", keys.generate())
    with pytest.raises(UserError, match="not an Ed25519 key"):
        signing.load(tmp_path / "tls.key")
    (tmp_path / "garbage.key").write_bytes(b"garbage")
    (tmp_path / "garbage.key").chmod(0o600)
    with pytest.raises(UserError, match="Restore it from a copy"):
        signing.load(tmp_path / "garbage.key")
    with pytest.raises(UserError, match="passphrase is empty"):
        signing.save(tmp_path / "b.key", signing.generate(), b"")


def test_public_keys_of_other_kinds_are_refused() -> None:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    other = generate_private_key(SECP256R1()).public_key()
    pem = other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(UserError, match=r"a\.pub is not an Ed25519 key"):
        signing.parse_public(pem, "a.pub")
    with pytest.raises(UserError, match=r"a\.pub is not a public key"):
        signing.parse_public(b"garbage", "a.pub")
