# SPDX-License-Identifier: Apache-2.0
import hashlib
import os
import shutil
import zipfile

import numpy as np
import pytest

from fedclave.errors import UserError
from fedclave.tensors import write
from fedclave.workspace.archive import export, names, unpack
from fedclave.workspace.layout import create


@pytest.fixture
def workspace(tmp_path):
    return create("numpy-digits", tmp_path / "workspace")


SHARED = (
    "README.md", "plan/plan.yaml", "requirements.txt", "src/__init__.py", "src/data.py",
    "src/learner.py",
)  # fmt: skip


def test_what_all_share_comes_back_and_the_digest_is_the_files(workspace, tmp_path):
    write(workspace.initial, {"w": np.arange(5.0)})
    workspace.attestation.write_text("schema: 1\n")
    digest = export(workspace, tmp_path / "w.zip")
    assert digest == hashlib.sha256((tmp_path / "w.zip").read_bytes()).hexdigest()
    copy = unpack(tmp_path / "w.zip", tmp_path / "copy")
    listed = ("plan/attestation.yaml", "save/initial.safetensors", *SHARED)
    assert set(names(tmp_path / "w.zip")) == set(listed)
    for name in listed:
        assert (copy.root / name).read_bytes() == (workspace.root / name).read_bytes()
    assert copy.cert.stat().st_mode & 0o777 == 0o700
    assert export(copy, tmp_path / "again.zip") == digest


def test_what_is_one_partys_own_stays(workspace, tmp_path):
    own = [
        "cert/alice.key", "cert/ca/root.pem", "data/alice.npz", "logs/events.jsonl",
        "plan/cols.yaml", "plan/data.yaml", "save/federation.db", "save/best.safetensors",
        "src/alice.key", "src/deep/CHAIN.PEM", "src/__pycache__/learner.cpython-311.pyc",
        "src/.env", "src/.git/config", "src/old.pyc", "src/learner.py~", "key.pem", "notes.txt",
    ]  # fmt: skip
    for name in own:
        path = workspace.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    export(workspace, tmp_path / "w.zip")
    assert names(tmp_path / "w.zip") == SHARED


def test_equal_workspaces_give_equal_bytes_whatever_their_times_modes_and_places(
    workspace, tmp_path
):
    other = tmp_path / "an other.place \u00fc"
    shutil.copytree(workspace.root, other)
    for number, path in enumerate(sorted(other.rglob("*.py"))):
        os.utime(path, (number * 1e6, number * 1e6))
        path.chmod(0o600)
    shutil.rmtree(other / "logs")
    first = export(workspace, tmp_path / "1.zip")
    assert export(type(workspace)(other), tmp_path / "2.zip") == first


@pytest.mark.parametrize("name", ["v1.2 final.d", "with space", "\u533b\u9662", "a" * 200])
def test_the_target_folder_may_have_any_name(workspace, tmp_path, name):
    export(workspace, tmp_path / f"{name[:20]}.zip")
    copy = unpack(tmp_path / f"{name[:20]}.zip", tmp_path / "not yet there" / name)
    assert copy.plan.read_bytes() == workspace.plan.read_bytes()
    assert [p.name for p in copy.root.parent.iterdir()] == [name]


def test_unicode_names_in_src_survive(workspace, tmp_path):
    (workspace.src / "modèle_é.py").write_text("x = 1")
    export(workspace, tmp_path / "w.zip")
    copy = unpack(tmp_path / "w.zip", tmp_path / "copy")
    assert (copy.src / "modèle_é.py").read_text() == "x = 1"


def test_a_deflated_archive_of_the_same_files_is_taken(workspace, tmp_path):
    with zipfile.ZipFile(tmp_path / "w.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in SHARED:
            archive.write(workspace.root / name, name)
    assert unpack(tmp_path / "w.zip", tmp_path / "copy").src.is_dir()


def test_an_empty_target_is_used_and_a_full_one_left_alone(workspace, tmp_path):
    export(workspace, tmp_path / "w.zip")
    (tmp_path / "empty").mkdir()
    unpack(tmp_path / "w.zip", tmp_path / "empty")
    before = workspace.plan.read_bytes()
    workspace.plan.write_bytes(before + b"# mine\n")
    with pytest.raises(UserError, match="not empty"):
        unpack(tmp_path / "w.zip", workspace.root)
    assert workspace.plan.read_bytes() == before + b"# mine\n"


def test_a_missing_archive_or_plan_or_folder_is_the_users_mistake(workspace, tmp_path):
    with pytest.raises(UserError, match="no archive at"):
        unpack(tmp_path / "no.zip", tmp_path / "copy")
    with pytest.raises(UserError, match="there is no folder"):
        export(workspace, tmp_path / "no" / "w.zip")
    workspace.plan.unlink()
    with pytest.raises(UserError, match=r"no plan/plan\.yaml"):
        export(workspace, tmp_path / "w.zip")


@pytest.mark.parametrize(
    "name", ["con.py", "a:b.py", "a\nb.py", "trailing.", " x.py", "a\u202eb.py"]
)
def test_names_that_other_systems_cannot_hold_are_not_exported(workspace, tmp_path, name):
    (workspace.src / name).touch()
    with pytest.raises(UserError, match="Rename it"):
        export(workspace, tmp_path / "w.zip")


def test_links_and_pipes_are_not_followed_into_an_archive(workspace, tmp_path):
    (tmp_path / "secret").write_text("secret")
    for make in (
        lambda path: path.symlink_to(tmp_path / "secret"),
        lambda path: path.symlink_to(tmp_path),
        lambda path: os.mkfifo(path),
    ):
        make(workspace.src / "odd.py")
        with pytest.raises(UserError, match="not a regular file"):
            export(workspace, tmp_path / "w.zip")
        (workspace.src / "odd.py").unlink()


def test_a_private_key_in_the_code_is_not_exported(workspace, tmp_path):
    marker = "-----BEGIN EC " + "PRIVATE KEY-----"
    (workspace.src / "notes.py").write_text(f"KEY = '''{marker}'''")
    with pytest.raises(UserError, match="contains a private key"):
        export(workspace, tmp_path / "w.zip")


def test_a_failed_export_leaves_the_old_archive_and_nothing_else(workspace, tmp_path):
    export(workspace, tmp_path / "w.zip")
    before = sorted(tmp_path.iterdir()), (tmp_path / "w.zip").read_bytes()
    (workspace.src / "link.py").symlink_to(tmp_path)
    with pytest.raises(UserError):
        export(workspace, tmp_path / "w.zip")
    assert (sorted(tmp_path.iterdir()), (tmp_path / "w.zip").read_bytes()) == before


def test_a_file_too_large_for_code_is_not_exported(workspace, tmp_path, monkeypatch):
    monkeypatch.setattr("fedclave.workspace.archive.MAX_CODE", 2**20)
    (workspace.src / "big.py").write_bytes(b"#" * (2**20 + 1))
    with pytest.raises(UserError, match="larger than 1 MiB"):
        export(workspace, tmp_path / "w.zip")
