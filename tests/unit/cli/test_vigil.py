# SPDX-License-Identifier: Apache-2.0
"""What changed is told by its content: in an enclave files have no times, and keep their inode."""

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support import ca
from tests.support.ca import NOW
from tests.unit.ground.test_locks import seen_by_another

from fedclave import locks
from fedclave.cli import vigil
from fedclave.errors import Refused
from fedclave.trust import crl
from fedclave.workspace.layout import Workspace
from fedclave.workspace.members import LiveMembers

Look = Callable[[], bool]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace(tmp_path)
    for path in watched(made):
        path.parent.mkdir(parents=True, exist_ok=True)
        put(path, b"first")
    return made


def watched(workspace: Workspace) -> list[Path]:
    return [
        workspace.attestation,
        workspace.attestation_signatures,
        workspace.cert / "crl.pem",
        workspace.cert / "collateral/sgx-00906ea10000-processor-1f.json",
    ]


def put(path: Path, content: bytes) -> None:
    """Write over a file as Gramine shows it: the same inode, and no time."""
    path.write_bytes(content)
    os.utime(path, (0, 0))


@pytest.fixture
def look(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Iterator[Look]:
    """The next look's answer; the first has been had."""
    monkeypatch.setattr(vigil, "LOOK_S", 0.0)
    looks = vigil.looks(workspace)

    async def following() -> bool:
        return await anext(looks)

    with asyncio.Runner() as runner:
        assert runner.run(following())
        yield lambda: runner.run(following())


@pytest.mark.parametrize("at", range(4), ids=["policy", "signatures", "CRL", "collateral"])
def test_a_file_of_the_same_size_time_and_inode_is_noticed_by_its_content(
    workspace: Workspace, look: Look, at: int
) -> None:
    path = watched(workspace)[at]
    before = path.stat()
    assert not look()
    put(path, b"other")
    after = path.stat()
    assert (before.st_ino, before.st_size, 0) == (after.st_ino, after.st_size, after.st_mtime_ns)
    assert look()
    assert not look()


def test_a_file_that_comes_or_goes_is_noticed(workspace: Workspace, look: Look) -> None:
    path = workspace.cert / "collateral/tdx-00906ea10000-platform-1f.json"
    put(path, b"new")
    assert look()
    assert not look()
    path.unlink()
    assert look()


def test_a_pipe_and_a_folder_hold_nobody_up(workspace: Workspace, look: Look) -> None:
    os.mkfifo(workspace.cert / "collateral/sgx-pipe-of-host-1f.json")
    (workspace.cert / "collateral/sgx-folder-of-host-1f.json").mkdir()
    assert not look()


def test_a_look_lets_go_of_no_lock(workspace: Workspace, look: Look) -> None:
    # POSIX: to close any descriptor of a locked file is to give up the lock.
    lock = workspace.cert / "collateral/.lock"
    with locks.held(lock):
        look()
        assert seen_by_another(lock) == "busy"


def test_a_revocation_in_a_file_without_a_time_counts(tmp_path: Path) -> None:
    authority = ca.create(tmp_path)
    leaf = ca.certify(authority, name="anna").leaf
    path = tmp_path / "cert/crl.pem"

    def revoked() -> bool:
        issuer = authority.anchors.issuing
        return crl.is_revoked(leaf.serial_number, path=path, issuer=issuer, now=NOW)

    put(path, path.read_bytes())
    assert not revoked()
    authority.revoke("anna", NOW)
    put(path, path.read_bytes())
    assert revoked()
    put(path, b"x" * path.stat().st_size)
    with pytest.raises(Refused, match="damaged"):
        revoked()


def test_a_member_taken_off_a_list_without_a_time_is_out(workspace: Workspace) -> None:
    put(workspace.members, b"collaborators: [anna]\n")
    live = LiveMembers(workspace)
    assert live() == {"anna"}
    put(workspace.members, b"collaborators: [otto]\n")
    assert live() == {"otto"}
