# SPDX-License-Identifier: Apache-2.0
"""The log on disk: what was acknowledged stays, whatever kills its writer at whatever byte."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedclave.errors import Bug, Code, Refused, Unavailable, UserError
from fedclave.trust import checkpoint, log, log_files, merkle
from fedclave.trust.log import Log
from fedclave.trust.log_files import Reader

KEY = Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32)
PUBLIC = KEY.public_key()
ORIGIN = "example.org/digits"


def opened(folder: Path) -> Log:
    return Log(folder, KEY, ORIGIN)


def entry(number: int) -> bytes:
    return b"entry %d " % number + bytes(number % 7)


def filled(folder: Path, size: int) -> None:
    with opened(folder) as kept:
        kept.extend(entry(number) for number in range(size))


def contents(folder: Path) -> list[bytes]:
    with opened(folder) as kept:
        found = list(kept.entries(0, kept.size))
    with Reader(folder) as reader:
        assert reader.verify(PUBLIC).size == len(found)
    return found


def verified(folder: Path) -> None:
    with Reader(folder) as reader:
        reader.verify(PUBLIC)


def all_read(folder: Path) -> None:
    with Reader(folder) as reader:
        for first in range(reader.claimed.size):
            list(reader.entries(first))


def reopened(folder: Path) -> None:
    opened(folder).close()


def refused(call: Callable[[Path], None], folder: Path) -> str | None:
    """Why a damaged log is refused, or None."""
    try:
        call(folder)
    except Refused as error:
        assert error.code is Code.LOG_PROOF
        return error.message
    return None


def tree_is_damaged(folder: Path) -> list[str]:
    """What may be said of a changed byte about entry 4."""
    places = [f"it differs from the entries at entry {index}" for index in (3, 4, 5)]
    return [log_files.damaged(folder / "tree", place).message for place in places]


def test_what_is_appended_is_read_again_in_order(tmp_path: Path) -> None:
    with opened(tmp_path) as kept:
        assert [kept.append(entry(number)) for number in range(20)] == list(range(20))
        assert kept.extend([b"", b"x"]) == range(20, 22)
        assert list(kept.entries(18, 22)) == [entry(18), entry(19), b"", b"x"]
        assert kept.extend([]) == range(22, 22)
    assert contents(tmp_path) == [*(entry(number) for number in range(20)), b"", b"x"]


def test_a_head_is_signed_over_all_entries_and_proofs_lead_to_it(tmp_path: Path) -> None:
    with opened(tmp_path) as kept:
        kept.extend(entry(number) for number in range(11))
        old = checkpoint.verified(kept.checkpoint(), ORIGIN, PUBLIC)
        kept.extend(entry(number) for number in range(11, 29))
        new = checkpoint.verified(kept.checkpoint(), ORIGIN, PUBLIC)
        for index in range(29):
            leaf, path = merkle.leaf_hash(entry(index)), kept.inclusion(index, 29)
            merkle.check_inclusion(leaf, index, path, size=29, root=new.root)
        proof = kept.consistency(11, 29)
    assert (old.size, new.size) == (11, 29)
    merkle.check_consistency((11, old.root), (29, new.root), proof)


def test_a_new_log_has_the_head_of_the_empty_one(tmp_path: Path) -> None:
    with opened(tmp_path / "new"):
        pass
    with Reader(tmp_path / "new") as reader:
        assert reader.verify(PUBLIC) == checkpoint.Head(origin=ORIGIN, size=0, root=merkle.EMPTY)
        assert list(reader.entries()) == []


def test_one_process_writes_at_a_time_and_the_next_one_after_it(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(Unavailable, match="another process writes this log"):
        opened(tmp_path)
    with opened(tmp_path):
        pass


def test_a_log_that_could_not_be_opened_leaves_no_lock(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    head = (tmp_path / "checkpoint").read_bytes()
    (tmp_path / "checkpoint").write_bytes(b"no head")
    with pytest.raises(Exception, match="signed head"):
        opened(tmp_path)
    (tmp_path / "checkpoint").write_bytes(head)
    assert len(contents(tmp_path)) == 3


def test_a_reader_sees_the_newest_head_while_another_process_writes(tmp_path: Path) -> None:
    with opened(tmp_path) as kept:
        kept.append(b"one")
        kept.checkpoint()
        kept.append(b"two")
        with Reader(tmp_path) as reader:
            assert list(reader.entries()) == [b"one"]
            assert reader.verify(PUBLIC).size == 1


def test_a_head_is_signed_now_and_then_so_that_opening_stays_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "STRIDE", 8)
    with opened(tmp_path) as kept:
        for number in range(20):
            kept.append(entry(number))
        with Reader(tmp_path) as reader:
            assert reader.claimed.size == 16
    read: list[int] = []
    frames = log_files.LogFiles.frames
    monkeypatch.setattr(
        log_files.LogFiles,
        "frames",
        lambda self, at: (read.append(at) or frame for frame in frames(self, at)),
    )
    with opened(tmp_path):
        assert len(read) == 1  # of twenty: the last one under the head


def test_a_torn_last_entry_is_cut_off_wherever_it_was_torn(tmp_path: Path) -> None:
    filled(tmp_path / "log", 5)
    before = {name: (tmp_path / "log" / name).read_bytes() for name in ("entries", "tree")}
    filled_head = (tmp_path / "log/checkpoint").read_bytes()
    with opened(tmp_path / "log") as kept:
        kept.append(b"the last one")
        after = (tmp_path / "log/entries").read_bytes()
    for cut in range(len(before["entries"]), len(after)):
        folder = tmp_path / f"cut{cut}"
        folder.mkdir()
        (folder / "checkpoint").write_bytes(filled_head)
        (folder / "tree").write_bytes(before["tree"])
        (folder / "entries").write_bytes(after[:cut])
        assert contents(folder) == [entry(number) for number in range(5)]
        assert (folder / "entries").read_bytes() == before["entries"]
        with opened(folder) as kept:
            assert kept.append(b"goes on") == 5


def test_an_entry_is_kept_wherever_the_tree_was_torn(tmp_path: Path) -> None:
    """The entries are durable before the tree is touched; what lacks of the tree is derived."""
    filled(tmp_path / "log", 5)
    head = (tmp_path / "log/checkpoint").read_bytes()
    filled_tree = (tmp_path / "log/tree").stat().st_size
    with opened(tmp_path / "log") as kept:
        kept.extend([b"six", b"seven", b"eight"])
    tree = (tmp_path / "log/tree").read_bytes()
    for cut in range(filled_tree, len(tree) + 1):
        for rest in (b"", bytes(len(tree) - cut)):  # a system that crashed may leave zeros
            folder = tmp_path / "torn"
            shutil.copytree(tmp_path / "log", folder)
            (folder / "checkpoint").write_bytes(head)
            (folder / "tree").write_bytes(tree[:cut] + rest)
            assert contents(folder)[5:] == [b"six", b"seven", b"eight"]
            assert (folder / "tree").read_bytes() == tree
            shutil.rmtree(folder)


@pytest.mark.parametrize("loss", ["gone", "empty", "flipped"])
def test_the_tree_is_derived_again_if_it_is_not_that_of_the_head(tmp_path: Path, loss: str) -> None:
    filled(tmp_path, 9)
    tree = (tmp_path / "tree").read_bytes()
    if loss == "gone":
        (tmp_path / "tree").unlink()
    elif loss == "empty":
        (tmp_path / "tree").write_bytes(b"")
    else:
        (tmp_path / "tree").write_bytes(tree[:-1] + bytes([tree[-1] ^ 1]))
    assert contents(tmp_path) == [entry(number) for number in range(9)]
    assert (tmp_path / "tree").read_bytes() == tree


@pytest.mark.parametrize("call", ["pwrite", "ftruncate", "fsync"])
def test_being_put_right_may_fail_anywhere_and_begin_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    filled(tmp_path, 9)
    (tmp_path / "tree").unlink()
    with (tmp_path / "entries").open("ab") as file:
        file.write(b"torn")

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    for _ in range(2):
        with monkeypatch.context() as broken:
            broken.setattr(os, call, fail)
            with pytest.raises(Unavailable, match="Input/output error"):
                opened(tmp_path)
    assert contents(tmp_path) == [entry(number) for number in range(9)]


def test_a_wrong_end_in_the_tree_costs_no_entry(tmp_path: Path) -> None:
    filled(tmp_path, 9)
    tree = bytearray((tmp_path / "tree").read_bytes())
    tree[log_files.tree_bytes(8) + 7] ^= 1  # where the last entry ends: no root covers it
    (tmp_path / "tree").write_bytes(tree)
    assert contents(tmp_path) == [entry(number) for number in range(9)]


def test_damage_is_blamed_on_the_file_that_has_it(tmp_path: Path) -> None:
    filled(tmp_path, 9)
    tree, entries = tmp_path / "tree", tmp_path / "entries"
    whole = {path: path.read_bytes() for path in (tree, entries)}
    slot = log_files.tree_bytes(4)
    for place in (slot - 1, slot, slot + log_files.END.size):  # a node, an end, a leaf
        tree.write_bytes(whole[tree][:place] + b"\x7f" + whole[tree][place + 1 :])
        assert f"{tree} is damaged" in str(refused(verified, tmp_path))
        assert refused(all_read, tmp_path) in (None, *tree_is_damaged(tmp_path))
    tree.write_bytes(whole[tree])
    entry_4 = whole[entries].index(b"entry 4")
    for place in (entry_4 + 6, entry_4 - 1):  # its bytes, its leaf hash
        entries.write_bytes(whole[entries][:place] + b"\x7f" + whole[entries][place + 1 :])
        for call in (verified, all_read):
            assert f"{entries} is damaged" in str(refused(call, tmp_path))
    entries.write_bytes(whole[entries][:-1])
    assert f"{entries} is damaged" in str(refused(reopened, tmp_path))
    entries.write_bytes(whole[entries])
    tree.write_bytes(whole[tree] + bytes(40))
    found = str(refused(reopened, tmp_path))
    assert f"{tmp_path} is damaged" in found and "one of these two files" in found


def test_a_rewritten_entry_is_blamed_on_the_entries(tmp_path: Path) -> None:
    filled(tmp_path / "true", 9)
    with opened(tmp_path / "false") as lie:
        lie.extend(b"x" * len(entry(number)) for number in range(9))
    shutil.copy(tmp_path / "false/entries", tmp_path / "true/entries")
    found = str(refused(verified, tmp_path / "true"))
    assert "entries is damaged: these are not the entries whose head was signed" in found


def test_the_tree_is_as_long_as_arithmetic_says(tmp_path: Path) -> None:
    for size in (1, 2, 3, 8, 21):
        filled(tmp_path / str(size), size)
        with Reader(tmp_path / str(size)) as reader:
            assert (tmp_path / str(size) / "tree").stat().st_size == log_files.tree_bytes(size)
            assert reader.files.begun() == size
            leaves = [merkle.leaf_hash(entry(number)) for number in range(size)]
            for level in range(size.bit_length()):
                for index in range(size >> level):
                    span = leaves[index << level : (index + 1) << level]
                    assert reader.files.node(level, index) == merkle.root(span)


def test_after_a_failed_write_the_log_has_to_be_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path, 3)
    fsync = os.fsync
    with opened(tmp_path) as kept:

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(Unavailable, match="No space left"):
            kept.append(b"not acknowledged")
        monkeypatch.setattr(os, "fsync", fsync)
        for call in (lambda: kept.append(b"x"), kept.checkpoint):
            with pytest.raises(Unavailable, match="Start again"):
                call()
    assert contents(tmp_path)[:3] == [entry(number) for number in range(3)]


def test_a_disk_that_takes_a_part_of_each_write_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:7], at))
    filled(tmp_path, 9)
    assert contents(tmp_path) == [entry(number) for number in range(9)]


def test_an_entry_that_is_too_large_is_our_own_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "MAX_ENTRY", 10)
    with opened(tmp_path) as kept:
        with pytest.raises(Bug, match="at most 10"):
            kept.append(bytes(11))
        assert kept.append(bytes(10)) == 0
        with pytest.raises(Bug, match="asked about 2"):
            kept.inclusion(0, 2)


def test_a_folder_without_a_log_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no log"):
        Reader(tmp_path)


WRITER = """
import sys
from pathlib import Path
from tests.unit.trust.test_log import entry, opened
with opened(Path(sys.argv[1])) as kept:
    while True:
        print(kept.append(entry(kept.size)), flush=True)
"""


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    acknowledged = -1
    for lines in (1, 2, 50, 333):
        command = [sys.executable, "-c", WRITER, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            for _ in range(lines):
                acknowledged = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
        with opened(tmp_path) as kept:
            assert kept.size > acknowledged
            assert list(kept.entries(0, kept.size)) == [entry(n) for n in range(kept.size)]
