# SPDX-License-Identifier: Apache-2.0
"""The key that signs enclaves, in a file; ``tests/support/enclaves.py`` judges its signatures."""

import os
import stat
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from tests.support import enclaves

from fedclave.errors import Code, Refused, Unavailable, UserError
from fedclave.trust import enclave_key, sigstruct
from fedclave.trust.enclave_key import FileKey

BODY = sigstruct.production(bytes(range(32)), date(2026, 11, 22), isv_prod_id=7, isv_svn=0x0102)
SECRET = b"correct horse battery"


def pem(
    key: PrivateKeyTypes,
    passphrase: bytes | None = None,
    form: PrivateFormat = PrivateFormat.PKCS8,
) -> bytes:
    how = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    return key.private_bytes(Encoding.PEM, form, how)


def nobody() -> bytes:
    raise AssertionError("asked for a passphrase that is not needed")


@pytest.fixture
def file(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(data: bytes, mode: int = 0o600) -> Path:
        path = tmp_path / "key.pem"
        path.write_bytes(data)
        path.chmod(mode)
        return path

    return write


Write = Callable[..., Path]


def refused(path: Path, passphrase: Callable[[], bytes | None] = nobody) -> str:
    with pytest.raises(UserError) as caught:
        enclave_key.load(path, passphrase)
    text = str(caught.value)
    assert str(path) in text
    return text


@pytest.mark.parametrize("form", ["PKCS8", "TraditionalOpenSSL"])
def test_a_key_in_a_file_signs_and_nobody_is_asked_for_a_passphrase(file: Write, form: str) -> None:
    path = file(pem(enclaves.key(), form=getattr(PrivateFormat, form)))
    signer = enclave_key.load(path, nobody)
    assert signer.modulus == enclaves.modulus()
    # The padding is without chance: the same bytes as textbook RSA makes.
    assert enclave_key.sign(BODY, signer) == enclaves.example()


@pytest.mark.parametrize("form", ["PKCS8", "TraditionalOpenSSL"])
def test_an_encrypted_key_asks_once(file: Write, form: str) -> None:
    asked = []

    def ask() -> bytes:
        asked.append(1)
        return SECRET

    path = file(pem(enclaves.key(), SECRET, getattr(PrivateFormat, form)))
    assert enclave_key.load(path, ask).modulus == enclaves.modulus()
    assert asked == [1]


@pytest.mark.parametrize("given", [None, b""])
def test_an_encrypted_key_without_a_passphrase_is_refused(file: Write, given: bytes | None) -> None:
    text = refused(file(pem(enclaves.key(), SECRET)), lambda: given)
    assert "is encrypted, and no passphrase was given. Give" in text


@pytest.mark.parametrize("form", ["PKCS8", "TraditionalOpenSSL"])
def test_a_wrong_passphrase_is_refused_and_not_repeated(file: Write, form: str) -> None:
    path = file(pem(enclaves.key(), SECRET, getattr(PrivateFormat, form)))
    text = refused(path, lambda: b"incorrect horse")
    assert "does not open with this passphrase. Give" in text
    assert "horse" not in text


KEYS: dict[str, tuple[Callable[[], PrivateKeyTypes], str]] = {
    "elliptic": (lambda: ec.generate_private_key(ec.SECP256R1()), "is not an RSA key. Create"),
    "Ed25519": (ed25519.Ed25519PrivateKey.generate, "is not an RSA key. Create"),
    "2048 bits": (lambda: generate_private_key(3, 2048), "has 2048 bits; SGX demands 3072. Create"),
    "3064 bits": (lambda: generate_private_key(3, 3064), "has 3064 bits; SGX demands 3072. Create"),
    "exponent 65537": (
        lambda: generate_private_key(65537, 3072),
        "has the exponent 65537; SGX demands 3. Create",
    ),
}


@pytest.mark.parametrize("kind", KEYS)
def test_a_key_that_no_cpu_accepts_is_refused(file: Write, kind: str) -> None:
    make, reason = KEYS[kind]
    assert reason in refused(file(pem(make())))


CONTENTS: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "text": lambda: b"the key is under the mat\n",
    "zeros": lambda: bytes(2048),
    "DER": lambda: enclaves.key().private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
    "its public half": lambda: (
        enclaves.key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    ),
    "a part of it": lambda: pem(enclaves.key())[:900],
    "another label": lambda: pem(enclaves.key(), SECRET).replace(b"ENCRYPTED ", b""),
}


