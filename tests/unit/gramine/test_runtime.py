# SPDX-License-Identifier: Apache-2.0
"""The Gramine that a user brings: which files are taken, and what is refused."""

from pathlib import Path

import pytest
from tests.support import gramines

from fedclave.errors import Refused, UserError
from fedclave.workspace.gramine import runtime
from fedclave.workspace.images import tree


def read(given: Path | None, scratch: Path) -> runtime.Runtime:
    with runtime.opened(given, scratch) as found:
        for file in found.files.values():
            tree.content(file)  # they can be read while it is open
        return found


@pytest.mark.parametrize("compression", ["xz", "gz", ""])
def test_a_package_and_the_folder_it_unpacks_to_are_the_same(
    tmp_path: Path, compression: str
) -> None:
    package = gramines.package(tmp_path / "gramine.deb", compression=compression)
    folder = gramines.folder(tmp_path / "unpacked")
    with runtime.opened(package, tmp_path) as packed, runtime.opened(folder, tmp_path) as laid:
        assert packed.release == laid.release == "1.9"
        assert {path: tree.sha256(file) for path, file in packed.files.items()} == {
            path: tree.sha256(file) for path, file in laid.files.items()
        }
    assert not [path for path in tmp_path.iterdir() if path.is_dir() and path != folder]


def test_the_programs_can_be_run_and_only_the_c_library_is_measured(tmp_path: Path) -> None:
    found = read(gramines.folder(tmp_path), tmp_path)
    runs = {path for path, file in found.files.items() if file.mode & 0o111}
    assert runs == {"/opt/gramine/sgx/loader", "/opt/gramine/direct/loader"}
    assert "libc.so.6" in found.libraries
    assert set(found.measured) == {f"/opt/gramine/runtime/glibc/{name}" for name in found.libraries}


def test_nothing_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no .*gone.*--gramine gramine_1\.9"):
        read(tmp_path / "gone", tmp_path)
    with pytest.raises(UserError, match="has no Gramine"):
        read(tmp_path, tmp_path)
    text = tmp_path / "text"
    text.write_text("x")
    with pytest.raises(UserError, match="neither a folder nor a package"):
        read(text, tmp_path)


def test_another_release_is_refused_by_its_number(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is 1\.8, whose layout is not known here\. Known: 1\.9"):
        read(gramines.folder(tmp_path, "1.8"), tmp_path)
    (tmp_path / gramines.ABOUT).unlink()
    with pytest.raises(UserError, match="does not say which release"):
        read(tmp_path, tmp_path)


def test_a_missing_or_foreign_file_is_refused_by_name(tmp_path: Path) -> None:
    gramines.folder(tmp_path)
    libos = tmp_path / gramines.FOLDER / "libsysdb.so"
    libos.write_text("#!/bin/sh")
    with pytest.raises(UserError, match=r"libsysdb\.so is no ELF file"):
        read(tmp_path, tmp_path)
    libos.unlink()
    with pytest.raises(UserError, match=r"has no .*libsysdb\.so"):
        read(tmp_path, tmp_path)
    libos.symlink_to("/usr/bin/env")
    with pytest.raises(UserError, match="leads out of"):
        read(tmp_path, tmp_path)


def test_a_package_that_leads_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    package = gramines.package(tmp_path / "evil.deb", **{"../outside": b"x"})
    with pytest.raises(Refused, match="names something outside"):
        read(package, tmp_path)
    assert not (tmp_path / "outside").exists()


def test_a_package_that_python_does_not_read_says_how_to_unpack_it(tmp_path: Path) -> None:
    package = gramines.package(tmp_path / "g.deb", compression="zst")
    with pytest.raises(UserError, match="dpkg-deb -x"):
        read(package, tmp_path)


@pytest.mark.parametrize("cut", [9, 30, 80, 400, -1])
def test_a_damaged_package_is_refused(tmp_path: Path, cut: int) -> None:
    package = gramines.package(tmp_path / "g.deb")
    package.write_bytes(package.read_bytes()[:cut])
    with pytest.raises(Refused, match="is not a sound package"):
        read(package, tmp_path)
