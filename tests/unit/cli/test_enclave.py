# SPDX-License-Identifier: Apache-2.0
"""``fx attest measure --manifest``: MRENCLAVE from files, compared with what others say."""

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from tests.support import elves

from fedclave.cli import main
from fedclave.trust import elf, enclave_key, mrenclave, sigstruct
from fedclave.trust.mrenclave import RELEASES, Shape

Fx = Callable[..., tuple[int, Any]]
TEXT = b'sgx.enclave_size = "32M"\nsgx.max_threads = 2\nsgx.edmm_enable = false\n'
EXPECTED = mrenclave.measure(
    TEXT, elf.parse(elves.PAL), Shape(size=32 * 2**20, threads=2), RELEASES["1.9"]
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "kit.manifest.sgx").write_bytes(TEXT)
    (tmp_path / "libpal.so").write_bytes(elves.PAL)
    return tmp_path


@pytest.fixture
def fx(folder: Path, capsys: pytest.CaptureFixture[str]) -> Fx:
    def run(*options: str) -> tuple[int, Any]:
        given = ("--manifest", str(folder / "kit.manifest.sgx"), *options)
        code = main.run(["attest", "measure", *given, "--json"])
        return code, json.loads(capsys.readouterr().out)

    return run


def test_the_shape_comes_from_the_manifest(fx: Fx, folder: Path) -> None:
    code, said = fx("--libpal", str(folder / "libpal.so"))
    assert (code, said["mr_enclave"]) == (0, EXPECTED.hex())
    assert (said["enclave_size"], said["max_threads"], said["edmm"]) == (32 * 2**20, 2, False)


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("key") / "key.pem"
    enclave_key.generate(path)
    return enclave_key.load(path, lambda: b"")


@pytest.mark.parametrize("same", [True, False])
def test_a_signature_must_say_the_same(fx: Fx, folder: Path, signer: Any, same: bool) -> None:
    measured = EXPECTED if same else bytes(32)
    body = sigstruct.production(measured, date(2026, 1, 1), isv_prod_id=1, isv_svn=1)
    (folder / "kit.sig").write_bytes(enclave_key.sign(body, signer))
    options = ("--libpal", str(folder / "libpal.so"), "--compare", str(folder / "kit.sig"))
    code, said = fx(*options)
    if same:
        assert (code, said["same"]) == (0, [str(folder / "kit.sig")])
    else:
        assert (code, said["error"]["code"]) == (3, "ATT-MRENCLAVE")


def test_a_quote_of_another_enclave_is_refused(fx: Fx, folder: Path) -> None:
    quote = Path("tests/vectors/attestation/quotes").resolve()
    found = sorted(quote.glob("sgx-*.bin"))[0]
    code, said = fx("--libpal", str(folder / "libpal.so"), "--compare", str(found))
    assert (code, said["error"]["code"]) == (3, "ATT-MRENCLAVE")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('sgx.enclave_size = "3M"', "power of two"),
        ('sgx.enclave_size = "many"', "not the size"),
        ("sgx.enclave_size = 5", "not the size"),
        ("sgx.max_threads = true", "no boolean, or number"),
        ('sgx.edmm_enable = "yes"', "no boolean, or number"),
        ("sgx = 3", "not a table"),
    ],
    ids=["odd", "words", "number", "threads", "edmm", "no-table"],
)
def test_a_manifest_of_no_enclave_is_refused(fx: Fx, folder: Path, text: str, words: str) -> None:
    (folder / "kit.manifest.sgx").write_text(text)
    code, said = fx("--libpal", str(folder / "libpal.so"))
    assert (code, words in said["error"]["message"]) == (2, True), said


def test_what_is_missing_or_unknown_is_named(fx: Fx, folder: Path) -> None:
    assert "--libpal" in fx()[1]["error"]["message"]
    code, said = fx("--libpal", str(folder / "nothing.so"))
    assert (code, "nothing.so" in said["error"]["message"]) == (2, True)
    code, said = fx("--libpal", str(folder / "libpal.so"), "--release", "1.4")
    assert (code, "1.4" in said["error"]["message"]) == (2, True)
    code, said = fx("--libpal", str(folder / "libpal.so"), "--gramine", "gramine.deb")
    assert (code, "--release" in said["error"]["message"]) == (2, True)
    (folder / "libpal.so").write_text("no binary")
    assert fx("--libpal", str(folder / "libpal.so"))[0] == 3
