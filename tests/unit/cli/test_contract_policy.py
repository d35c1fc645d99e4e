# SPDX-License-Identifier: Apache-2.0
"""What a data owner is told of a policy that is not the contract's: signed by its signers, or not.

The policy changes by their word alone, so the file in the folder may be another than the author
signed. Nobody may be told that it is the one, nor that a forged one is good.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.support.contracts import imported, loaded
from tests.support.policies import made, written

from fedclave.cli import main
from fedclave.errors import Code, Refused
from fedclave.trust import policy_file, signing
from fedclave.workspace import layout
from fedclave.workspace.layout import Workspace

ALWAYS = {"from": "2020-01-01", "until": "9999-12-31"}
POLICY = "plan/attestation.yaml"
ANNA, BEN, MALLORY = (
    Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (11, 12, 13)
)
Fx = Callable[..., tuple[int, Any]]


@pytest.fixture
def fx(capsys: pytest.CaptureFixture[str]) -> Fx:
    def run(*arguments: str | Path) -> tuple[int, Any]:
        code = main.run([*map(str, arguments), "--json"])
        return code, json.loads(capsys.readouterr().out)

    return run


def sign(workspace: Workspace, *keys: Ed25519PrivateKey) -> None:
    for key in keys:
        policy_file.sign(workspace.attestation, workspace.attestation_signatures, key)


def write(workspace: Workspace, **parts: Any) -> None:
    workspace.attestation.write_text(written(**{"valid": ALWAYS, **parts}))


def follow(workspace: Workspace) -> None:
    """The text of version 2, unsigned."""
    digest = made(valid=ALWAYS).digest
    write(workspace, version=2, previous=digest, tcb={"smt": True})


@pytest.fixture
def author(tmp_path: Path, fx: Fx) -> Workspace:
    workspace = layout.create("numpy-digits", tmp_path / "author")
    keys = ", ".join(f'"{policy_file.format_key(key.public_key())}"' for key in (ANNA, BEN))
    with workspace.plan.open("a") as file:
        file.write(f"attestation: {{required: [aggregator], signers: [{keys}], threshold: 2}}\n")
    write(workspace)
    sign(workspace, ANNA, BEN)
    assert fx("plan", "initialize", "-C", workspace.root)[0] == 0
    assert fx("plan", "sign", "-C", workspace.root)[0] == 0
    return workspace


@pytest.fixture
def site(author: Workspace, tmp_path: Path) -> Workspace:
    return imported(author, tmp_path / "site")


def forge(site: Workspace) -> None:
    """The text that was signed, and one rule weaker."""
    write(site, tcb={"smt": True})


def forge_under_own_key(site: Workspace) -> None:
    forge(site)
    sign(site, MALLORY)


def too_few(site: Workspace) -> None:
    follow(site)
    sign(site, ANNA)


def without_signatures(site: Workspace) -> None:
    forge(site)
    site.attestation_signatures.unlink()


FORGED = (forge, forge_under_own_key, too_few, without_signatures)


def words(capsys: pytest.CaptureFixture[str], *arguments: str | Path, code: int = 0) -> str:
    assert main.run([*map(str, arguments)]) == code
    out, err = capsys.readouterr()
    return err + out


@pytest.mark.parametrize("change", FORGED)
def test_no_owner_accepts_a_policy_that_its_signers_did_not_sign(
    change: Callable[[Workspace], None], site: Workspace, fx: Fx
) -> None:
    change(site)
    code, value = fx("plan", "accept", "-C", site.root, "-n", "bob", "--yes")
    assert code == (2 if change is without_signatures else 3)
    assert "attestation" in value["error"]["message"]
    assert not site.acceptance("bob").exists()


@pytest.mark.parametrize("change", FORGED)
def test_a_forged_policy_is_never_called_the_one_that_was_signed(
    change: Callable[[Workspace], None],
    site: Workspace,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main.run(["plan", "accept", "-C", str(site.root), "-n", "bob", "--yes"]) == 0
    assert f"{POLICY}: version 1, signed by the plan's signers." in words(
        capsys, "plan", "show", "--contract", "-C", site.root
    )
    change(site)
    shown = words(capsys, "plan", "show", "--contract", "-C", site.root)
    assert f"{POLICY}: NOT SIGNED by the plan's signers, so nothing starts with it: " in shown
    assert "NOT what the author that this site trusts" in shown
    assert "NOT accepted for bob" in shown
    assert "every file here is the one" not in shown


@pytest.mark.parametrize("change", [forge, follow], ids=lambda one: str(one.__name__))
def test_a_listing_has_the_digest_of_the_file_that_lies_here(
    change: Callable[[Workspace], None], site: Workspace, author: Workspace, fx: Fx
) -> None:
    change(site)
    if change is follow:
        sign(site, ANNA, BEN)
    files = fx("plan", "show", "--contract", "-C", site.root)[1]["files"]
    (listed,) = (one for one in files if one["path"] == POLICY)
    ours, theirs = (
        hashlib.sha256(one.attestation.read_bytes()).hexdigest() for one in (site, author)
    )
    assert (listed["sha256"], listed["signed"]) == (ours, theirs)
    assert all("signed" not in one for one in files if one["path"] != POLICY)


def test_a_listing_says_what_is_missing_or_changed(
    site: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    (site.src / "data.py").unlink()
    (site.src / "learner.py").write_text("x = 1\n")
    digest = hashlib.sha256(b"x = 1\n").hexdigest()
    shown = words(capsys, "plan", "show", "--contract", "-C", site.root)
    assert f"MISSING{' ' * 57}  {'-':>10}  src/data.py\n  the contract has another: " in shown
    assert f"{digest}  {6:>10}  src/learner.py\n  the contract has another: " in shown


def test_another_version_that_its_signers_signed_is_accepted_and_said_to_be_one(
    site: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    follow(site)
    sign(site, ANNA, BEN)
    sentence = (
        f"{POLICY}: version 2, signed by the plan's signers; the contract was signed with another"
        " version"
    )
    accept = ("plan", "accept", "-C", site.root, "-n", "bob", "--yes")
    assert sentence in words(capsys, *accept)
    shown = words(capsys, "plan", "show", "--contract", "-C", site.root)
    assert sentence in shown
    assert "every other file here is the one" in shown
    assert "Accepted for bob by the owner" in shown
    assert loaded(site, "bob") is not None


def test_an_older_version_than_was_followed_here_is_not_accepted(site: Workspace, fx: Fx) -> None:
    follow(site)
    sign(site, ANNA, BEN)
    pin = policy_file.Pin(path=site.cert / "policies" / policy_file.PIN)
    pin.accept(made(valid=ALWAYS, version=3, previous="ab" * 32))
    code, value = fx("plan", "accept", "-C", site.root, "-n", "bob", "--yes")
    assert (code, value["error"]["code"]) == (3, "ATT-POLICY")
    shown = fx("attest", "policy", "show", "-C", site.root)[1]
    assert (shown["signed_by"], shown["not_signed"][:27]) == (None, "SIGNED, BUT NOT TO BE FOLLO")


def test_a_run_holds_the_policy_to_its_signers_before_anything_else(site: Workspace) -> None:
    assert main.run(["plan", "accept", "-C", str(site.root), "-n", "bob", "--yes"]) == 0
    forge(site)
    for party in ("bob", None):
        with pytest.raises(Refused, match=r"plan/attestation\.yaml is not the file of") as refused:
            loaded(site, party)
        assert refused.value.code is Code.BAD_SIGNATURE


@pytest.mark.parametrize("change", FORGED)
def test_a_policy_that_is_not_signed_is_shown_as_such_and_passes_no_check(
    change: Callable[[Workspace], None],
    site: Workspace,
    capsys: pytest.CaptureFixture[str],
    fx: Fx,
) -> None:
    signers = sorted(signing.key_id(key.public_key()) for key in (ANNA, BEN))
    assert sorted(fx("attest", "policy", "show", "-C", site.root)[1]["signed_by"]) == signers
    code, found = fx("attest", "policy", "check", "-C", site.root)
    assert (code, sorted(found["signed_by"]), found["not_signed"]) == (0, signers, None)
    change(site)
    shown = words(capsys, "attest", "policy", "show", "-C", site.root)
    assert shown.startswith("NOT SIGNED by the plan's signers, so nothing starts with it: ")
    checked = words(capsys, "attest", "policy", "check", "-C", site.root, code=3)
    assert "NOT SIGNED by the plan's signers" in checked
    assert "is good" not in checked
    code, found = fx("attest", "policy", "check", "-C", site.root)
    assert (code, found["signed_by"], bool(found["not_signed"])) == (3, None, True)


def test_an_owner_hears_that_nobody_signed_the_contracts_own_policy(
    author: Workspace, tmp_path: Path, fx: Fx, capsys: pytest.CaptureFixture[str]
) -> None:
    forge(author)
    assert fx("plan", "sign", "-C", author.root)[0] == 0
    site = imported(author, tmp_path / "site")
    shown = words(capsys, "plan", "accept", "-C", site.root, "-n", "bob", "--yes")
    assert f"{POLICY}: NOT SIGNED by the plan's signers, so nothing starts with it: " in shown
