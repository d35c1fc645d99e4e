# SPDX-License-Identifier: Apache-2.0
"""``fx attest`` on real quotes and their collateral, offline."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from tests.support.dcap_pki import CA, LEAF, NOW, Vendor, certificate, extension
from tests.support.federation import FX

from fedclave.cli import main

pytest.importorskip("dcap_qvl")

VECTORS = Path(__file__).parents[2] / "vectors/attestation"
QUOTE = VECTORS / "quotes/sgx-automata.bin"
COLLATERAL = VECTORS / "collateral/sgx00606A-2025-08.json"
AT = "2025-08-16T12:00:00Z"
MR_ENCLAVE = "a4f45c39dac622cb1dd32ddb35a52ec92db41d0fa88a1c911c49e59c534f61cd"

Fx = Callable[..., tuple[int, Any]]


@pytest.fixture
def fx(capsys: pytest.CaptureFixture[str]) -> Fx:
    def run(*arguments: str | Path) -> tuple[int, Any]:
        code = main.run(["attest", *map(str, arguments), "--json"])
        return code, json.loads(capsys.readouterr().out)

    return run


def test_a_quote_is_shown_and_said_to_be_unverified(
    fx: Fx, capsys: pytest.CaptureFixture[str]
) -> None:
    code, shown = fx("show", QUOTE)
    assert code == 0
    assert (shown["verified"], shown["tee"], shown["mr_enclave"]) == (False, "sgx", MR_ENCLAVE)
    assert main.run(["attest", "show", str(VECTORS / "quotes/tdx-v5-gtg.bin")]) == 0
    text = capsys.readouterr().out
    assert "NOT VERIFIED" in text and "mr_td" in text


def test_a_genuine_quote_is_verified_with_its_status_and_advisories(
    fx: Fx, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = fx("verify", QUOTE, "--collateral", COLLATERAL, "--at", AT)
    assert code == 0
    expected = {
        "verified": True,
        "simulated": False,
        "mr_enclave": MR_ENCLAVE,
        "tcb_status": "SWHardeningNeeded",
        "advisories": "INTEL-SA-00615",
        "evaluation": 17,
        "root": "Intel SGX Root CA",
    }
    assert expected.items() <= found.items()
    options = ["--collateral", str(COLLATERAL), "--at", AT]
    assert main.run(["attest", "verify", str(QUOTE), *options]) == 0
    text = capsys.readouterr().out
    assert text.startswith("GENUINE at 2025-08-16 12:00 UTC: the platform is SWHardeningNeeded.")


@pytest.mark.parametrize(
    ("quote", "collateral", "at", "code"),
    [
        ("t-sgx-body-mrenclave", "sgx00606A-2025-08", AT, "ATT-SIGNATURE"),
        ("t-sgx-empty", "sgx00606A-2025-08", AT, "ATT-MALFORMED"),
        ("sgx-automata-debug", "sgx00A067-2025-05", "2025-05-28T12:00:00Z", "ATT-DEBUG"),
        ("sgx-automata", "sgx00606A-2025-08", "2026-08-16T12:00:00Z", "ATT-COLLATERAL-EXPIRED"),
        ("sgx-automata", "sgx00A067-2025-06", "2025-06-20T12:00:00Z", "ATT-PLATFORM"),
    ],
)
def test_what_is_not_genuine_ends_with_3_and_a_code(
    quote: str, collateral: str, at: str, code: str, fx: Fx
) -> None:
    files = (VECTORS / f"quotes/{quote}.bin", VECTORS / f"collateral/{collateral}.json")
    ended, found = fx("verify", files[0], "--collateral", files[1], "--at", at)
    assert (ended, found["error"]["code"]) == (3, code)


def test_a_simulated_quote_is_genuine_only_under_its_own_root(fx: Fx) -> None:
    cases = json.loads((VECTORS / "cases.json").read_text())["quote_cases"]
    (case,) = (one for one in cases if one["id"] == "sim-ok")
    quote, collateral, root = (VECTORS / case[key] for key in ("quote", "collateral", "root"))
    given = ["--collateral", collateral, "--at", case["now_iso"]]
    code, found = fx("verify", quote, *given, "--root", root)
    assert (code, found["simulated"]) == (0, True)
    assert found["root"].endswith("(not Intel's)")
    code, found = fx("verify", quote, *given)
    assert (code, found["error"]["code"]) == (3, "ATT-CHAIN")


def test_the_users_mistakes_are_told_as_such(fx: Fx, tmp_path: Path) -> None:
    assert fx("show", tmp_path / "none")[0] == 2
    assert fx("verify", QUOTE, "--collateral", tmp_path / "none")[0] == 2
    assert fx("verify", QUOTE, "--collateral", COLLATERAL, "--at", "tomorrow")[0] == 2
    (tmp_path / "c.json").write_text("{}")
    assert fx("verify", QUOTE, "--collateral", tmp_path / "c.json")[1]["error"]["code"] == (
        "ATT-COLLATERAL"
    )


@pytest.mark.parametrize("warnings", ["default", "error"])
def test_what_is_odd_about_a_peers_certificate_is_not_told_by_the_library(
    tmp_path: Path, warnings: str
) -> None:
    """An extension that nobody reads, with a name of 65 letters: borne, and without a word."""
    with pytest.warns(UserWarning, match="length"):
        long = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x" * 65, _validate=False)])
    alternative = x509.SubjectAlternativeName([x509.DirectoryName(long)])
    vendor = Vendor()
    vendor.pck = certificate(
        LEAF, vendor.pck_key, CA, vendor.ca_key, sgx=extension(), more=((alternative, False),)
    )
    for name, data in (
        ("quote", vendor.quote()),
        ("collateral", vendor.collateral()),
        ("root", vendor.root_der),
    ):
        (tmp_path / name).write_bytes(data)
    parts = [f"--{name}={tmp_path / name}" for name in ("collateral", "root")]
    done = subprocess.run(
        [*FX, "attest", "verify", tmp_path / "quote", *parts, "--at", NOW.isoformat(), "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": warnings},
        timeout=60,
    )
    assert (done.stderr, done.returncode) == ("", 0), done.stdout
    assert json.loads(done.stdout)["verified"] is True


def test_imported_collateral_is_used_and_only_gets_newer(fx: Fx, tmp_path: Path) -> None:
    from datetime import UTC, datetime

    from fedclave.trust.simulated import SimulatedPlatform
    from fedclave.workspace import layout

    layout.create("numpy-digits", tmp_path / "ws")
    now = datetime.now(UTC)
    platform = SimulatedPlatform.create(tmp_path / "sim", "digits", now)
    (tmp_path / "root.der").write_bytes(platform.root)
    (tmp_path / "c.json").write_bytes(platform.collateral(now))
    here = ["-C", tmp_path / "ws", "--root", tmp_path / "root.der"]
    code, missing = fx("verify", VECTORS / "quotes/sgx-automata.bin", "-C", tmp_path / "ws")
    assert (code, missing["error"]["code"]) == (3, "ATT-COLLATERAL-MISSING")
    code, found = fx("collateral", "import", tmp_path / "c.json", *here)
    assert (code, len(found["imported"])) == (0, 1)
    good = {"folder": found["folder"], "warnings": []}
    assert fx("collateral", "check", *here) == (0, good)
    assert fx("collateral", "check", "-C", tmp_path / "ws") == (0, good)
    (kept,) = Path(found["folder"]).glob("sgx-*.json")
    kept.write_bytes(COLLATERAL.read_bytes())  # of another root, and expired
    for root in (here, ("-C", tmp_path / "ws")):
        code, checked = fx("collateral", "check", *root)
        assert (code, len(checked["warnings"])) == (0, 1)
    code, refused = fx("collateral", "import", tmp_path / "c.json", "-C", tmp_path / "ws")
    assert (code, refused["error"]["code"]) == (3, "ATT-COLLATERAL-SIGNER")
    code, refused = fx("collateral", "import", COLLATERAL, "-C", tmp_path / "ws")
    assert (code, refused["error"]["code"]) == (3, "ATT-COLLATERAL-EXPIRED")
