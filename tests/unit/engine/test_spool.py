# SPDX-License-Identifier: Apache-2.0
"""Uploads: they go on where they broke off, and only whole and promised ones are read."""

import hashlib
import subprocess
import sys
import textwrap
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from fedclave.engine.parts import BLOCK, SPARES
from fedclave.engine.spool import SMALL, Body, Spool
from fedclave.errors import Code, Refused, Unavailable
from fedclave.tensors import Layout, Tensors, encode, layout_of

UPDATE: Tensors = {
    "weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "bias": np.arange(4, dtype=np.float64),
    "none": np.zeros((0, 2), np.float32),
    "steps": np.array(7),
}
LAYOUT = layout_of(UPDATE)
DATA = encode(UPDATE)
DIGEST = hashlib.sha256(DATA).hexdigest()
IN_MEMORY, ON_DISK = SMALL, 0

either_way = pytest.mark.parametrize("small", [IN_MEMORY, ON_DISK], ids=["memory", "disk"])


def read(body: Body) -> dict[str, bytes]:
    """The bytes of each tensor that has any, however they were cut."""
    whole: dict[str, bytes] = {}
    for name, start, block in body.blocks():
        assert start * block.itemsize == len(whole.get(name, b""))
        whole[name] = whole.get(name, b"") + block.tobytes()
    return whole


def raw(tensors: Tensors) -> dict[str, bytes]:
    return {name: tensor.tobytes() for name, tensor in tensors.items() if tensor.size}


@either_way
@pytest.mark.parametrize("step", [1, 7, len(DATA) - 1, len(DATA)])
def test_an_upload_in_pieces_is_what_was_sent(tmp_path: Path, small: int, step: int) -> None:
    spool = Spool(tmp_path, small)
    upload = spool.begin("alice", DIGEST, LAYOUT)
    for at in range(0, len(DATA), step):
        assert upload.offset == at
        upload.write(DATA[at : at + step])
    body = spool.commit("alice", upload)
    assert body.size == len(DATA)
    assert read(body) == read(body) == raw(UPDATE)


@either_way
def test_a_discarded_upload_leaves_nothing(tmp_path: Path, small: int) -> None:
    spool = Spool(tmp_path, small)
    upload = spool.begin("alice", DIGEST, LAYOUT)
    upload.write(DATA)
    spool.commit("alice", upload).discard()
    assert not list(tmp_path.glob("*.part"))
    spool.clear()
    assert not list(tmp_path.iterdir())


def test_a_spare_file_is_written_over(tmp_path: Path) -> None:
    spool = Spool(tmp_path, ON_DISK)
    for data in (b"?" * len(DATA), DATA):
        upload = spool.begin("alice", hashlib.sha256(data).hexdigest(), LAYOUT)
        assert upload.offset == 0
        upload.write(data)
        if data == DATA:
            assert read(spool.commit("alice", upload)) == raw(UPDATE)
        else:
            Body(LAYOUT, tmp_path / f"alice.{upload.digest}.part").discard()
            assert [path.suffix for path in tmp_path.iterdir()] == [".spare"]
    assert len(list(tmp_path.iterdir())) == 1


def test_an_upload_over_a_spare_file_goes_on_after_a_pause_and_a_restart(tmp_path: Path) -> None:
    (tmp_path / "old.spare").write_bytes(b"?" * len(DATA))
    first = Spool(tmp_path, ON_DISK).begin("alice", DIGEST, LAYOUT)
    first.write(DATA[:50])
    first.close()
    spool = Spool(tmp_path, ON_DISK)
    upload = spool.begin("alice", DIGEST, LAYOUT)
    assert upload.offset == 50
    upload.write(DATA[50:])
    assert read(spool.commit("alice", upload)) == raw(UPDATE)


def test_an_upload_over_a_spare_file_begins_anew_after_a_kill(tmp_path: Path) -> None:
    (tmp_path / "old.spare").write_bytes(b"?" * len(DATA))
    killed = Spool(tmp_path, ON_DISK).begin("alice", DIGEST, LAYOUT)
    killed.write(DATA[:50])
    spool = Spool(tmp_path, ON_DISK)
    upload = spool.begin("alice", DIGEST, LAYOUT)
    assert upload.offset == 0
    upload.write(DATA)
    assert read(spool.commit("alice", upload)) == raw(UPDATE)
    killed.drop()


def test_a_connection_that_was_replaced_cuts_nothing_off(tmp_path: Path) -> None:
    spool = Spool(tmp_path, ON_DISK)
    older = spool.begin("alice", DIGEST, LAYOUT)
    older.write(DATA[:50])
    newer = spool.begin("alice", DIGEST, LAYOUT)
    newer.write(DATA[50:])
    older.pause()
    assert read(spool.commit("alice", newer)) == raw(UPDATE)


