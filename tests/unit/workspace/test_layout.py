# SPDX-License-Identifier: Apache-2.0
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedclave import plan as plans
from fedclave.errors import UserError
from fedclave.workspace.layout import Workspace, create, open_, templates

ODD = ["plain", "v1.2 final", "with space", "spital-zürich-\u533b\u9662", ".hidden.d"]


def test_the_templates_are_those_of_the_manual():
    assert templates() == ("numpy-digits", "torch-digits")


@pytest.mark.parametrize("name", templates())
def test_a_template_is_complete_and_its_plan_loads(name, tmp_path):
    workspace = create(name, tmp_path / "new")
    assert plans.load(workspace.plan).name == "digits"
    files = {str(p.relative_to(workspace.root)) for p in workspace.root.rglob("*") if p.is_file()}
    assert files == {
        ".gitignore", "README.md", "requirements.txt", "plan/plan.yaml",
        "src/__init__.py", "src/data.py", "src/learner.py",
    }  # fmt: skip


@pytest.mark.parametrize("name", templates())
def test_a_template_has_under_80_lines_in_each_file(name, tmp_path):
    for path in create(name, tmp_path / "new").src.glob("*.py"):
        assert len(path.read_text().splitlines()) < 80


@pytest.mark.parametrize("folder", ODD)
def test_a_workspace_may_have_any_name(folder, tmp_path):
    workspace = create("numpy-digits", tmp_path / folder)
    assert open_(tmp_path / folder) == workspace
    assert plans.load(workspace.plan).rounds == 20


def test_keys_are_for_their_owner_alone(tmp_path):
    workspace = create("numpy-digits", tmp_path / "new")
    assert stat.S_IMODE(workspace.cert.stat().st_mode) == 0o700


def test_an_empty_folder_is_used_and_a_full_one_refused(tmp_path):
    create("numpy-digits", tmp_path)
    with pytest.raises(UserError, match="not empty"):
        create("numpy-digits", tmp_path)


def test_a_file_or_a_link_where_the_folder_should_be_is_refused(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    for name in ("file", "link"):
        with pytest.raises(UserError, match="is not a folder"):
            create("numpy-digits", tmp_path / name)


@pytest.mark.parametrize("name", ["tensorflow-digits", "..", "../learners", ""])
def test_an_unknown_template_is_refused_with_those_there_are(name, tmp_path):
    with pytest.raises(UserError, match="Templates: numpy-digits, torch-digits"):
        create(name, tmp_path / "new")


def test_a_folder_without_plan_is_not_a_workspace(tmp_path):
    with pytest.raises(UserError, match="fx workspace create"):
        open_(tmp_path)


def test_paths_are_those_of_the_design():
    workspace = Workspace(Path("w"))
    assert workspace.members == Path("w/plan/cols.yaml")
    assert workspace.data_paths == Path("w/plan/data.yaml")
    assert workspace.attestation == Path("w/plan/attestation.yaml")
    assert workspace.initial == Path("w/save/initial.safetensors")
    assert workspace.events == Path("w/logs/events.jsonl")


def test_the_digits_are_cut_into_shards_that_lack_labels(tmp_path):
    pytest.importorskip("sklearn")
    workspace = create("numpy-digits", tmp_path / "new")
    command = [sys.executable, "-m", "src.data", "data", "alice", "bob", "carol"]
    subprocess.run(command, cwd=workspace.root, check=True)
    files = {path.stem: np.load(path) for path in workspace.data.glob("*.npz")}
    assert set(files) == {"alice", "bob", "carol", "test"}
    assert sum(len(file["labels"]) for file in files.values()) == 1797
    assert len(np.unique(files["test"]["labels"])) == 10 and files["test"]["validation"].all()
    for name in ("alice", "bob", "carol"):
        assert len(np.unique(files[name]["labels"])) < 10
        assert 0 < files[name]["validation"].sum() < len(files[name]["labels"]) / 2
    rows = np.concatenate([file["features"] for file in files.values()])
    assert len(np.unique(rows, axis=0)) == 1797  # no picture is in two files
