# SPDX-License-Identifier: Apache-2.0
"""Errors become a text or one JSON object, and an exit code; results are one JSON object."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedclave.cli import main
from fedclave.errors import Bug, Code, Refused, Unavailable, UserError
from fedclave.workspace import layout

Fx = Callable[..., tuple[int, Any]]


@pytest.fixture
def fx(capsys: pytest.CaptureFixture[str]) -> Fx:
    """Runs a command with ``--json``: its exit code, and the one object that it printed."""

    def run(*arguments: str | Path) -> tuple[int, Any]:
        code = main.run([*map(str, arguments), "--json"])
        (line,) = capsys.readouterr().out.splitlines()
        return code, json.loads(line)

    return run


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    layout.create("numpy-digits", tmp_path / "ws")
    return tmp_path / "ws"


@pytest.mark.parametrize(
    ("error", "code", "kind", "short"),
    [
        (UserError("a. b"), 2, "user", "user"),
        (Refused(Code.LATE, "too late"), 3, "refused", "late"),
        (Unavailable("away"), 4, "unavailable", "unavailable"),
        (FileNotFoundError(2, "No such file", "/x"), 4, "unavailable", "unavailable"),
        (KeyboardInterrupt(), 130, "interrupted", "interrupted"),
        (main.Stopped(15, "Go on."), 143, "interrupted", "interrupted"),
        (Bug("no"), 70, "bug", "bug"),
        (ZeroDivisionError("no"), 70, "bug", "bug"),
    ],
)
def test_each_kind_of_error_has_its_exit_code(
    fx: Fx,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    error: BaseException,
    code: int,
    kind: str,
    short: str,
) -> None:
    def create(template: str, root: Path) -> None:
        raise error

    monkeypatch.setattr(layout, "create", create)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    got, value = fx("workspace", "create", "x")
    assert got == code
    assert set(value) == {"error"}
    assert (value["error"]["kind"], value["error"]["code"]) == (kind, short)
    assert "Traceback" not in value["error"]["message"]


def test_a_bug_is_one_line_and_its_traceback_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def create(template: str, root: Path) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(layout, "create", create)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert main.run(["workspace", "create", "x"]) == 70
    (kept,) = tmp_path.glob("fx-traceback-*.txt")
    said = capsys.readouterr().err
    assert str(kept) in said
    assert "Traceback" not in said
    assert "ZeroDivisionError: oops" in kept.read_text()


def test_mistakes_in_a_plan_are_all_told_with_their_lines(fx: Fx, workspace: Path) -> None:
    plan = workspace / "plan/plan.yaml"
    plan.write_text(plan.read_text().replace("rounds: 20", "rounds: ten\nfoo: 1"))
    code, value = fx("plan", "check", "-C", workspace)
    assert (code, value["error"]["kind"]) == (2, "plan")
    assert [p["path"] for p in value["error"]["problems"]] == ["rounds", "foo"]


def test_misuse_is_told_on_stderr_with_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["plan", "chek"]) == 2
    got = capsys.readouterr()
    assert (got.out, "chek" in got.err) == ("", True)


def test_misuse_with_json_is_an_object(fx: Fx) -> None:
    code, value = fx("collaborator", "start")
    assert (code, value["error"]["code"]) == (2, "usage")


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("fedclave ")


def test_outside_a_workspace_the_remedy_is_said(fx: Fx, tmp_path: Path) -> None:
    code, value = fx("plan", "show", "-C", tmp_path)
    assert code == 2
    assert "fx workspace create" in value["error"]["message"]


def test_a_reader_that_went_away_is_no_error(workspace: Path) -> None:
    command = [sys.executable, "-m", "fedclave.cli.main", "plan", "show", "-C", str(workspace)]
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, timeout=60)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


def test_plan_is_checked_shown_and_initialized(fx: Fx, workspace: Path) -> None:
    code, checked = fx("plan", "check", "-C", workspace)
    assert code == 0
    _, shown = fx("plan", "show", "-C", workspace)
    _, begun = fx("plan", "initialize", "-C", workspace)
    assert checked["plan"] == shown["digest"] == begun["plan"]
    assert shown["plan"]["rounds"] == 20
    assert begun["bytes"] == {"down": 19496, "up": 19496}
    _, model = fx("model", "show", "initial", "-C", workspace)
    assert model["digest"] == begun["model"]
    assert {tensor["name"] for tensor in model["tensors"]} == {"w1", "b1", "w2", "b2"}


def test_initializing_twice_changes_nothing(fx: Fx, workspace: Path) -> None:
    _, first = fx("plan", "initialize", "-C", workspace)
    code, second = fx("plan", "initialize", "-C", workspace)
    assert (code, second) == (0, first)


def test_a_changed_plan_that_was_not_begun_is_initialized_anew(fx: Fx, workspace: Path) -> None:
    fx("plan", "initialize", "-C", workspace)
    plan = workspace / "plan/plan.yaml"
    plan.write_text(plan.read_text().replace("seed: 7", "seed: 8"))
    code, value = fx("plan", "initialize", "-C", workspace)
    assert code == 0
    assert Path(value["moved"]).is_dir()
    assert fx("model", "show", "final", "-C", workspace)[1]["digest"] == value["model"]


def test_workspace_is_created_exported_and_imported(
    fx: Fx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert fx("workspace", "create", "a b.c", "--template", "torch-digits")[0] == 0
    code, exported = fx("workspace", "export", "-C", "a b.c")
    assert (code, Path(exported["archive"])) == (0, tmp_path / "a b.c.zip")
    code, imported = fx("workspace", "import", "a b.c.zip", "--into", "copy")
    assert (code, imported["files"]) == (0, exported["files"])
    assert fx("workspace", "import", "a b.c.zip", "--into", "copy")[0] == 2


def test_an_export_names_the_path_that_was_asked_for(
    fx: Fx, workspace: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for out in (tmp_path, tmp_path / "nowhere" / "a.zip", tmp_path / "notes.txt"):
        code, value = fx("workspace", "export", "-C", workspace, "--out", out)
        assert (code, out.name in value["error"]["message"]) == (2, True)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_unknown_template_names_the_known_ones(fx: Fx, tmp_path: Path) -> None:
    code, value = fx("workspace", "create", tmp_path / "x", "--template", "what")
    assert code == 2
    assert "numpy-digits" in value["error"]["message"]


def test_data_is_noted_and_must_be_there(fx: Fx, workspace: Path) -> None:
    missing = fx("collaborator", "create", "-n", "alice", "-d", "nowhere", "-C", workspace)
    assert missing[0] == 2
    (workspace / "data/a.npz").touch()
    data = workspace / "data/a.npz"
    assert fx("collaborator", "create", "-n", "alice", "-d", data, "-C", workspace)[0] == 0
    assert "alice: data/a.npz" in (workspace / "plan/data.yaml").read_text()
