# SPDX-License-Identifier: Apache-2.0
"""How enclaves are started is said where they are made, before anybody can have signed a policy."""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from tests.support import elves, gramines, images

from fedclave.cli import main
from fedclave.workspace.images import own
from fedclave.workspace.layout import Workspace

SECTION = "\nattestation:\n  required: [aggregator, collaborators]\n  signers: [{key}]\n"


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace with a CA and a lock, whose plan asks for evidence; nothing is signed."""
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setenv("FX_CA_PASSPHRASE", "correct horse battery staple")
    root = tmp_path / "Heart study 2"
    at = ("-C", str(root))
    assert main.run(["workspace", "create", str(root)]) == 0
    made = Workspace(root)
    key = "ed25519:" + "A" * 43 + "="
    made.plan.write_text(made.plan.read_text() + SECTION.format(key=json.dumps(key)))
    assert main.run(["plan", "initialize", *at]) == 0
    assert main.run(["workspace", "certify", *at]) == 0
    mine = own.build(made.image)
    made.lock.write_text(
        f"# python {images.VERSION}\nfedclave=={mine.version} --hash=sha256:{mine.sha256}\n"
    )
    return made


def graminized(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str], *more: str
) -> dict[str, Any]:
    base, gramine = tmp_path / "base", gramines.folder(tmp_path / "gramine")
    if not base.exists():
        program = {f"usr/bin/python{images.VERSION}": elves.library(["libc.so.6"])}
        images.oci(base, [images.layer({**images.ROOT, **program})])
    command = ["workspace", "graminize", "--base-image", str(base), "--gramine", str(gramine)]
    capsys.readouterr()
    code = main.run([*command, "-C", str(workspace.root), *more, "--json"])
    value: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert code == 0, value
    return value


def key(tmp_path: Path) -> str:
    pem = rsa.generate_private_key(public_exponent=3, key_size=3072).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path = tmp_path / "enclave.key"
    path.touch(0o600)
    path.write_bytes(pem)
    return str(path)


def test_enclaves_are_made_before_there_is_a_policy_and_are_the_same_after(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    signed = ("-s", key(tmp_path))
    value = graminized(workspace, tmp_path, capsys, *signed)
    assert not workspace.contract.exists()
    line = value["run"]["aggregator"]
    assert "--device /dev/sgx_enclave" in line and value["image"] in line
    assert Path(value["deploy"]) == workspace.image.absolute() / "deploy/sgx"
    (text,) = Path(value["deploy"]).glob("aggregator.kubernetes.yaml")
    assert "sgx.intel.com/epc: 4Gi" in text.read_text()
    entry = Path(value["policy_entry"]).read_text()
    head = "schema: 1\nname: p\nversion: 1\nvalid: {from: 2026-01-01, until: 2099-12-31}\n"
    workspace.attestation.write_text(f"{head}roots: [intel]\n{entry}")
    assert main.run(["plan", "sign", "-C", str(workspace.root)]) == 0
    again = graminized(workspace, tmp_path, capsys, *signed)
    assert again["mr_enclave"] == value["mr_enclave"]


def test_what_nobody_signed_is_started_by_gramine_direct_alone(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    value = graminized(workspace, tmp_path, capsys)
    for line in value["run"].values():
        assert "/opt/gramine/direct/loader" in line and "/dev/sgx" not in line
    assert Path(value["deploy"]).name == "gramine-direct"


def test_who_imported_the_archive_measures_the_same_from_base_and_package(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = graminized(workspace, tmp_path, capsys, "-s", key(tmp_path), "--save")
    archive, home = tmp_path / "w.zip", Workspace(tmp_path / "alice's own")
    assert main.run(["workspace", "export", "--out", str(archive), "-C", str(workspace.root)]) == 0
    assert main.run(["workspace", "import", str(archive), "--into", str(home.root)]) == 0
    (home.cert / "chain.pem").write_bytes((workspace.cert / "chain.pem").read_bytes())
    given = ["--base-image", str(tmp_path / "base"), "--gramine", str(tmp_path / "gramine")]
    capsys.readouterr()
    command = ["attest", "measure", *given, "--image", made["archive"], "-C", str(home.root)]
    code = main.run([*command, "--json"])
    value = json.loads(capsys.readouterr().out)
    assert (code, value["mr_enclave"], value["believed"]) == (0, made["mr_enclave"], {})
