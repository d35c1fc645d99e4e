# SPDX-License-Identifier: Apache-2.0
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fedclave.errors import UserError
from fedclave.trust import measure
from fedclave.trust.measure import FROM_SOURCE, Measurement

CONTRACT = "ab" * 32


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "src"
    (root / "nets").mkdir(parents=True)
    (root / "learner.py").write_text("RATE = 0.1\n")
    (root / "nets" / "small.py").write_text("LAYERS = 2\n")
    (root / "empty.py").write_bytes(b"")
    return root


def of(tree: Path, contract: str = CONTRACT) -> Measurement:
    return measure.measure({"src": tree}, contract)


def test_a_copy_elsewhere_has_the_same_measurement(tree: Path, tmp_path: Path) -> None:
    shutil.copytree(tree, tmp_path / "copy")
    assert of(tmp_path / "copy").digest == of(tree).digest


def test_it_is_the_sha256_of_paths_and_digests_in_canonical_form(tree: Path) -> None:
    """Written out: who changes the form of the measurement changes every policy in use."""
    digests = [hashlib.sha256(text).hexdigest() for text in (b"", b"RATE = 0.1\n", b"LAYERS = 2\n")]
    written = (
        f'fedclave/measurement\0{{"contract":"{CONTRACT}","files":{{"src/empty.py":"{digests[0]}",'
        f'"src/learner.py":"{digests[1]}","src/nets/small.py":"{digests[2]}"}}}}'
    )
    assert of(tree).digest == hashlib.sha256(written.encode()).digest()


def swap(tree: Path) -> None:
    (tree / "learner.py").rename(tree / "other")
    (tree / "nets" / "small.py").rename(tree / "learner.py")
    (tree / "other").rename(tree / "nets" / "small.py")


CHANGES: dict[str, Callable[[Path], object]] = {
    "a changed byte": lambda tree: (tree / "learner.py").write_text("RATE = 0.2\n"),
    "an added byte": lambda tree: (tree / "empty.py").write_bytes(b"\n"),
    "an added file": lambda tree: (tree / "evil.py").write_bytes(b""),
    "an added library": lambda tree: (tree / "learner.so").write_bytes(b"\x7fELF"),
    "an added compiled file": lambda tree: (tree / "learner.pyc").write_bytes(b"\0"),
    "an added hidden file": lambda tree: (tree / ".hidden").write_bytes(b""),
    "a removed file": lambda tree: (tree / "empty.py").unlink(),
    "a renamed file": lambda tree: (tree / "learner.py").rename(tree / "Learner.py"),
    "a moved file": lambda tree: (tree / "learner.py").rename(tree / "nets" / "learner.py"),
    "two files that change places": swap,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_it_changes_with_the_code(tree: Path, change: Callable[[Path], object]) -> None:
    before = of(tree)
    change(tree)
    assert of(tree).digest != before.digest
    assert before.differences(of(tree))


def test_it_changes_with_the_contract_and_with_the_name_of_the_tree(tree: Path) -> None:
    others = [of(tree, "cd" * 32), measure.measure({"fedclave": tree}, CONTRACT)]
    assert of(tree).digest not in {other.digest for other in others}
    assert of(tree).differences(others[0]) == ("the contract is another one",)


def test_the_differences_name_each_file(tree: Path) -> None:
    before = of(tree)
    (tree / "learner.py").write_text("RATE = 9\n")
    (tree / "empty.py").rename(tree / "full.py")
    assert before.differences(of(tree)) == (
        "src/empty.py is missing",
        "src/full.py is added",
        "src/learner.py is changed",
    )
    assert before.differences(before) == ()


def test_a_files_place_and_content_do_not_run_into_each_other(tmp_path: Path) -> None:
    for name, path in (("one", "a/b.py"), ("two", "a_b.py"), ("three", "ab.py")):
        (tmp_path / name / path).parent.mkdir(parents=True)
        (tmp_path / name / path).write_bytes(b"")
    assert len({of(tmp_path / name).digest for name in ("one", "two", "three")}) == 3


def test_compiled_files_are_left_out(tree: Path) -> None:
    before = of(tree).digest
    (tree / "__pycache__").mkdir()
    (tree / "__pycache__" / "learner.cpython-311.pyc").write_bytes(b"\0")
    (tree / "__pycache__" / "learner.cpython-311.pyc.140091").write_bytes(b"")
    assert of(tree).digest == before


@pytest.mark.parametrize("name", ["evil.py", "evil.so", "__init__.py", "pyc", ".pyc"])
def test_nothing_hides_among_compiled_files(tree: Path, name: str) -> None:
    (tree / "__pycache__").mkdir()
    (tree / "__pycache__" / name).write_bytes(b"")
    with pytest.raises(UserError, match="among compiled files"):
        of(tree)


def test_a_folder_among_compiled_files_is_refused(tree: Path) -> None:
    (tree / "__pycache__" / "evil.pyc").mkdir(parents=True)
    with pytest.raises(UserError, match="among compiled files"):
        of(tree)


@pytest.mark.parametrize("target", ["learner.py", "nets", "nothing"])
def test_a_link_is_refused(tree: Path, target: str) -> None:
    (tree / "link.py").symlink_to(tree / target)
    with pytest.raises(UserError, match=r"link\.py is neither a file nor a folder"):
        of(tree)


def test_a_linked_folder_of_compiled_files_is_refused(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tree / "__pycache__").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="neither a file nor a folder"):
        of(tree)


