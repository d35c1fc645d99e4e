# SPDX-License-Identifier: Apache-2.0
"""``fx attest policy``: what signers, data owners and security officers see."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.policies import CODE, ROLE, made, written

from fedclave.cli import main
from fedclave.trust import policy_file, signing
from fedclave.workspace import layout

ALWAYS = {"from": "2020-01-01", "until": "9999-12-31"}
Fx = Callable[..., tuple[int, Any]]


@pytest.fixture
def fx(capsys: pytest.CaptureFixture[str]) -> Fx:
    def run(*arguments: str | Path) -> tuple[int, Any]:
        code = main.run(["attest", "policy", *map(str, arguments), "--json"])
        return code, json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "attestation.yaml"
    path.write_text(written(valid=ALWAYS))
    return path


@pytest.fixture
def keys(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "keys" / f"{name}.key" for name in ("anna", "ben")]
    for path in paths:
        signing.save(path, signing.generate())
    return paths


def words(*arguments: str | Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main.run(["attest", "policy", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_a_policy_is_signed_by_one_after_the_other_and_checked(
    fx: Fx, text: Path, keys: list[Path]
) -> None:
    digest = made(valid=ALWAYS).digest
    signers = [part for key in keys for part in ("--signer", key.with_suffix(".pub"))]
    code, done = fx("sign", keys[0], "--policy", text)
    assert (code, done["policy"], done["signatures"], done["dropped"]) == (0, digest, 1, 0)
    code, refused = fx("check", "--policy", text, *signers)
    assert (code, refused["error"]["code"]) == (3, "bad-signature")
    assert fx("check", "--policy", text, *signers, "--threshold", "1")[0] == 0
    line = fx("sign", keys[1], "--policy", text)[1]["key"]
    assert policy_file.format_key(policy_file.parse_key(line)) == line
    code, found = fx("check", "--policy", text, *signers[:2], "--signer", line)
    assert (code, found["policy"], len(found["signed_by"])) == (0, digest, 2)


def test_a_check_without_keys_says_that_it_looked_at_no_signature(
    text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = words("check", "--policy", text, capsys=capsys)
    assert "is good: policy digits v1, digest " in shown
    assert "Signatures were not looked at." in shown


def test_the_policy_of_a_workspace_is_the_default(fx: Fx, text: Path, tmp_path: Path) -> None:
    workspace = layout.create("numpy-digits", tmp_path / "ws")
    workspace.attestation.write_text(text.read_text())
    code, found = fx("check", "-C", workspace.root)
    assert (code, found["file"]) == (0, str(workspace.attestation))
    assert fx("check", "-C", tmp_path)[0] == 2


def test_a_changed_text_is_said_to_have_dropped_signatures(
    text: Path, keys: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for key in keys:
        words("sign", key, "--policy", text, capsys=capsys)
    text.write_text(written(valid=ALWAYS, tcb={"smt": True}))
    shown = words("sign", keys[0], "--policy", text, capsys=capsys)
    assert "The text has changed: 2 signatures over the older one dropped." in shown


def test_an_encrypted_key_opens_with_its_passphrase(fx: Fx, text: Path, tmp_path: Path) -> None:
    signing.save(tmp_path / "c.key", signing.generate(), b"correct horse")
    (tmp_path / "passphrase").write_text("correct horse\n")
    assert fx("sign", tmp_path / "c.key", "--policy", text)[0] == 2
    given = ("--passphrase-file", tmp_path / "passphrase")
    assert fx("sign", tmp_path / "c.key", "--policy", text, *given)[0] == 0


def test_the_users_mistakes_are_told_as_such(fx: Fx, text: Path, keys: list[Path]) -> None:
    assert fx("check", "--policy", text, "--threshold", "1")[0] == 2
    assert fx("check", "--policy", text, "--signer", "ed25519:AAAA")[0] == 2
    assert fx("check", "--policy", text, "--signer", "nobody.pub")[0] == 2
    none = text.with_name("none.yaml")
    code, found = fx("check", "--policy", none)
    assert (code, found["error"]["message"][: len(f"{none}: no")]) == (2, f"{none}: no")
    twice = ["--signer", keys[0].with_suffix(".pub")] * 2
    assert fx("check", "--policy", text, *twice)[0] == 2
    text.write_text(written(roles={}, ttl=1))
    code, found = fx("sign", keys[0], "--policy", text)
    assert (code, len(found["error"]["problems"])) == (2, 2)


def test_a_policy_that_is_over_is_shown_and_does_not_pass_a_check_of_its_signatures(
    fx: Fx, text: Path, keys: list[Path]
) -> None:
    text.write_text(written(valid={"from": "2020-01-01", "until": "2020-12-31"}))
    fx("sign", keys[0], "--policy", text)
    assert "admits nobody" in fx("show", "--policy", text)[1]["warnings"][0]
    code, refused = fx("check", "--policy", text, "--signer", keys[0].with_suffix(".pub"))
    assert (code, refused["error"]["code"]) == (3, "ATT-POLICY")


def test_a_policy_is_shown_in_words(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured = {"mr_enclave": CODE.hex(), "note": "release 1.3", "until": "2021-06-30"}
    excused = {"members": ["hospital9"], "reason": "no SGX", "receives": ["model"]}
    parts: dict[str, Any] = {
        "valid": ALWAYS,
        "roles": {
            "aggregator": {"signers": ["0d" * 32], "product": {"isv_prod_id": 4}},
            "collaborator": {"measurements": [measured], "unattested": excused},
        },
        "tcb": {
            "grace": {"statuses": ["OutOfDate"], "days": 90},
            "accept_advisories": {"INTEL-SA-00615": "no MMIO"},
            "reject_advisories": ["INTEL-SA-00960"],
            "smt": True,
        },
        "platforms": {"deny": ["0c" * 16]},
    }
    text.write_text(written("intel", f"simulated:{'0a' * 32}", **parts))
    shown = words("show", "--policy", text, capsys=capsys)
    for line in (
        made("intel", f"simulated:{'0a' * 32}", **parts).digest,
        f"  signed by {'0d' * 32}\n  as product 4, security version 0 or more\n",
        f"  mr_enclave {CODE.hex()} (release 1.3, until 2021-06-30 23:59 UTC)\n",
        "  with attributes 0x5 under the mask 0xffffffffffffffff\n",
        "  without evidence: hospital9, because: no SGX\n  these receive: model\n",
        "  or OutOfDate, at most 90 days after the date of the oldest TCB level that makes it so\n",
        "  may have INTEL-SA-00615, because: no MMIO\n  never has INTEL-SA-00960\n",
        "  may have threads that share a core (SMT)\n  has no packages that may be added",
        f"  denied machines: {'0c' * 16}\n",
        "The initial model goes to nobody.\nThe data key goes to nobody.\n",
        "Mind: it trusts a SIMULATED root",
        "Mind: in the role aggregator, the signers alone decide",
        "Mind: mr_enclave abababababababab... of the role collaborator ended 2021-06-30 23:59 UTC",
    ):
        assert line in shown, line


def test_a_role_that_admits_nobody_is_shown_as_such(
    text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text.write_text(written(valid=ALWAYS, roles={"aggregator": ROLE}))
    assert "A collaborator is not admitted by any evidence." in words(
        "show", "--policy", text, capsys=capsys
    )


def test_everybody_without_evidence_deserves_a_second_thought(fx: Fx, text: Path) -> None:
    excused = {"members": "all", "reason": "a trial", "receives": ["model"]}
    roles = {"aggregator": ROLE, "collaborator": {"unattested": excused}}
    text.write_text(written(valid=ALWAYS, roles=roles))
    assert fx("show", "--policy", text)[1]["warnings"] == [
        "no collaborator needs to prove anything"
    ]
