# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
from tests.support import images

from fedclave.errors import UserError
from fedclave.workspace.images import lock, own
from fedclave.workspace.images.lock import Lock, Pin

A, B = "a" * 64, "b" * 64
GOOD = Lock(
    python="3.11",
    pins=(
        Pin(name="numpy", version="2.4.6", sha256=frozenset([A, B])),
        Pin(name="ruamel-yaml", version="1!0.18.6+local", sha256=frozenset([B])),
    ),
    indexes=("--index-url https://example.org/simple", "--extra-index-url https://example.org/2"),
)


def test_a_lock_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "requirements.lock"
    path.write_text(lock.text_of(GOOD))
    assert lock.read(path) == GOOD


def test_names_are_normalised_and_comments_left_out(tmp_path: Path) -> None:
    path = tmp_path / "requirements.lock"
    path.write_text(
        f"# python 3.11\n\n# a comment\nRuamel_YAML[jinja2]==1.0 --hash=sha256:{A} # why\n"
    )
    assert lock.read(path).pins == (Pin(name="ruamel-yaml", version="1.0", sha256=frozenset([A])),)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("numpy==1.0\n", ":1: the first line"),
        ("# python 3.11\nnumpy==1.0\n", ":2: numpy has no hash"),
        (f"# python 3.11\nnumpy>=1.0 --hash=sha256:{A}\n", ":2: 'numpy>=1.0"),
        (f"# python 3.11\nnumpy==1.0 --hash=md5:{A}\n", ":2: 'numpy==1.0 --hash=md5"),
        (f"# python 3.11\nnumpy==1.0 --hash=sha256:{A[1:]}\n", ":2: 'numpy==1.0 --hash"),
        ("# python 3.11\n-r other.txt\n", ":2: '-r other.txt'"),
        ("# python 3.11\n--find-links https://example.org\n", ":2: '--find-links"),
        (f"# python 3.11\nnumpy @ file:///x.whl --hash=sha256:{A}\n", ":2: 'numpy @"),
        (
            f"# python 3.11\nx==1 --hash=sha256:{A}\nX==2 --hash=sha256:{A}\n",
            "x stands in it twice",
        ),
    ],
    ids=["no-python", "no-hash", "range", "md5", "short", "include", "option", "address", "twice"],
)
def test_what_does_not_pin_is_refused_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "requirements.lock"
    path.write_text(text)
    with pytest.raises(UserError, match=words) as refused:
        lock.read(path)
    assert "fx workspace lock" in str(refused.value)


def test_a_lock_that_names_an_index_of_one_machine_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "requirements.lock"
    path.write_text("# python 3.11\n--extra-index-url file:///opt/simple\n")
    with pytest.raises(UserError, match=r"requirements\.lock:2: --extra-index-url"):
        lock.read(path)


def test_without_a_lock_the_next_step_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"requirements without hashes.*fx workspace lock"):
        lock.read(tmp_path / "requirements.lock")


def test_wheels_that_are_here_are_gathered_without_asking_anybody(tmp_path: Path) -> None:
    path = images.wheel(tmp_path, "kit", {"kit.py": b""})
    mine = own.build(tmp_path)
    pins = tuple(
        Pin(name=name, version="1.0", sha256=frozenset([digest]))
        for name, digest in (("kit", images.digest(path.read_bytes())), (own.NAME, mine.sha256))
    )
    found = lock.gather(Lock(python="3.11", pins=pins), tmp_path, tmp_path / "requirements.lock")
    assert [wheel.path.name for wheel in found] == [path.name, mine.path.name]


def test_another_fedclave_than_the_locked_one_is_refused(tmp_path: Path) -> None:
    pins = (Pin(name=own.NAME, version="0.1.0", sha256=frozenset([A])),)
    with pytest.raises(UserError, match="another fedclave"):
        lock.gather(Lock(python="3.11", pins=pins), tmp_path, tmp_path / "requirements.lock")


@pytest.mark.parametrize("line", ["fedclave==1.0", "fedclave @ https://example.org/x.whl"])
def test_requirements_that_name_another_fedclave_are_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "requirements.txt"
    path.write_text(f"numpy\n{line}\n")
    with pytest.raises(UserError, match=r"requirements\.txt:2"):
        lock.make(path, "3.11", tmp_path / "image")