def test_there_are_only_so_many_spare_files(tmp_path: Path) -> None:
    for number in range(SPARES + 3):
        part = tmp_path / f"m{number}.part"
        part.write_bytes(DATA)
        Body(LAYOUT, part).discard()
    assert len(list(tmp_path.iterdir())) == SPARES


@either_way
def test_an_upload_that_broke_off_goes_on_where_it_stood(tmp_path: Path, small: int) -> None:
    spool = Spool(tmp_path, small)
    spool.begin("alice", DIGEST, LAYOUT).write(DATA[:50])
    upload = spool.begin("alice", DIGEST, LAYOUT)
    assert upload.offset == 50
    upload.write(DATA[50:])
    assert read(spool.commit("alice", upload)) == raw(UPDATE)


def test_it_goes_on_after_a_restart(tmp_path: Path) -> None:
    first = Spool(tmp_path, ON_DISK).begin("alice", DIGEST, LAYOUT)
    first.write(DATA[:50])
    first.close()
    spool = Spool(tmp_path, ON_DISK)
    upload = spool.begin("alice", DIGEST, LAYOUT)
    assert upload.offset == 50
    upload.write(DATA[50:])
    assert read(spool.commit("alice", upload)) == raw(UPDATE)


def test_a_leftover_that_is_too_long_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / f"alice.{DIGEST}.part").write_bytes(DATA + b"more")
    spool = Spool(tmp_path, ON_DISK)
    upload = spool.begin("alice", DIGEST, LAYOUT)
    assert upload.offset == 0
    upload.write(DATA)
    assert read(spool.commit("alice", upload)) == raw(UPDATE)


def test_a_leftover_with_other_bytes_is_found_out_and_begun_anew(tmp_path: Path) -> None:
    (tmp_path / f"alice.{DIGEST}.part").write_bytes(b"?" * 50)
    spool = Spool(tmp_path, ON_DISK)
    upload = spool.begin("alice", DIGEST, LAYOUT)
    upload.write(DATA[50:])
    with pytest.raises(Refused) as refused:
        spool.commit("alice", upload)
    assert refused.value.code is Code.WRONG_DIGEST
    again = spool.begin("alice", DIGEST, LAYOUT)
    assert again.offset == 0
    again.close()


@either_way
def test_a_chunk_past_the_end_is_refused_and_not_taken(tmp_path: Path, small: int) -> None:
    spool = Spool(tmp_path, small)
    upload = spool.begin("alice", DIGEST, LAYOUT)
    upload.write(DATA[:-1])
    with pytest.raises(Refused) as refused:
        upload.write(DATA[-1:] + b"x")
    assert refused.value.code is Code.TOO_LARGE
    upload.write(DATA[-1:])
    assert read(spool.commit("alice", upload)) == raw(UPDATE)


@either_way
def test_an_upload_that_is_short_is_no_body(tmp_path: Path, small: int) -> None:
    spool = Spool(tmp_path, small)
    upload = spool.begin("alice", DIGEST, LAYOUT)
    upload.write(DATA[:-1])
    with pytest.raises(Refused, match=f"{len(DATA) - 1} of {len(DATA)} bytes") as refused:
        spool.commit("alice", upload)
    assert refused.value.code is Code.MALFORMED


@either_way
def test_bytes_other_than_promised_are_refused_and_dropped(tmp_path: Path, small: int) -> None:
    spool = Spool(tmp_path, small)
    upload = spool.begin("alice", DIGEST, LAYOUT)
    upload.write(DATA[:-1] + bytes([DATA[-1] ^ 1]))
    with pytest.raises(Refused) as refused:
        spool.commit("alice", upload)
    assert refused.value.code is Code.WRONG_DIGEST
    assert not list(tmp_path.iterdir())
    again = spool.begin("alice", DIGEST, LAYOUT)
    assert again.offset == 0
    again.close()


@either_way
def test_other_tensors_of_the_same_size_are_refused(tmp_path: Path, small: int) -> None:
    other = encode({"height" if name == "weight" else name: t for name, t in UPDATE.items()})
    assert len(other) == len(DATA)
    promised = hashlib.sha256(other).hexdigest()
    spool = Spool(tmp_path, small)
    upload = spool.begin("alice", promised, LAYOUT)
    upload.write(other)
    with pytest.raises(Refused) as refused:
        spool.commit("alice", upload)
    assert refused.value.code is Code.WRONG_TENSORS
    assert not list(tmp_path.iterdir())


@either_way
def test_a_newer_connection_takes_the_upload_from_an_older_one(tmp_path: Path, small: int) -> None:
    spool = Spool(tmp_path, small)
    older = spool.begin("alice", DIGEST, LAYOUT)
    older.write(DATA[:50])
    newer = spool.begin("alice", DIGEST, LAYOUT)
    with pytest.raises(Unavailable, match="newer connection"):
        older.write(DATA[50:60])
    with pytest.raises(Unavailable, match="newer connection"):
        spool.commit("alice", older)
    assert newer.offset == 50
    newer.write(DATA[50:])
    assert read(spool.commit("alice", newer)) == raw(UPDATE)


