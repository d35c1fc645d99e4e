# SPDX-License-Identifier: Apache-2.0
import zipfile
from pathlib import Path

import pytest
from tests.support import images

from fedclave.errors import Refused
from fedclave.workspace.images import own, tree, wheels

FILES = {
    "kit/__init__.py": b"x = 1\n",
    "kit/data.bin": bytes(100),
    "kit-1.0.data/purelib/more.py": b"y = 2\n",
    "kit-1.0.data/data/lib/libkit.so": b"\x7fELF",
    "kit-1.0.data/scripts/kit": b"#!python\n",
    "kit-1.0.data/headers/kit.h": b"int x;\n",
}


def test_files_lie_where_an_installer_would_put_them_but_for_scripts_and_headers(
    tmp_path: Path,
) -> None:
    wheel = wheels.open_(images.wheel(tmp_path, "kit", FILES))
    found = wheels.files(wheel)
    info = "site-packages/kit-1.0.dist-info"
    assert sorted(found) == [
        "lib/libkit.so",
        f"{info}/METADATA",
        f"{info}/RECORD",
        f"{info}/WHEEL",
        "site-packages/kit/__init__.py",
        "site-packages/kit/data.bin",
        "site-packages/more.py",
    ]
    assert tree.content(found["site-packages/more.py"]) == b"y = 2\n"
    assert (wheel.name, wheel.version, wheels.licence(wheel)) == ("kit", "1.0", "MIT")


@pytest.mark.parametrize(
    ("files", "changed", "words"),
    [
        ({}, {"kit/__init__.py": b"planted"}, "not the file that its RECORD lists"),
        ({}, {"kit/more.py": b"planted"}, "RECORD does not list kit/more.py"),
        ({"../up.py": b"x"}, {}, "leads elsewhere"),
        ({"/etc/up.py": b"x"}, {}, "leads elsewhere"),
        ({"a//b.py": b"x"}, {}, "leads elsewhere"),
        ({"a\\b.py": b"x"}, {}, "leads elsewhere"),
        ({"other-1.0.dist-info/RECORD": b""}, {}, "no RECORD, or two"),
    ],
    ids=["changed", "added", "above", "absolute", "empty-part", "backslash", "two-records"],
)
def test_what_record_does_not_vouch_for_is_refused(
    tmp_path: Path, files: dict[str, bytes], changed: dict[str, bytes], words: str
) -> None:
    wheel = wheels.open_(images.wheel(tmp_path, "kit", {**FILES, **files}, **changed))
    with pytest.raises(Refused, match=words):
        wheels.files(wheel)


def test_what_is_read_is_what_was_verified_whatever_lies_there_by_then(tmp_path: Path) -> None:
    wheel = wheels.open_(images.wheel(tmp_path, "kit", FILES))
    found = wheels.files(wheel)
    wheel.path.unlink()
    images.wheel(tmp_path, "kit", {**FILES, "kit/__init__.py": b"planted"})
    assert tree.content(found["site-packages/kit/__init__.py"]) == b"x = 1\n"


def test_a_name_that_stands_twice_in_a_wheel_is_refused(tmp_path: Path) -> None:
    path = images.wheel(tmp_path, "kit", FILES)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning):
        archive.writestr("kit/__init__.py", b"planted")
    with pytest.raises(Refused, match="twice"):
        wheels.files(wheels.open_(path))


@pytest.mark.parametrize("name", ["kit.whl", "kit-1.0.whl", "kit-1.0-py3-none-any.zip"])
def test_what_has_no_wheels_name_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(Refused, match="not a wheel's name"):
        wheels.open_(tmp_path / name)


def test_a_cut_wheel_is_refused(tmp_path: Path) -> None:
    path = images.wheel(tmp_path, "kit", FILES)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(Refused, match="does not open"):
        wheels.files(wheels.open_(path))


def test_this_fedclave_makes_the_same_wheel_in_two_folders(tmp_path: Path) -> None:
    first, second = own.build(tmp_path / "a"), own.build(tmp_path / "b")
    assert first.sha256 == second.sha256
    found = wheels.files(first)  # each line of its RECORD holds
    assert "site-packages/fedclave/__init__.py" in found
    assert not [path for path in found if path.endswith(".pyc")]
    assert b"Requires-Dist: numpy>=" in tree.content(
        found[f"site-packages/fedclave-{first.version}.dist-info/METADATA"]
    )