@pytest.mark.parametrize("content", CONTENTS)
def test_what_is_no_private_key_in_pem_is_refused(file: Write, content: str) -> None:
    assert "is not a private key in PEM form. Name" in refused(file(CONTENTS[content]()))


def test_a_file_that_is_not_there_or_not_readable_is_told(tmp_path: Path) -> None:
    assert "No such file or directory. Name" in refused(tmp_path / "none.pem")
    assert "Is a directory. Name" in refused(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    assert "Too many levels of symbolic links. Name" in refused(tmp_path / "loop")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_of_another_user_is_told(file: Write) -> None:
    assert "Permission denied. Name" in refused(file(pem(enclaves.key()), 0o000))


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o610, 0o604, 0o602, 0o601, 0o644, 0o777])
def test_a_key_that_others_can_reach_is_refused(file: Write, mode: int) -> None:
    path = file(pem(enclaves.key()), mode)
    text = refused(path)
    assert f"open to other users (mode {mode:04o}). Run 'chmod 600 {path}'" in text


def test_a_link_is_judged_by_what_it_leads_to(file: Write, tmp_path: Path) -> None:
    target, link = file(pem(enclaves.key())), tmp_path / "link.pem"
    link.symlink_to(target)
    assert enclave_key.load(link, nobody).modulus == enclaves.modulus()
    target.chmod(0o640)
    assert "open to other users (mode 0640)" in refused(link)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is there already; that new ones differ has a test of its own."""
    monkeypatch.setattr(enclave_key, "generate_private_key", lambda **_: enclaves.key())


def test_a_new_key_is_one_that_a_cpu_accepts_and_signs(tmp_path: Path) -> None:
    made = enclave_key.generate(tmp_path / "key.pem")
    read = enclave_key.load(tmp_path / "key.pem", nobody)
    assert read.modulus == made.modulus != enclaves.modulus()
    raw = enclave_key.sign(BODY, read)
    assert enclaves.is_valid(raw)
    assert sigstruct.parse(raw).modulus == made.modulus


@pytest.fixture(params=[0o000, 0o022, 0o777], ids=["umask 000", "umask 022", "umask 777"])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("quick", "umask")
def test_its_file_is_for_its_owner_alone_and_its_folder_stays_as_it_was(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    enclave_key.generate(tmp_path / "key.pem")
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    assert [path.name for path in tmp_path.iterdir()] == ["key.pem"]


@pytest.mark.usefixtures("quick", "umask")
def test_its_file_is_for_its_owner_alone_before_the_key_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fchmod", lambda descriptor, mode: None)
    enclave_key.generate(tmp_path / "key.pem")
    assert (tmp_path / "key.pem").stat().st_mode & 0o077 == 0


@pytest.mark.usefixtures("quick")
def test_a_new_key_can_be_encrypted(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    enclave_key.generate(path, SECRET)
    assert path.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    assert enclave_key.load(path, lambda: SECRET).modulus == enclaves.modulus()
    with pytest.raises(UserError, match="the passphrase is empty"):
        enclave_key.generate(tmp_path / "other.pem", b"")
    assert not (tmp_path / "other.pem").exists()


@pytest.mark.usefixtures("quick")
def test_nothing_is_ever_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken, dangling = tmp_path / "key.pem", tmp_path / "link.pem"
    taken.write_bytes(b"mine")
    dangling.symlink_to("elsewhere.pem")
    for late in (False, True):  # late: it comes while the key is made
        if late:
            monkeypatch.setattr(os.path, "lexists", lambda path: False)
        for path in (taken, dangling):
            with pytest.raises(UserError, match=r"exists already\. Move it away"):
                enclave_key.generate(path)
    assert taken.read_bytes() == b"mine"
    assert not (tmp_path / "elsewhere.pem").exists()


@pytest.mark.usefixtures("quick")
def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"No such file or directory.*Name a file in a folder"):
        enclave_key.generate(tmp_path / "none" / "key.pem")


@pytest.mark.usefixtures("quick")
def test_a_full_disk_leaves_no_part_of_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Unavailable, match=r"No space left on device.*Free space"):
        enclave_key.generate(tmp_path / "key.pem")
    assert list(tmp_path.iterdir()) == []


class Liar:
    """Signs something else than what it is given."""

    modulus = enclaves.modulus()

    def sign(self, data: bytes) -> int:
        return FileKey(enclaves.key(), "key").sign(data + b"\0")


def test_a_signers_wrong_signature_never_leaves_as_a_sigstruct() -> None:
    with pytest.raises(Refused) as caught:
        enclave_key.sign(BODY, Liar())
    assert caught.value.code == Code.BAD_SIGNATURE