@either_way
def test_a_committed_upload_is_not_committed_again(tmp_path: Path, small: int) -> None:
    spool = Spool(tmp_path, small)
    upload = spool.begin("alice", DIGEST, LAYOUT)
    upload.write(DATA)
    spool.commit("alice", upload)
    with pytest.raises(Unavailable):
        spool.commit("alice", upload)


def test_members_do_not_see_each_others_uploads(tmp_path: Path) -> None:
    spool = Spool(tmp_path, ON_DISK)
    spool.begin("alice", DIGEST, LAYOUT).write(DATA[:50])
    upload = spool.begin("bob", DIGEST, LAYOUT)
    assert upload.offset == 0
    spool.clear()


def test_a_member_has_one_upload_at_a_time(tmp_path: Path) -> None:
    spool = Spool(tmp_path, ON_DISK)
    spool.begin("alice", DIGEST, LAYOUT).write(DATA[:50])
    spool.begin("alice", "f" * 64, LAYOUT)
    assert [path.name for path in tmp_path.iterdir()] == [f"alice.{'f' * 64}.part"]
    spool.clear()


def test_after_a_restart_too_a_member_has_one_upload(tmp_path: Path) -> None:
    """Names may have dots: what begins like a member's name can be another member's."""
    for leftover in (f"al.{'e' * 64}.part", f"al.ice.{'e' * 64}.part"):
        (tmp_path / leftover).write_bytes(b"")
    spool = Spool(tmp_path, ON_DISK)
    spool.begin("al", DIGEST, LAYOUT)
    assert {p.name for p in tmp_path.iterdir()} == {f"al.{DIGEST}.part", f"al.ice.{'e' * 64}.part"}
    spool.clear()


def test_clear_drops_what_is_left_also_of_an_earlier_process(tmp_path: Path) -> None:
    (tmp_path / f"carol.{DIGEST}.part").write_bytes(DATA[:50])
    spool = Spool(tmp_path, ON_DISK)
    spool.begin("alice", DIGEST, LAYOUT).write(DATA[:50])
    spool.clear()
    assert not list(tmp_path.iterdir())
    Spool(tmp_path / "never used").clear()


def test_a_large_upload_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    large = {"w": np.arange(2 * SMALL, dtype=np.float32)}
    data, of = encode(large), layout_of(large)
    spool = Spool(tmp_path)
    tracemalloc.start()
    try:
        upload = spool.begin("alice", hashlib.sha256(data).hexdigest(), of)
        for at in range(0, len(data), BLOCK):
            upload.write(memoryview(data)[at : at + BLOCK])
        body = spool.commit("alice", upload)
        total = sum(float(block.sum(dtype=np.float64)) for _, _, block in body.blocks())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == float(large["w"].sum(dtype=np.float64))
    assert peak < 8 * BLOCK < len(data)


def test_a_file_that_becomes_shorter_is_noticed(tmp_path: Path) -> None:
    spool = Spool(tmp_path, ON_DISK)
    upload = spool.begin("alice", DIGEST, LAYOUT)
    upload.write(DATA)
    body = spool.commit("alice", upload)
    (part,) = tmp_path.iterdir()
    part.write_bytes(DATA[:-1])
    with pytest.raises(Unavailable, match="became shorter"):
        read(body)


def test_a_full_disk_takes_nothing_from_an_upload(tmp_path: Path) -> None:
    """A process that may write 60 bytes to a file takes the first 50, not the rest, then all."""
    code = """
        import resource, sys
        from pathlib import Path
        from fedclave.engine.spool import Spool
        from fedclave.errors import Unavailable
        from fedclave.tensors import parse_layout
        data = bytes.fromhex(sys.argv[2])
        spool = Spool(Path(sys.argv[1]), 0)
        upload = spool.begin("alice", sys.argv[3], parse_layout(data, len(data)))
        upload.write(data[:50])
        resource.setrlimit(resource.RLIMIT_FSIZE, (60, resource.RLIM_INFINITY))
        try:
            upload.write(data[50:])
        except Unavailable as error:
            (part,) = Path(sys.argv[1]).iterdir()
            print(upload.offset, part.stat().st_size, "Free space" in str(error))
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        upload.write(data[50:])
        print(sum(block.nbytes for _, _, block in spool.commit("alice", upload).blocks()))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), tmp_path, DATA.hex(), DIGEST],
        capture_output=True,
        text=True,
        timeout=60,
    )
    wanted = [50, 50, True, sum(tensor.nbytes for tensor in UPDATE.values())]
    assert done.stdout.split() == [str(item) for item in wanted], done.stderr


def test_an_update_without_tensors_is_one_too(tmp_path: Path) -> None:
    data = encode({})
    spool = Spool(tmp_path)
    upload = spool.begin("alice", hashlib.sha256(data).hexdigest(), Layout(()))
    upload.write(data)
    assert read(spool.commit("alice", upload)) == {}
