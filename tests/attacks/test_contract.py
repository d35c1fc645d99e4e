# SPDX-License-Identifier: Apache-2.0
"""A contract names every byte that decides a run; a folder that differs in one is refused."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fedclave import canonical
from fedclave.errors import Code, Refused, UserError
from fedclave.trust import contract
from fedclave.trust.contract import Acceptance, Contract, File

PLAN = "ab" * 32
FILES = {
    "plan/plan.yaml": "schema: 1\n",
    "src/learner.py": "x = 1\n",
    "src/deep/er.py": "",
    "requirements.txt": "numpy==2.4.6\n",
    "save/initial.safetensors": "weights",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def closed(folder: Path, **fields: str) -> Contract:
    return contract.close(folder, FILES, **{"federation": "kit", "plan": PLAN, **fields})


def refused(folder: Path, signed: Contract, names: list[str] | None = None) -> str:
    with pytest.raises(Refused) as caught:
        contract.require(folder, names or list(FILES), signed)
    assert caught.value.code is Code.WRONG_CONTRACT
    return caught.value.message


def test_the_same_files_anywhere_make_the_same_contract(folder: Path, tmp_path: Path) -> None:
    signed = closed(folder)
    copy = tmp_path / "a copy"
    for name in reversed(FILES):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text(FILES[name])
    assert closed(copy).id == signed.id
    contract.require(copy, list(FILES), signed)
    assert contract.parse(signed.bytes) == signed


@pytest.mark.parametrize("name", FILES)
def test_one_byte_makes_another_contract_and_the_file_is_named(name: str, folder: Path) -> None:
    signed = closed(folder)
    (folder / name).write_bytes(FILES[name].encode() + b" ")
    assert closed(folder).id != signed.id
    assert refused(folder, signed).startswith(f"{name} is not the file that was signed")


def test_the_plan_and_the_federation_are_of_the_contract(folder: Path) -> None:
    ids = {closed(folder, **f).id for f in ({}, {"plan": "cd" * 32}, {"federation": "other"})}
    assert len(ids) == 3


def test_a_file_too_few_or_too_many_is_named(folder: Path) -> None:
    signed = closed(folder)
    (folder / "src/extra.py").write_text("")
    more = [*FILES, "src/extra.py"]
    assert refused(folder, signed, more).startswith("src/extra.py is here, but not in the contract")
    fewer = [name for name in FILES if name != "src/deep/er.py"]
    assert refused(folder, signed, fewer).startswith("src/deep/er.py is in the contract, but not")


def as_link(path: Path) -> None:
    path.rename(path.with_suffix(".real"))
    path.symlink_to(path.with_suffix(".real"))


def behind_link(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))
    path.parent.symlink_to("elsewhere")


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (as_link, "is a link"),
        (behind_link, "is a link, or lies behind one"),
        (as_folder, "not a regular file"),
        (as_pipe, "not a regular file"),
        (Path.unlink, "cannot be read"),
    ],
)
def test_what_is_no_file_of_the_folder_is_refused(
    how: Callable[[Path], None], words: str, folder: Path
) -> None:
    signed = closed(folder)
    how(folder / "src/learner.py")
    message = refused(folder, signed)
    assert "src/" in message and words in message
    with pytest.raises(UserError, match="src/"):
        closed(folder)


NAMES = [
    "../outside",
    "/etc/passwd",
    "src/../../x",
    "src//x",
    "src/./x",
    "",
    "src/",
    "src\\x",
    "C:x",
    "src/x\0",
    "src/x\n",
    "src/x.",
    "src/x ",
    "src/e\u0301.py",
    "x" * 513,
]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name[:20]))
def test_a_path_that_is_not_plainly_inside_is_no_part_of_a_contract(
    name: str, folder: Path
) -> None:
    with pytest.raises(UserError):
        contract.close(folder, [name], federation="kit", plan=PLAN)
    forged = Contract(
        federation="kit", plan=PLAN, files=(File(path=name, size=0, sha256="0" * 64),)
    )
    with pytest.raises(Refused) as caught:
        contract.parse(forged.bytes)
    assert caught.value.code is Code.MALFORMED


@pytest.mark.parametrize("other", ["src/learner.py", "src/Learner.py", "src/LEARNER.PY"])
def test_a_name_that_stands_twice_is_refused(other: str) -> None:
    files = tuple(File(path=p, size=0, sha256="0" * 64) for p in sorted([other, "src/learner.py"]))
    forged = Contract(federation="kit", plan=PLAN, files=files)
    with pytest.raises(Refused, match="one file on some file systems"):
        contract.parse(forged.bytes)


def fields(**changed: object) -> bytes:
    good = {
        "v": 1,
        "federation": "kit",
        "plan": PLAN,
        "files": [{"path": "a", "size": 1, "sha256": "0" * 64}],
    }
    return canonical.encode(good | changed)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[1]",
        b'{"v": 1}',
        fields(extra=1),
        fields(v=2),
        fields(v=True),
        fields(v=1.0),
        fields(plan="AB" * 32),
        fields(plan=PLAN[:-1]),
        fields(federation=""),
        fields(federation=3),
        fields(files={}),
        fields(files=[1]),
        fields(files=[{"path": "a"}]),
        fields(files=[{"path": "a", "size": -1, "sha256": "0" * 64}]),
        fields(files=[{"path": "a", "size": True, "sha256": "0" * 64}]),
        fields(files=[{"path": "a", "size": 1, "sha256": "x"}]),
        fields(files=[{"path": n, "size": 1, "sha256": "0" * 64} for n in "ba"]),
        fields(files=[{"path": f"f{n:05}", "size": 1, "sha256": "0" * 64} for n in range(4097)]),
        fields() + b" ",
        b"[" * 100_000,
    ],
    ids=lambda data: repr(data[:60]),
)
def test_what_is_no_contract_is_refused(data: bytes) -> None:
    with pytest.raises(Refused) as caught:
        contract.parse(data)
    assert caught.value.code is Code.MALFORMED


def test_an_acceptance_is_of_one_contract_one_federation_and_one_party(folder: Path) -> None:
    given = Acceptance(contract=closed(folder).id, federation="kit", party="anna")
    assert contract.parse_acceptance(given.bytes) == given
    for change in ({"party": "bernd"}, {"federation": "x"}, {"contract": "0" * 64}):
        assert dataclasses.replace(given, **change).bytes != given.bytes
    with pytest.raises(Refused):
        contract.parse_acceptance(closed(folder).bytes)
