# SPDX-License-Identifier: Apache-2.0
"""Commands that sign, as processes: good ones, and those that do everything else."""

import shutil
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from tests.support import enclaves

from fedclave.errors import Unavailable, UserError
from fedclave.trust import enclave_key, sigstruct
from fedclave.trust.enclave_command import CommandKey

BODY = sigstruct.production(bytes(range(32)), date(2026, 11, 22), isv_prod_id=7, isv_svn=0x0102)
SIGNER = """
import hashlib, sys
d, n = (int(word, 16) for word in open(sys.argv[1]).read().split())
info = bytes.fromhex("3031300d060960864801650304020105000420")
info += hashlib.sha256(sys.stdin.buffer.read()).digest()
padded = b"\\0\\1" + b"\\xff" * (381 - len(info)) + b"\\0" + info
signature = pow(int.from_bytes(padded, "big"), d, n).to_bytes(384, "big")
sys.stdout.buffer.write(signature)
"""
"""What stands for an HSM's tool: textbook RSA, with a key that only it reads."""


def pem(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture
def public(tmp_path: Path) -> Path:
    path = tmp_path / "signer.pub"
    path.write_bytes(pem(enclaves.key().public_key()))
    return path


@pytest.fixture
def hsm(tmp_path: Path) -> Callable[..., list[str]]:
    """The command, with its script changed; it gets the key and any further words."""
    numbers = enclaves.key().private_numbers()
    (tmp_path / "d").write_text(f"{numbers.d:x} {numbers.public_numbers.n:x}")

    def command(change: Callable[[str], str] = str, *words: str) -> list[str]:
        return [sys.executable, "-c", change(SIGNER), str(tmp_path / "d"), *words]

    return command


Hsm = Callable[..., list[str]]


def refused(command: list[str], public: Path, error: type[Exception] = UserError) -> str:
    with pytest.raises(error) as caught:
        CommandKey(command, public, deadline_s=30).sign(BODY.signed_bytes)
    return str(caught.value)


def test_a_command_signs_as_a_key_in_a_file_does(hsm: Hsm, public: Path) -> None:
    signer = CommandKey(hsm(), public)
    assert signer.modulus == enclaves.modulus()
    assert enclave_key.sign(BODY, signer) == enclaves.example()


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs the openssl command")
def test_openssl_is_such_a_command(public: Path, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.touch(0o600)
    key.write_bytes(enclaves.key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    signer = CommandKey(["openssl", "dgst", "-sha256", "-sign", str(key)], public)
    assert enclave_key.sign(BODY, signer) == enclaves.example()


def test_no_shell_reads_its_words(hsm: Hsm, public: Path, tmp_path: Path) -> None:
    said = tmp_path / "said"
    words = (f"$(touch {tmp_path}/evil)", f"; touch {tmp_path}/evil", "two words", "*")
    told = hsm(lambda text: text + f"open({str(said)!r}, 'w').write(repr(sys.argv[2:]))\n", *words)
    CommandKey(told, public).sign(BODY.signed_bytes)
    assert said.read_text() == repr(list(words))
    assert not (tmp_path / "evil").exists()


def test_what_it_says_itself_reaches_the_user(
    hsm: Hsm, public: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = refused(hsm(lambda text: "import sys; sys.exit('PIN locked')"), public)
    assert "ended with code 1. What it says itself stands above" in text
    assert "PIN locked" in capfd.readouterr().err


def script(text: str) -> Callable[[str], str]:
    return lambda good: text


OUTPUTS: dict[str, tuple[Callable[[str], str], str]] = {
    "nothing, input unread": (script(""), "wrote 0 bytes; a raw signature has 384. Make"),
    "text": (script("print('signed')"), "wrote 7 bytes; a raw signature has 384. Make"),
    "hexadecimal": (
        lambda good: good.replace("buffer.write(signature)", "write(signature.hex())"),
        "wrote over 384 bytes; a raw signature has 384. Make",
    ),
    "a line's end after it": (
        lambda good: good.replace("write(signature)", "write(signature + b'\\n')"),
        "wrote over 384 bytes",
    ),
    "no end": (
        script("import os\nwhile True: os.write(1, b'x' * 65536)"),
        "wrote over 384 bytes",
    ),
    "bytes in the wrong order": (
        lambda good: good.replace("write(signature)", "write(signature[::-1])"),
        "is no signature by",
    ),
    "a signature of something else": (
        lambda good: good.replace("sys.stdin.buffer.read()", "b'something else'"),
        "is no signature by",
    ),
    "a signature of the digest": (
        lambda good: good.replace(
            "sys.stdin.buffer.read()", "hashlib.sha256(sys.stdin.buffer.read()).digest()"
        ),
        "is no signature by",
    ),
    "zeros": (script("import sys; sys.stdout.buffer.write(bytes(384))"), "is no signature by"),
    "a number above the modulus": (
        script("import sys; sys.stdout.buffer.write(b'\\xff' * 384)"),
        "is no signature by",
    ),
    "a signature, and fails": (
        lambda good: good + "sys.stdout.flush(); sys.exit(3)\n",
        "ended with code 3. What it says",
    ),
    "a signature, and is killed": (
        lambda good: good + "sys.stdout.flush(); import os; os.kill(os.getpid(), 9)\n",
        "ended by signal 9. What it says",
    ),
}


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_command_that_writes_anything_else_is_refused(
    hsm: Hsm, public: Path, output: str
) -> None:
    change, reason = OUTPUTS[output]
    assert reason in refused(hsm(change), public)


def test_a_command_of_another_key_is_refused(hsm: Hsm, tmp_path: Path) -> None:
    other = tmp_path / "other.pub"
    other.write_bytes(pem(generate_private_key(3, 3072).public_key()))
    text = refused(hsm(), other)
    assert f"is no signature by {other}" in text
    assert "Name the public half of its key" in text


SLOW = {
    "never ends": "import time; time.sleep(600)",
    "closes its output and stays": "import os, time; os.close(1); time.sleep(600)",
    "leaves its output to a child": (
        "import subprocess, sys\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(5)'])\n"
    ),
}


@pytest.mark.parametrize("slow", SLOW)
def test_a_command_that_does_not_end_in_time_is_ended(public: Path, slow: str) -> None:
    signer = CommandKey([sys.executable, "-c", SLOW[slow]], public, deadline_s=0.5)
    with pytest.raises(Unavailable, match=r"did not end in time\. See that its HSM"):
        signer.sign(BODY.signed_bytes)


def test_a_command_that_cannot_be_started_is_told(public: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("no program")
    for command, reason in (
        ([str(tmp_path / "none")], "No such file or directory"),
        ([str(plain)], "Permission denied"),
        (["sign\0evil"], "embedded null byte"),
    ):
        assert f"cannot be started ({reason}). Name" in refused(command, public)
    with pytest.raises(UserError, match="signing command is empty"):
        CommandKey([], public)


PUBLIC: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "is not a public key in PEM form. Export"),
    "the private key": (
        lambda: enclaves.key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        "is not a public key in PEM form. Export",
    ),
    "elliptic": (
        lambda: pem(ec.generate_private_key(ec.SECP256R1()).public_key()),
        "is not an RSA key. Create",
    ),
    "2048 bits": (
        lambda: pem(generate_private_key(3, 2048).public_key()),
        "has 2048 bits; SGX demands 3072",
    ),
    "exponent 65537": (
        lambda: pem(generate_private_key(65537, 3072).public_key()),
        "has the exponent 65537; SGX demands 3",
    ),
}


@pytest.mark.parametrize("kind", PUBLIC)
def test_a_public_key_that_no_cpu_accepts_is_refused_before_anything_runs(
    tmp_path: Path, kind: str
) -> None:
    make, reason = PUBLIC[kind]
    path = tmp_path / "signer.pub"
    path.write_bytes(make())
    with pytest.raises(UserError) as caught:
        CommandKey(["true"], path)
    assert f"{path} {reason}" in str(caught.value)


def test_a_public_key_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"No such file or directory\. Name"):
        CommandKey(["true"], tmp_path / "none.pub")
