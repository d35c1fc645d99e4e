# SPDX-License-Identifier: Apache-2.0
import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.support import ca

from fedclave.errors import Unavailable, UserError
from fedclave.trust import files, keys


def test_a_saved_key_is_loaded_again(tmp_path: Path) -> None:
    key = keys.generate()
    keys.save(tmp_path / "cert" / "alice.key", key)
    loaded = keys.load(tmp_path / "cert" / "alice.key")
    assert loaded.private_numbers() == key.private_numbers()
    assert isinstance(loaded.curve, ec.SECP256R1)


def test_a_key_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "cert" / "alice.key"
    keys.save(path, keys.generate())
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_an_existing_key_is_not_overwritten(tmp_path: Path) -> None:
    keys.save(tmp_path / "alice.key", keys.generate())
    before = (tmp_path / "alice.key").read_bytes()
    with pytest.raises(UserError, match="exists already"):
        keys.save(tmp_path / "alice.key", keys.generate())
    assert (tmp_path / "alice.key").read_bytes() == before


def test_a_key_is_replaced_when_told(tmp_path: Path) -> None:
    keys.save(tmp_path / "alice.key", keys.generate())
    key = keys.generate()
    keys.save(tmp_path / "alice.key", key, replace=True)
    assert keys.load(tmp_path / "alice.key").private_numbers() == key.private_numbers()


def test_an_encrypted_key_opens_with_its_passphrase_only(tmp_path: Path) -> None:
    path = tmp_path / "root.key"
    key = keys.generate()
    keys.save(path, key, b"right")
    assert b"ENCRYPTED" in path.read_bytes()
    assert keys.load(path, b"right").private_numbers() == key.private_numbers()
    with pytest.raises(UserError, match="does not open with this passphrase"):
        keys.load(path, b"wrong")
    with pytest.raises(UserError, match="no passphrase was given"):
        keys.load(path)


def test_a_passphrase_for_a_plain_key_is_said_to_be_needless(tmp_path: Path) -> None:
    keys.save(tmp_path / "alice.key", keys.generate())
    with pytest.raises(UserError, match="is not encrypted"):
        keys.load(tmp_path / "alice.key", b"needless")


def test_an_empty_passphrase_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="passphrase is empty"):
        keys.save(tmp_path / "root.key", keys.generate(), b"")
    assert not (tmp_path / "root.key").exists()


def test_a_missing_key_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"alice\.key: No such file.*Create the key first"):
        keys.load(tmp_path / "alice.key")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    keys.save(tmp_path / "alice.key", keys.generate())
    (tmp_path / "alice.key").chmod(mode)
    with pytest.raises(UserError, match="chmod 600"):
        keys.load(tmp_path / "alice.key")


def test_garbage_is_not_a_key(tmp_path: Path) -> None:
    files.write(tmp_path / "alice.key", b"-----BEGIN NOTHING-----", files.PRIVATE)
    with pytest.raises(UserError, match="not a private key in PEM form"):
        keys.load(tmp_path / "alice.key")


@pytest.mark.parametrize(
    "other", [ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate()]
)
def test_a_key_of_another_kind_is_refused(
    tmp_path: Path, other: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
) -> None:
    pem = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    files.write(tmp_path / "alice.key", pem, files.PRIVATE)
    with pytest.raises(UserError, match="not an ECDSA key on P-256"):
        keys.load(tmp_path / "alice.key")


def test_a_fingerprint_is_eight_groups_that_people_can_compare(tmp_path: Path) -> None:
    leaf = ca.certify(ca.create(tmp_path)).leaf
    text = keys.fingerprint(leaf)
    assert re.fullmatch(r"[0-9a-f]{8}( [0-9a-f]{8}){7}", text)
    from cryptography.hazmat.primitives.hashes import SHA256

    assert text.replace(" ", "") == leaf.fingerprint(SHA256()).hex()


def test_a_folder_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "cert").write_text("a file where the folder should be")
    with pytest.raises(Unavailable, match="could not be written"):
        keys.save(tmp_path / "cert" / "alice.key", keys.generate())


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "crl.pem").mkdir()
    with pytest.raises(Unavailable):
        files.write(tmp_path / "crl.pem", b"list")
    assert [path.name for path in tmp_path.iterdir()] == ["crl.pem"]


def test_a_line_that_a_crash_cut_short_stays_apart_from_the_next(tmp_path: Path) -> None:
    (tmp_path / "record").write_bytes(b'{"a":1}\n{"b"')
    files.append(tmp_path / "record", b'{"c":3}')
    assert (tmp_path / "record").read_bytes() == b'{"a":1}\n{"b"\n{"c":3}\n'
