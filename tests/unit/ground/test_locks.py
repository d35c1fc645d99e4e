# SPDX-License-Identifier: Apache-2.0
"""A lock has one holder, in this process and among others; Gramine's missing calls are not used."""

import errno
import fcntl
import gc
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fedclave import locks
from fedclave.engine import store
from fedclave.errors import Unavailable
from fedclave.trust import files

HOLD = "import sys; from pathlib import Path; from fedclave import locks\n"
TRY = HOLD + (
    "try:\n    locks.hold(Path(sys.argv[1]))\nexcept BlockingIOError:\n    print('busy')\n"
    "else:\n    print('free')\n"
)
KEEP = HOLD + "held = locks.hold(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()\n"
WAITS_S = 20.0


@pytest.fixture(autouse=True)
def no_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in Gramine: the call is not there."""

    def missing(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", missing)


def seen_by_another(path: Path) -> str:
    command = [sys.executable, "-c", TRY, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@contextmanager
def held_by_another(path: Path) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-c", KEEP, str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_held_file_is_busy_for_another_process_until_it_is_closed(tmp_path: Path) -> None:
    held = locks.hold(tmp_path / "lock")
    assert seen_by_another(tmp_path / "lock") == "busy"
    held.close()
    held.close()
    assert seen_by_another(tmp_path / "lock") == "free"


def test_a_refused_second_holder_does_not_end_the_first_ones_lock(tmp_path: Path) -> None:
    # POSIX: closing any descriptor of a file ends all of the process's locks on it.
    path = tmp_path / "lock"
    with locks.hold(path):
        for _ in range(2):
            with pytest.raises(BlockingIOError):
                locks.hold(tmp_path / "." / "lock")
        (tmp_path / "link").symlink_to(path)
        with pytest.raises(BlockingIOError):
            locks.hold(tmp_path / "link")
        assert seen_by_another(path) == "busy"


def test_a_file_that_another_process_holds_is_refused_and_later_free(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with held_by_another(path), pytest.raises(BlockingIOError):
        locks.hold(path)
    locks.hold(path).close()


def test_kill_9_of_the_holder_ends_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with held_by_another(path) as process:
        process.kill()
        process.wait()
        locks.hold(path).close()


def test_a_holder_that_nobody_has_any_more_ends_its_lock(tmp_path: Path) -> None:
    held = locks.hold(tmp_path / "lock")
    with pytest.warns(ResourceWarning):
        del held
        gc.collect()
    locks.hold(tmp_path / "lock").close()


def test_threads_that_want_the_same_file_wait_for_each_other(tmp_path: Path) -> None:
    inside, most = 0, 0
    counting = threading.Lock()

    def work() -> None:
        nonlocal inside, most
        for _ in range(50):
            with locks.held(tmp_path / "lock"):
                with counting:
                    inside += 1
                    most = max(most, inside)
                os.sched_yield()
                with counting:
                    inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAITS_S)
    assert (inside, most) == (0, 1)


def test_who_waits_gets_the_file_when_another_process_ends(tmp_path: Path) -> None:
    path, got = tmp_path / "lock", threading.Event()

    def wait() -> None:
        with locks.held(path):
            got.set()

    with held_by_another(path) as process:
        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        assert not got.wait(0.2)
        process.kill()
        assert got.wait(WAITS_S)
        thread.join(WAITS_S)


def test_a_circle_that_only_the_kernel_sees_is_waited_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, answers = fcntl.lockf, [errno.EDEADLK, errno.EDEADLK]

    def lockf(file: locks.Held, how: int) -> None:
        if answers:
            raise OSError(answers.pop(), "Resource deadlock avoided")
        real(file, how)

    monkeypatch.setattr(fcntl, "lockf", lockf)
    with locks.held(tmp_path / "lock"):
        assert seen_by_another(tmp_path / "lock") == "busy"
    assert answers == []


def test_after_a_failure_the_file_can_be_had_again(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "lock"
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            locks.hold(path)
    path.parent.mkdir()
    locks.hold(path).close()
    with pytest.raises(ValueError, match="inside"), locks.held(path):
        raise ValueError("inside")
    locks.hold(path).close()


def test_a_file_system_without_locks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", none)
    with pytest.raises(Unavailable, match="cannot be locked"):
        store.lock(tmp_path / "lock")
    with pytest.raises(Unavailable, match="cannot be locked"), files.locked(tmp_path / "lock"):
        pass
