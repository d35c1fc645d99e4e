# SPDX-License-Identifier: Apache-2.0
"""``fx attest show`` on a SIGSTRUCT."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from tests.support import enclaves

from fedclave.cli import main


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "aggregator.sig"
    path.write_bytes(enclaves.example())
    return path


Capture = pytest.CaptureFixture[str]


def text(file: Path, capsys: Capture) -> str:
    assert main.run(["attest", "show", str(file)]) == 0
    return capsys.readouterr().out


def shown(file: Path, capsys: Capture) -> dict[str, Any]:
    assert main.run(["attest", "show", str(file), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def change(file: Path, name: str, value: bytes | int) -> None:
    """One field changed, and signed anew."""
    file.write_bytes(enclaves.signed(enclaves.put(file.read_bytes(), name, value)))


def test_a_sigstruct_is_shown_in_words(file: Path, capsys: Capture) -> None:
    lines = dict(line.split(maxsplit=1) for line in text(file, capsys).splitlines()[:17])
    assert lines == {
        "kind": "SIGSTRUCT",
        "mr_enclave": bytes(range(32)).hex(),
        "mr_signer": sha256(enclaves.field(enclaves.example(), "MODULUS")).hexdigest(),
        "isv_prod_id": "7",
        "isv_svn": "258",
        "date": "2026-11-22",
        "vendor": "0x0000",
        "mode": "production: no host can start it in debug mode",
        "attributes": "0x0000000000000004",
        "attributes_mask": "0xffffffffffffffff",
        "attributes_rule": "demands MODE64; forbids all others",
        "xfrm": "0x0000000000000003",
        "xfrm_mask": "0xfffffffffff9ff1b",
        "xfrm_rule": "demands x87, SSE; leaves open AVX, AVX-512, AMX; forbids all others",
        "misc_select": "0x00000000",
        "misc_select_mask": "0xffffffff",
        "misc_select_rule": "forbids all",
    }


def test_its_signature_is_valid_and_that_proves_no_signer(file: Path, capsys: Capture) -> None:
    said = text(file, capsys)
    assert "\nsignature         valid\n" in said
    assert "compare mr_signer with the signer that you trust" in said


def test_as_json_it_is_one_object_with_the_same(file: Path, capsys: Capture) -> None:
    found = shown(file, capsys)
    assert found["mr_enclave"] == bytes(range(32)).hex()
    assert (found["isv_prod_id"], found["isv_svn"], found["signature"]) == (7, 258, "valid")
    assert (found["debug"], found["allows_debug"], found["verified"]) == (False, False, False)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ENCLAVEHASH", b"\xee" * 32),
        ("ATTRIBUTES.FLAGS", 6),
        ("SIGNATURE", 1),
        ("Q1", 0),
        ("MODULUS", 2**3072 - 1),
    ],
    ids=["measurement", "debug", "signature", "quotient", "key"],
)
def test_a_signature_that_is_not_valid_is_shown_as_such(
    file: Path, capsys: Capture, name: str, value: bytes | int
) -> None:
    file.write_bytes(enclaves.put(enclaves.example(), name, value))
    said = text(file, capsys)
    assert "\nsignature         NOT VALID: SIGSTRUCT: " in said
    assert "DO NOT USE IT" in said
    assert "compare mr_signer" not in said
    assert shown(file, capsys)["signature"].startswith("NOT VALID")


def test_a_debug_enclave_is_called_one(file: Path, capsys: Capture) -> None:
    change(file, "ATTRIBUTES.FLAGS", 0b110)
    said = text(file, capsys)
    assert "\nmode              DEBUG: its host reads its memory\n" in said
    assert "demands DEBUG, MODE64; forbids all others" in said
    assert shown(file, capsys)["debug"] is True


def test_a_mask_that_lets_the_host_debug_is_told(file: Path, capsys: Capture) -> None:
    change(file, "ATTRIBUTEMASK.FLAGS", 2**64 - 3)
    said = text(file, capsys)
    assert "\nmode              OPEN: its mask lets the host start it in debug mode" in said
    assert "leaves open DEBUG" in said
    found = shown(file, capsys)
    assert (found["debug"], found["allows_debug"]) == (False, True)


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("ATTRIBUTEMASK.FLAGS", 0, "attributes_rule   leaves open all"),
        ("ATTRIBUTES.FLAGS", 1 << 40 | 4, "attributes_rule   demands MODE64, bits 0x10000000000;"),
        ("ATTRIBUTES.FLAGS", 0x4B4, "demands MODE64, PROVISIONKEY, EINITTOKENKEY, KSS, AEXNOTIFY;"),
        ("ATTRIBUTEMASK.XFRM", 2**64 - 1, "xfrm_rule         demands x87, SSE; forbids all others"),
        ("MISCSELECT", 0b11, "misc_select_rule  demands EXINFO, CPINFO; forbids all others"),
        ("VENDOR", 0x8086, "vendor            0x8086"),
        ("SWDEFINED", 0x10, "swdefined         0x00000010"),
        ("CET_ATTRIBUTES_MASK", 0xFF, "cet               0x00 (mask 0xff)"),
        ("ISVFAMILYID", b"\xab" * 16, "isv_family_id     abababab"),
        ("ISVEXTPRODID", b"\xcd" * 16, "isv_ext_prod_id   cdcdcdcd"),
    ],
    ids=lambda value: value.split()[0] if isinstance(value, str) else "",
)
def test_what_is_unusual_is_told(
    file: Path, capsys: Capture, name: str, value: bytes | int, line: str
) -> None:
    assert line not in text(file, capsys)
    change(file, name, value)
    assert line in text(file, capsys)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda raw: raw[:-1], "1807 bytes, not 1808"),
        (lambda raw: raw + b"\n", "1809 bytes, not 1808"),
        (lambda raw: enclaves.put(raw, "EXPONENT", 65537), "exponent is 65537"),
        (lambda raw: enclaves.put(raw, "DATE", 0x20260230), "its date, 20260230, is no day"),
    ],
    ids=["cut", "a line too many", "another exponent", "no date"],
)
def test_a_damaged_one_ends_with_3_and_the_reason(
    file: Path, capsys: Capture, damage: Any, reason: str
) -> None:
    file.write_bytes(damage(enclaves.example()))
    assert main.run(["attest", "show", str(file), "--json"]) == 3
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "malformed"
    assert reason in error["message"]