def test_a_linked_root_is_refused(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tree)
    with pytest.raises(UserError, match="is a link"):
        of(tmp_path / "link")


def test_a_pipe_is_refused_and_holds_nobody_up(tree: Path) -> None:
    os.mkfifo(tree / "pipe.py")
    with pytest.raises(UserError, match="neither a file nor a folder"):
        of(tree)


def test_a_file_that_cannot_be_read_is_refused(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really = os.open

    def denied(path: Path, flags: int) -> int:
        if Path(path).name == "empty.py":
            raise PermissionError(13, "Permission denied")
        return really(path, flags)

    monkeypatch.setattr(os, "open", denied)  # for root no mode forbids anything
    with pytest.raises(UserError, match=r"empty\.py cannot be measured \(Permission denied\)"):
        of(tree)


def test_a_missing_tree_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be measured"):
        of(tmp_path / "nothing")


@pytest.mark.parametrize("name", [b"evil\xff.py", "evil\u202eyp.".encode(), b"evil\n.py"])
def test_a_name_that_cannot_be_shown_is_refused(tree: Path, name: bytes) -> None:
    Path(os.fsdecode(os.fsencode(tree) + b"/" + name)).write_bytes(b"")
    with pytest.raises(UserError, match="its name cannot be shown"):
        of(tree)


def test_a_file_that_changes_meanwhile_is_refused(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = measure.hashlib.file_digest

    def slow(file: object, kind: str) -> object:
        (tree / "learner.py").write_text("RATE = 0.1  # more\n")
        return really(file, kind)  # type: ignore[arg-type]

    monkeypatch.setattr(measure.hashlib, "file_digest", slow)
    with pytest.raises(UserError, match=r"learner\.py changed while"):
        of(tree)


@pytest.mark.parametrize("contract", ["", "ab" * 31, "AB" * 32, "ab" * 32 + "\n"])
def test_something_else_than_a_contract_id_is_refused(tree: Path, contract: str) -> None:
    with pytest.raises(UserError, match="is not a contract id"):
        of(tree, contract)


def test_the_installed_package_is_measured_with_the_workspaces_code(tree: Path) -> None:
    measured = measure.measure_code(tree, CONTRACT)
    assert {"fedclave/trust/measure.py", "fedclave/py.typed", "src/learner.py"} <= set(
        measured.files
    )
    assert len(measured.digest) == 32


def run(folder: Path, *options: str) -> str:
    command = [sys.executable, *options, "-c", "import learner; print(learner.RATE)"]
    done = subprocess.run(
        command, cwd=folder, env={"PYTHONPATH": "."}, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_from_source_no_planted_compiled_file_runs(tree: Path) -> None:
    """A compiled file of other code, under the time and size of the source, as an operator may."""
    source = tree / "learner.py"
    good = source.read_text()
    source.write_text("RATE = 6.6\n"[: len(good)])
    when = source.stat()
    assert run(tree) == "6.6"
    source.write_text(good)
    os.utime(source, ns=(when.st_atime_ns, when.st_mtime_ns))
    assert run(tree) == "6.6"  # the source says 0.1
    assert run(tree, *FROM_SOURCE) == "0.1"


def test_a_process_knows_how_it_was_started() -> None:
    check = "from fedclave.trust import measure; measure.check_interpreter()"
    subprocess.run([sys.executable, *FROM_SOURCE, "-c", check], check=True)
    plain = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert plain.returncode
    assert "python -B -X pycache_prefix=/dev/null" in plain.stderr
