# SPDX-License-Identifier: Apache-2.0
"""``fx attest simulate``: the root as a policy names it, also when it is run again."""

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedclave.cli import main
from fedclave.workspace import layout


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return layout.create("numpy-digits", tmp_path / "ws").root


def simulate(workspace: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main.run(["attest", "simulate", "-C", str(workspace), "--json"]) == 0
    value: dict[str, Any] = json.loads(capsys.readouterr().out)
    return value


def test_a_root_is_named_by_its_key_and_not_by_its_file(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = simulate(workspace, capsys)["root"]
    der = (workspace / "simulated-root.der").read_bytes()
    key = x509.load_der_x509_certificate(der).public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert named == f"simulated:{hashlib.sha256(spki).hexdigest()}"
    assert named != f"simulated:{hashlib.sha256(der).hexdigest()}"


def test_run_again_it_says_the_same_root_and_makes_fresh_collateral(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = simulate(workspace, capsys)
    collateral = (workspace / "simulated-collateral.json").read_bytes()
    time.sleep(1)  # dates in collateral have seconds
    assert simulate(workspace, capsys) == first
    assert (workspace / "simulated-collateral.json").read_bytes() != collateral
    assert main.run(["attest", "simulate", "-C", str(workspace)]) == 0
    said = capsys.readouterr().out
    assert first["root"] in said
    assert "SHA-256 of its public key (SPKI), not of its file" in said
