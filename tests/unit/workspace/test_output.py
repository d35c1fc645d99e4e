# SPDX-License-Identifier: Apache-2.0
"""What a user asked for appears whole at the path that was named, or the error names that path."""

import errno
import os
from pathlib import Path

import pytest

from fedclave.errors import FedclaveError, Unavailable, UserError
from fedclave.workspace import output


def test_the_file_appears_once_it_is_whole(tmp_path: Path) -> None:
    with output.new_file(tmp_path / "out", 0o600) as path:
        path.write_bytes(b"new")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out").read_bytes() == b"new"
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o600


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), output.new_file(tmp_path / "out"):
        raise ZeroDivisionError
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("out", b"old")]


@pytest.mark.parametrize("place", ["", "nowhere/out", "file/out", "x" * 300, "pipe"])
def test_an_impossible_path_is_the_users_and_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError) as caught, output.new_file(tmp_path / place):
        pass
    assert str((tmp_path / place).name) in str(caught.value)
    assert ".tmp" not in str(caught.value)


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOSPC, Unavailable), (errno.EROFS, UserError), (errno.EACCES, UserError)],
)
def test_full_disks_and_forbidden_folders_are_told_apart(
    tmp_path: Path, number: int, kind: type[FedclaveError]
) -> None:
    target = tmp_path / "out"
    with pytest.raises(kind, match=f"{target} cannot be written"), output.new_file(target) as path:
        raise OSError(number, os.strerror(number), path)
    assert list(tmp_path.iterdir()) == []
