# SPDX-License-Identifier: Apache-2.0
"""A secret's file is in memory: by memfd_create, or in an enclave, which has none, in its tmpfs."""

import errno
import os
import tempfile
from pathlib import Path

import pytest

from fedclave.cli.releasing import in_memory
from fedclave.errors import Unavailable


@pytest.fixture
def gramine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Take away what Gramine has not; returns the folder for temporary files."""

    def missing(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(os, "memfd_create", missing)
    monkeypatch.setattr(os, "symlink", missing)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def used(*, inside: bool) -> bytes:
    with in_memory("anna.npz", inside=inside) as (file, path):
        assert path.name == "anna.npz"
        file.write(b"secret")
        file.flush()
        return path.read_bytes()


@pytest.mark.parametrize("inside", [False, True])
def test_where_there_is_memfd_nothing_lies_in_a_folder(
    inside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with in_memory("anna.npz", inside=inside) as (file, path):
        file.write(b"secret")
        file.flush()
        assert path.read_bytes() == b"secret"
        assert str(path.readlink()).startswith("/proc/self/fd/")
    assert list(tmp_path.iterdir()) == []


def test_inside_it_lies_in_the_tmpfs_and_is_gone_afterwards(gramine: Path) -> None:
    assert used(inside=True) == b"secret"
    assert list(gramine.iterdir()) == []


def test_outside_it_is_never_put_on_a_disk(gramine: Path) -> None:
    with pytest.raises(Unavailable, match="must not lie on a disk"):
        used(inside=False)
    assert list(gramine.iterdir()) == []


def test_another_failure_puts_it_nowhere_inside_either(
    gramine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(os, "memfd_create", full)
    with pytest.raises(Unavailable, match="Cannot allocate memory"):
        used(inside=True)
    assert list(gramine.iterdir()) == []
