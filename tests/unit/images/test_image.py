# SPDX-License-Identifier: Apache-2.0
"""Whole images, of a real workspace on a small base, made without any container tool."""

import json
import os
import resource
import shlex
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
from tests.support import images

from fedclave.cli import main
from fedclave.workspace.images import bytecode, content, engines, oci, own, tree
from fedclave.workspace.images.tree import File, Folder, Link
from fedclave.workspace.layout import Workspace

PACKAGES = f"/opt/fedclave/lib/python{images.VERSION}/site-packages"


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a lock and a signed contract."""
    root = tmp_path_factory.mktemp("images") / "Heart study 2"
    assert main.run(["workspace", "create", str(root)]) == 0
    assert main.run(["plan", "initialize", "-C", str(root)]) == 0
    workspace = Workspace(root)
    mine = own.build(workspace.image)
    kit = {
        "kit/__init__.py": b"import os\n",
        "kit/tests/test_kit.py": b"",
        "kit/kit.h": b"int x;",
        "kit/stubs.pyi": b"",
    }
    path = images.wheel(workspace.image, "kit", kit)
    workspace.lock.write_text(
        f"# python {images.VERSION}\n"
        f"kit==1.0 --hash=sha256:{images.digest(path.read_bytes())}\n"
        f"fedclave=={mine.version} --hash=sha256:{mine.sha256}\n"
    )
    assert main.run(["plan", "sign", "-C", str(root)]) == 0
    return root


@pytest.fixture
def workspace(signed: Path, tmp_path: Path) -> Workspace:
    return Workspace(Path(shutil.copytree(signed, tmp_path / signed.name)))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return images.oci(tmp_path / "base", [images.layer(images.ROOT)])


@pytest.fixture(autouse=True)
def no_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)


def said(capsys: pytest.CaptureFixture[str], *command: str) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = main.run([*command, "--json"])
    return code, json.loads(capsys.readouterr().out)


def made(capsys: pytest.CaptureFixture[str], workspace: Workspace, base: Path) -> dict[str, Any]:
    command = ("workspace", "dockerize", "--base-image", str(base), "-C", str(workspace.root))
    code, value = said(capsys, *command)
    assert code == 0, value
    return value


def test_an_image_holds_what_the_contract_and_the_lock_name(
    capsys: pytest.CaptureFixture[str], workspace: Workspace, base: Path, tmp_path: Path
) -> None:
    (workspace.cert / "anna.key").write_text("a key")
    (workspace.data / "patients.csv").write_text("data")
    value = made(capsys, workspace, base)
    image = oci.read(Path(value["archive"]), tmp_path / "into")
    found = oci.files(image)
    here = {path for path in found if path.startswith(("/opt", "/workspace", "/state"))}
    shared = {path for path in here if path.startswith("/workspace/")}
    files = {path for path in shared if isinstance(found[path], File)}
    assert files == {
        f"/workspace/{name}"
        for name in (
            "README.md", "plan/plan.yaml", "requirements.lock", "requirements.txt",
            "save/initial.safetensors", "src/__init__.py", "src/data.py", "src/learner.py",
        )
    }  # fmt: skip
    assert f"{PACKAGES}/kit/__init__.py" in here
    assert f"{PACKAGES}/fedclave/__init__.py" in here
    assert {path for path in here if "/kit/" in path and "pycache" not in path} == {
        f"{PACKAGES}/kit/__init__.py"
    }
    assert not [path for path in here if "patients" in path or path.endswith(".key")]
    assert value["wheels"]["before"]["files"] - value["wheels"]["after"]["files"] == 3
    assert found["/state"] == Folder(mode=0o755, owner=content.USER)
    assert found["/opt/fedclave/bin/python"] == Link(target=f"/usr/bin/python{images.VERSION}")
    told = image.config["config"]
    assert told["User"] == f"{content.USER}:{content.USER}"
    assert told["WorkingDir"] == "/workspace"
    assert told["Entrypoint"][:2] == ["/opt/fedclave/bin/python", "-I"]
    assert "LANG=C.UTF-8" in told["Env"] and "HOME=/state" in told["Env"]


def test_modules_are_compiled_for_where_they_lie(
    capsys: pytest.CaptureFixture[str], workspace: Workspace, base: Path, tmp_path: Path
) -> None:
    value = made(capsys, workspace, base)
    found = oci.files(oci.read(Path(value["archive"]), tmp_path / "into"))
    tag = f"cpython-{images.VERSION.replace('.', '')}"
    for source in (f"/{images.STDLIB}/os.py", f"{PACKAGES}/kit/__init__.py"):
        node, code = found[source], found[bytecode.place("/opt/fedclave/pycache", source, tag)]
        assert isinstance(node, File) and isinstance(code, File)
        assert tree.content(code) == bytecode.compiled(tree.content(node), source)
    assert not [path for path in found if "pycache" in path and "/test/" in path]


def test_two_builds_in_two_folders_are_the_same_image(
    capsys: pytest.CaptureFixture[str], signed: Path, base: Path, tmp_path: Path
) -> None:
    found = []
    for name in ("one", "another folder"):
        copy = Workspace(Path(shutil.copytree(signed, tmp_path / name)))
        os.utime(copy.plan, (1, 1))
        copy.plan.chmod(0o600)
        saved = base if name == "one" else Path(shutil.copytree(base, tmp_path / "base2"))
        found.append(made(capsys, copy, saved))
    first, second = found
    names = ("image", "digest", "id", "base", "files", "bytes")
    assert {name: first[name] for name in names} == {name: second[name] for name in names}
    archives = [Path(value["archive"]).read_bytes() for value in found]
    assert archives[0] == archives[1]


def test_another_date_makes_another_image_and_a_bad_one_is_refused(
    capsys: pytest.CaptureFixture[str], workspace: Workspace, base: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    before = made(capsys, workspace, base)["digest"]
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert made(capsys, workspace, base)["digest"] != before
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    command = ("workspace", "dockerize", "--base-image", str(base), "-C", str(workspace.root))
    code, value = said(capsys, *command)
    assert (code, "SOURCE_DATE_EPOCH" in value["error"]["message"]) == (2, True)


def test_the_bill_of_materials_names_wheels_and_packages(
    capsys: pytest.CaptureFixture[str], workspace: Workspace, base: Path, tmp_path: Path
) -> None:
    value = made(capsys, workspace, base)
    found = oci.files(oci.read(Path(value["archive"]), tmp_path / "into"))
    listed = found["/opt/fedclave/sbom.cdx.json"]
    assert isinstance(listed, File)
    bom = json.loads(tree.content(listed))
    assert (bom["bomFormat"], bom["specVersion"]) == ("CycloneDX", "1.6")
    by = {one["name"]: one for one in bom["components"]}
    assert by["kit"]["purl"] == "pkg:pypi/kit@1.0"
    digest = images.digest((workspace.image / "kit-1.0-py3-none-any.whl").read_bytes())
    assert by["kit"]["hashes"] == [{"alg": "SHA-256", "content": digest}]
    assert by["libc6"]["purl"] == "pkg:deb/debian/libc6@2.36-9%2Bdeb12u14?arch=amd64"
    assert value["base"].startswith("sha256:")


def leaks(name: str, data: bytes) -> Any:
    return pytest.param(name, data, id=name)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        leaks("src/patients.csv", b"1,2"),
        leaks("src/model.pt", b"x"),
        leaks("src/more.pkl", b"x"),
        leaks("src/credentials.json", b"{}"),
        leaks("src/aws.py", b"KEY = 'AKIAABCDEFGHIJKLMNOP'"),
        leaks("src/age.py", b"AGE-SECRET-KEY-1QQQQQQQQQQQQQQQQQQQQQQQQQ"),
    ],
)
def test_secrets_and_data_among_the_code_are_refused_by_name(
    capsys: pytest.CaptureFixture[str], workspace: Workspace, base: Path, name: str, data: bytes
) -> None:
    (workspace.root / name).write_bytes(data)
    assert main.run(["plan", "sign", "-C", str(workspace.root)]) == 0
    command = ("workspace", "dockerize", "--base-image", str(base), "-C", str(workspace.root))
    code, value = said(capsys, *command)
    assert (code, name in value["error"]["message"]) == (2, True)
    assert not list(workspace.image.glob("*.tar"))


def unsigned(workspace: Workspace, base: Path) -> None:
    workspace.contract.unlink()
    workspace.author.unlink()
    (workspace.cert / "author.pub").unlink()


def changed(workspace: Workspace, base: Path) -> None:
    (workspace.src / "learner.py").write_text("x = 1\n")


def linked(workspace: Workspace, base: Path) -> None:
    (workspace.src / "data.py").unlink()
    (workspace.src / "data.py").symlink_to("/etc/passwd")


def without_lock(workspace: Workspace, base: Path) -> None:
    workspace.lock.unlink()
    assert main.run(["plan", "sign", "-C", str(workspace.root)]) == 0


def without_python(workspace: Workspace, base: Path) -> None:
    shutil.rmtree(base)
    images.oci(base, [images.layer({"etc/x": b""})])


def of_another_python(workspace: Workspace, base: Path) -> None:
    shutil.rmtree(base)
    files = {"usr/bin/python3": b"-> x", "usr/lib/python3.5/os.py": b""}
    links = {"usr/bin/python3": "-> python3.5", "usr/bin/python3.5": b"\x7fELF"}
    images.oci(base, [images.layer({**files, **links})])


def damaged_wheel(workspace: Workspace, base: Path) -> None:
    (path,) = workspace.image.glob("kit-*.whl")
    path.write_bytes(path.read_bytes() + b"x")


@pytest.mark.parametrize(
    ("spoil", "code", "words"),
    [
        (unsigned, 2, "not signed"),
        (changed, 3, "src/learner.py is not the file that was signed"),
        (linked, 3, "src/data.py is a link"),
        (without_lock, 2, "requirements.lock is missing"),
        (without_python, 2, "no python3 on its PATH"),
        (of_another_python, 2, "Python 3.5"),
        (lambda workspace, base: shutil.rmtree(base / "blobs"), 3, "cannot be read"),
    ],
    ids=["unsigned", "changed", "linked", "no-lock", "no-python", "other-python", "damaged-base"],
)
def test_what_cannot_be_an_image_is_refused_and_nothing_is_left(
    capsys: pytest.CaptureFixture[str], workspace: Workspace, base: Path, spoil: Any, code: int,
    words: str,
) -> None:  # fmt: skip
    spoil(workspace, base)
    before = set(workspace.image.iterdir())
    command = ("workspace", "dockerize", "--base-image", str(base), "-C", str(workspace.root))
    found, value = said(capsys, *command)
    assert (found, words in value["error"]["message"]) == (code, True), value
    assert set(workspace.image.iterdir()) == before


def test_what_a_full_disk_interrupts_leaves_nothing(
    capsys: pytest.CaptureFixture[str], workspace: Workspace, base: Path
) -> None:
    before = set(workspace.image.iterdir())
    command = ("workspace", "dockerize", "--base-image", str(base), "-C", str(workspace.root))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**18, limits[1]))  # a layer has more
    try:
        found, value = said(capsys, *command)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert found == 2 and "cannot be written (File too large)" in value["error"]["message"], value
    assert set(workspace.image.iterdir()) == before


def test_how_it_is_started_is_said_and_written(
    capsys: pytest.CaptureFixture[str], workspace: Workspace, base: Path
) -> None:
    value = made(capsys, workspace, base)
    assert (
        value["image"] in value["run"]["aggregator"] and "-n NAME" in value["run"]["collaborator"]
    )
    folder = Path(value["deploy"])
    assert folder == workspace.image.absolute() / "deploy/container"
    assert len(list(folder.iterdir())) == 6
    for path in folder.iterdir():
        assert value["image"] in path.read_text() and value["digest"] in path.read_text()
    command = ("workspace", "dockerize", "--base-image", str(base), "-C", str(workspace.root))
    assert main.run([*command]) == 0
    shown = capsys.readouterr().out
    assert all(line.strip() in shown for line in value["run"]["aggregator"].splitlines())


def test_a_folder_that_is_no_workspace_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, value = said(capsys, "workspace", "dockerize", "-C", str(tmp_path))
    assert (code, "is not a workspace" in value["error"]["message"]) == (2, True)


def test_without_a_tool_and_a_base_there_is_a_context_to_build_elsewhere(
    capsys: pytest.CaptureFixture[str], workspace: Workspace
) -> None:
    code, value = said(capsys, "workspace", "dockerize", "-C", str(workspace.root))
    assert code == 0
    folder = Path(value["context"])
    names = ["Containerfile", "fedclave.tar", "libraries.tar", "workspace.tar"]
    assert sorted(path.name for path in folder.iterdir()) == names
    text = (folder / "Containerfile").read_text()
    assert f"FROM docker.io/library/python:{images.VERSION}-slim-bookworm\n" in text
    assert f"USER {content.USER}" in text
    assert shlex.split(value["command"])[:3] == ["docker", "build", "-f"]
    assert shlex.split(value["command"])[-1] == str(workspace.image / "context")
    name = shlex.split(value["command"])[5]
    assert name in value["run"]["aggregator"] and Path(value["deploy"]).is_dir()


ENGINE = """#!/bin/sh
echo "$0 $@" >> "{log}"
case "$1 $2" in
  "image inspect") exit 1;;
  "pull --quiet") [ "$5" = kit/base:1 ] || {{ echo "no such image" >&2; exit 125; }};;
  "save --output") /bin/cp "{saved}" "$3";;
