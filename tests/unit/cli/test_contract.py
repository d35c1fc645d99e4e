# SPDX-License-Identifier: Apache-2.0
"""``fx plan sign|accept|show --contract``: what authors, data owners and operators see."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.contracts import imported, loaded

from fedclave.cli import main
from fedclave.trust import signing
from fedclave.workspace import agreement, layout
from fedclave.workspace.layout import Workspace

Fx = Callable[..., tuple[int, Any]]


@pytest.fixture
def fx(capsys: pytest.CaptureFixture[str]) -> Fx:
    def run(*arguments: str | Path) -> tuple[int, Any]:
        code = main.run(["plan", *map(str, arguments), "--json"])
        return code, json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def author(tmp_path: Path, fx: Fx) -> Workspace:
    workspace = layout.create("numpy-digits", tmp_path / "author")
    assert fx("initialize", "-C", workspace.root)[0] == 0
    return workspace


@pytest.fixture
def signed(author: Workspace, fx: Fx) -> dict[str, Any]:
    code, value = fx("sign", "-C", author.root)
    assert code == 0
    return dict(value)


@pytest.fixture
def site(author: Workspace, signed: dict[str, Any], tmp_path: Path) -> Workspace:
    return imported(author, tmp_path / "site")


def words(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert main.run(["plan", *map(str, arguments)]) == 0
    out, err = capsys.readouterr()
    return err + out


def key(folder: Path, passphrase: bytes | None = None) -> Path:
    path = folder / "safe" / "own.key"
    signing.save(path, signing.generate(), passphrase)
    return path


def test_signing_makes_the_authors_key_once_and_lists_every_file(
    author: Workspace, signed: dict[str, Any], fx: Fx
) -> None:
    private = author.cert / "author.key"
    assert private.stat().st_mode & 0o777 == 0o600
    assert signed["author"] == signing.key_id(signing.load(private).public_key())
    listed = {file["path"] for file in signed["files"]}
    assert {"plan/plan.yaml", "src/learner.py", "save/initial.safetensors"} <= listed
    assert fx("sign", "-C", author.root) == (0, {**signed, "changes": []})


def test_signing_after_a_change_says_what_changed(
    author: Workspace, signed: dict[str, Any], fx: Fx, capsys: pytest.CaptureFixture[str]
) -> None:
    (author.root / "README.md").write_text("new")
    shown = words(capsys, "sign", "-C", author.root)
    assert "Since it was signed last:\n  README.md was changed" in shown
    assert signed["contract"] not in shown


def test_nothing_is_signed_and_no_key_made_before_the_plan_is_initialized(
    tmp_path: Path, fx: Fx
) -> None:
    workspace = layout.create("numpy-digits", tmp_path / "ws")
    code, value = fx("sign", "-C", workspace.root)
    assert (code, "fx plan initialize" in value["error"]["message"]) == (2, True)
    assert not (workspace.cert / "author.key").exists()
    assert not workspace.contract.exists()


def test_a_plan_with_a_mistake_is_not_signed(author: Workspace, fx: Fx) -> None:
    with author.plan.open("a") as file:
        file.write("algorithm: {name: nonesuch}\n")
    assert fx("sign", "-C", author.root)[1]["error"]["kind"] == "plan"
    assert not author.contract.exists()


@pytest.mark.parametrize("by_file", [True, False])
def test_an_encrypted_key_needs_its_passphrase(
    by_file: bool, author: Workspace, tmp_path: Path, fx: Fx, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = key(tmp_path, b"correct horse")
    given = ("sign", "-C", author.root, "--key", private)
    code, value = fx(*given)
    assert (code, "no passphrase was given" in value["error"]["message"]) == (2, True)
    if by_file:
        (tmp_path / "pass").write_text("correct horse\n")
        given = (*given, "--passphrase-file", tmp_path / "pass")
    else:
        monkeypatch.setenv("FX_KEY_PASSPHRASE", "correct horse")
    assert fx(*given)[0] == 0
    assert not (author.cert / "author.key").exists()


def test_a_site_of_another_author_is_not_signed_over(
    site: Workspace, tmp_path: Path, fx: Fx
) -> None:
    assert fx("accept", "-C", site.root, "-n", "anna", "--yes")[0] == 0
    before = site.contract.read_bytes()
    code, value = fx("sign", "-C", site.root)
    assert (code, "the key lies elsewhere" in value["error"]["message"]) == (2, True)
    code, value = fx("sign", "-C", site.root, "--key", key(tmp_path))
    assert (code, value["error"]["code"]) == (3, "bad-signature")
    assert site.contract.read_bytes() == before


def test_an_owner_reads_the_report_accepts_and_the_site_starts(
    author: Workspace,
    site: Workspace,
    signed: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    public = author.cert / "author.pub"
    shown = words(capsys, "accept", "-C", site.root, "-n", "anna", "--author", public, "--yes")
    assert "WHAT LEAVES THIS SITE" in shown
    assert "Noise:     NONE" in shown
    assert f"anna may take part in contract {signed['contract']}." in shown
    assert (site.cert / "author.pub").read_bytes() == public.read_bytes()
    assert (site.cert / "owner.key").stat().st_mode & 0o777 == 0o600
    found = loaded(site)
    assert found is not None
    assert found.id == signed["contract"]


def test_an_owners_key_elsewhere_never_comes_to_the_operator(
    site: Workspace, tmp_path: Path, fx: Fx
) -> None:
    private = key(tmp_path)
    code, value = fx("accept", "-C", site.root, "-n", "anna", "--key", private, "--yes")
    assert (code, value["owner"]) == (0, signing.key_id(signing.load(private).public_key()))
    assert not (site.cert / "owner.key").exists()
    code, value = fx("accept", "-C", site.root, "-n", "bernd", "--yes")
    assert (code, "Name it with --key" in value["error"]["message"]) == (2, True)
    assert fx("accept", "-C", site.root, "-n", "bernd", "--key", private, "--yes")[0] == 0


def test_nobody_accepts_by_accident(site: Workspace, fx: Fx) -> None:
    code, value = fx("accept", "-C", site.root, "-n", "anna")
    assert (code, "--yes" in value["error"]["message"]) == (2, True)
    assert not site.acceptance("anna").exists()
    assert agreement.pinned(site, agreement.AUTHOR) is None
    assert not (site.cert / "owner.key").exists()


def test_another_author_is_refused_before_anything_is_asked(
    site: Workspace, tmp_path: Path, fx: Fx
) -> None:
    assert fx("accept", "-C", site.root, "-n", "anna", "--yes")[0] == 0
    other = key(tmp_path).with_suffix(".pub")
    code, value = fx("accept", "-C", site.root, "-n", "anna", "--author", other)
    assert (code, value["error"]["code"]) == (3, "bad-signature")
    assert "this site knows the author by the key" in value["error"]["message"]


def test_a_contract_of_another_author_than_the_one_named_is_refused(
    site: Workspace, tmp_path: Path, fx: Fx
) -> None:
    other = key(tmp_path).with_suffix(".pub")
    code, value = fx("accept", "-C", site.root, "-n", "anna", "--author", other, "--yes")
    assert (code, value["error"]["code"]) == (3, "bad-signature")
    assert agreement.pinned(site, agreement.AUTHOR) is None


def test_a_folder_that_is_not_the_contract_is_not_accepted(site: Workspace, fx: Fx) -> None:
    (site.src / "learner.py").write_text("x = 1\n")
    code, value = fx("accept", "-C", site.root, "-n", "anna", "--yes")
    assert (code, value["error"]["code"]) == (3, "wrong-contract")
    assert "src/learner.py" in value["error"]["message"]
    assert not site.acceptance("anna").exists()


def test_to_accept_runs_none_of_the_code(site: Workspace, author: Workspace, fx: Fx) -> None:
    mark = site.root.parent / "ran"
    with (author.src / "data.py").open("a") as file:
        file.write(f"\nPath({str(mark)!r}).touch()\n")
    assert fx("sign", "-C", author.root)[0] == 0
    mark.unlink()  # the author's own check ran it
    for name in ("src/data.py", "plan/contract.dsse.json"):
        (site.root / name).write_bytes((author.root / name).read_bytes())
    assert fx("show", "--contract", "-C", site.root)[0] == 0
    assert fx("accept", "-C", site.root, "-n", "anna", "--yes")[0] == 0
    assert not mark.exists()


def test_an_aggregators_operator_only_says_whose_contracts_count(site: Workspace, fx: Fx) -> None:
    code, value = fx("accept", "-C", site.root, "--yes")
    assert (code, "owner" in value) == (0, False)
    assert loaded(site, None) is not None
    assert not list(site.cert.glob("*.acceptance.dsse.json"))


def test_the_contract_is_shown_with_files_signatures_and_what_leaves(
    author: Workspace, site: Workspace, signed: dict[str, Any], fx: Fx
) -> None:
    code, value = fx("show", "--contract", "-C", author.root)
    assert (code, value["contract"], value["files"]) == (0, signed["contract"], signed["files"])
    assert value["signatures"] == [{"key": signed["author"], "state": "valid"}]
    assert value["leaves"]["noise"] is None
    assert value["leaves"]["tensors"]
    unknown = fx("show", "--contract", "-C", site.root)[1]
    assert unknown["signatures"][0]["state"] == "by a key that this site does not know"
    assert any("No author is trusted here yet" in line for line in unknown["standing"])


def test_what_is_shown_says_what_does_not_hold(
    site: Workspace, fx: Fx, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fx("accept", "-C", site.root, "-n", "anna", "--yes")[0] == 0
    good = words(capsys, "show", "--contract", "-C", site.root)
    assert "Accepted for anna by the owner" in good
    assert "NOT" not in good.partition("WHAT LEAVES")[0]
    (site.src / "extra.py").write_text("")
    bad = words(capsys, "show", "--contract", "-C", site.root)
    assert "NOT accepted for anna: wrong-contract: src/extra.py is here" in bad
    text = site.contract.read_text()
    site.contract.write_text(text.replace('"sig": "', '"sig": "AAAA', 1))
    state = fx("show", "--contract", "-C", site.root)[1]["signatures"][0]["state"]
    assert state == "NOT VALID"


def test_an_unsigned_workspace_shows_what_would_be_signed(author: Workspace, fx: Fx) -> None:
    code, value = fx("show", "--contract", "-C", author.root)
    assert (code, value["signatures"]) == (0, [])
    assert "Not signed yet" in value["standing"][0]
    assert fx("sign", "-C", author.root)[1]["contract"] == value["contract"]


def test_without_initial_weights_nobody_can_say_what_leaves(site: Workspace, fx: Fx) -> None:
    site.initial.unlink()
    code, value = fx("show", "--contract", "-C", site.root)
    assert (code, "fx plan initialize" in value["error"]["message"]) == (2, True)