esac
"""


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A docker on PATH that has one image to pull; returns the log of its calls."""
    log, saved = tmp_path / "calls", tmp_path / "saved.tar"
    images.docker(saved, [images.layer(images.ROOT)])
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "docker").write_text(ENGINE.format(log=log, saved=saved))
    (folder / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return log


def test_an_engine_brings_the_base_and_takes_the_image(
    capsys: pytest.CaptureFixture[str], workspace: Workspace, docker: Path
) -> None:
    command = ("workspace", "dockerize", "--base-image", "kit/base:1", "-C", str(workspace.root))
    code, value = said(capsys, *command)
    assert (code, value["engine"], value["base"], value["archive"]) == (
        0, "docker", "kit/base:1", None,
    )  # fmt: skip
    assert not list(workspace.image.glob("*.tar"))
    verbs = [line.split()[1] for line in docker.read_text().splitlines()]
    assert verbs == ["version", "image", "pull", "save", "load"]
    code, value = said(capsys, *command, "--save")
    assert Path(value["archive"]).is_file()


def test_a_base_that_nobody_has_is_refused(
    capsys: pytest.CaptureFixture[str], workspace: Workspace, docker: Path
) -> None:
    for name in ("kit/other:1", "-v", "a b", ""):
        options = ("--base-image", name, "-C", str(workspace.root))
        code, value = said(capsys, "workspace", "dockerize", *options)
        assert code == 2, value
        assert "--base-image" in value["error"]["message"] or "name" in value["error"]["message"]


def test_an_engine_that_does_not_answer_is_passed_over(docker: Path, tmp_path: Path) -> None:
    script = tmp_path / "bin/docker"
    script.write_text("#!/bin/sh\nexit 1\n")
    assert engines.find() is None
    script.chmod(script.stat().st_mode & ~stat.S_IXUSR & ~stat.S_IXGRP & ~stat.S_IXOTH)
    assert engines.find() is None
