# SPDX-License-Identifier: Apache-2.0
"""An aggregator, or who holds its disk, that wants its log to say something else."""

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedclave.errors import Code, Refused
from fedclave.trust import checkpoint, heads, log_files, log_proof, merkle
from fedclave.trust.heads import Heads, Peer
from fedclave.trust.log import Log
from fedclave.trust.log_files import Reader
from fedclave.trust.log_proof import LogProof

NOW = datetime(2031, 5, 1, tzinfo=UTC)
KEY, MALLORY = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2))
PUBLIC = KEY.public_key()
ORIGIN = "example.org/digits"
PEER = Peer(origin=ORIGIN, key=PUBLIC)
ENTRIES = [b"entry %d" % number for number in range(10)]


def write(folder: Path, entries: list[bytes], key: Ed25519PrivateKey = KEY) -> Path:
    with Log(folder, key, ORIGIN) as kept:
        kept.extend(entries)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "log", ENTRIES)


def refused(call: Callable[[], object]) -> Refused:
    with pytest.raises(Refused) as caught:
        call()
    return caught.value


def audit(folder: Path) -> object:
    with Reader(folder) as reader:
        return reader.verify(PUBLIC)


def reopen(folder: Path) -> None:
    Log(folder, KEY, ORIGIN).close()


def accept(seen: Heads, log: Log, since: int) -> int:
    """Have a party see what a log shows; returns the size of it."""
    shown = log.shown(since)
    return seen.accept(shown.head, ORIGIN, shown.growth, since=since, now=NOW).head.size


def proof_of(folder: Path, index: int) -> LogProof:
    with Reader(folder) as reader:
        size = reader.claimed.size
        return LogProof(
            origin=ORIGIN,
            index=index,
            entry=next(reader.entries(index, index + 1)),
            path=tuple(reader.files.inclusion(index, size)),
            note=reader.note,
        )


@pytest.mark.parametrize("file", ["entries", "tree"])
def test_any_flipped_byte_is_found_by_an_auditor(folder: Path, file: str) -> None:
    path = folder / file
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        assert refused(lambda: audit(folder)).code is Code.LOG_PROOF
    path.write_bytes(whole)
    audit(folder)


def test_any_flipped_byte_of_the_head_is_found(folder: Path) -> None:
    path = folder / "checkpoint"
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x01]) + whole[at + 1 :])
        for look in (audit, reopen):
            code = refused(lambda look=look: look(folder)).code  # type: ignore[misc]
            assert code in (Code.MALFORMED, Code.BAD_SIGNATURE)


def test_a_truncated_file_is_found_at_every_length(folder: Path) -> None:
    path = folder / "entries"
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert refused(lambda: audit(folder)).code is Code.LOG_PROOF
        assert refused(lambda: reopen(folder)).code is Code.LOG_PROOF
        assert path.stat().st_size == length, "nobody goes on with it, and nothing is cut off"


def test_a_flipped_byte_under_no_head_yet_is_damage_and_not_a_torn_end(
    folder: Path, tmp_path: Path
) -> None:
    head = (folder / "checkpoint").read_bytes()
    write(folder, [b"eleven", b"twelve", b"thirteen"])
    (folder / "checkpoint").write_bytes(head)
    path = folder / "entries"
    whole = path.read_bytes()
    begin = whole.index(b"eleven") - log_files.FRAME.size
    for at in range(begin, len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        assert refused(lambda: reopen(folder)).code is Code.LOG_PROOF
    path.write_bytes(whole)
    reopen(folder)


def test_a_rewritten_entry_cannot_be_signed_into_the_same_history(
    folder: Path, tmp_path: Path
) -> None:
    rewritten = write(tmp_path / "rewritten", [*ENTRIES[:3], b"nothing happened", *ENTRIES[4:]])
    shutil.copy(folder / "checkpoint", rewritten)
    assert refused(lambda: audit(rewritten)).code is Code.LOG_PROOF
    assert refused(lambda: reopen(rewritten)).code is Code.LOG_PROOF


def test_a_log_that_rewrites_history_is_refused_by_whoever_saw_it(
    folder: Path, tmp_path: Path
) -> None:
    seen = Heads(tmp_path / "seen")
    with Log(folder, KEY, ORIGIN) as kept:
        accept(seen, kept, 0)
    more = [b"more %d" % number for number in range(5)]
    with Log(
        write(tmp_path / "anew", [*ENTRIES[:3], b"x", *ENTRIES[4:], *more]), KEY, ORIGIN
    ) as lie:
        assert refused(lambda: accept(seen, lie, 10)).code is Code.LOG_PROOF
    with Log(write(folder, more), KEY, ORIGIN) as kept:
        assert accept(seen, kept, 10) == 15


def test_two_heads_for_two_parties_show_as_soon_as_these_compare(
    folder: Path, tmp_path: Path
) -> None:
    other = write(tmp_path / "other", [*ENTRIES[:-1], b"for bernd"])
    anna, bernd = Heads(tmp_path / "anna"), Heads(tmp_path / "bernd")
    for member, shown in ((anna, folder), (bernd, other)):
        with Log(shown, KEY, ORIGIN) as kept:
            accept(member, kept, 0)
    told = bernd.seen(ORIGIN)
    assert told is not None
    found = refused(lambda: anna.compare(told.note, ORIGIN, [], since=10, now=NOW))
    assert found.code is Code.LOG_FORK
    assert anna.evidence(ORIGIN) is not None


def test_a_replayed_smaller_head_is_refused(folder: Path, tmp_path: Path) -> None:
    old = (folder / "checkpoint").read_bytes()
    seen = Heads(tmp_path / "seen")
    with Log(write(folder, [b"eleven"]), KEY, ORIGIN) as kept:
        accept(seen, kept, 0)
    replay = lambda: seen.accept(heads.show(old, PEER), ORIGIN, [], since=11, now=NOW)  # noqa: E731
    assert refused(replay).code is Code.LOG_OLDER


def test_a_forged_head_and_one_of_another_origin_are_refused(folder: Path) -> None:
    head = checkpoint.parse((folder / "checkpoint").read_bytes()).claimed
    for note in (
        checkpoint.sign(head, MALLORY),
        checkpoint.sign(checkpoint.Head(origin="example.org/x", size=10, root=head.root), KEY),
    ):
        (folder / "checkpoint").write_bytes(note)
        assert refused(lambda: reopen(folder)).code is Code.BAD_SIGNATURE
    foreign = checkpoint.sign(head, MALLORY).split(b"\n\n")[1]
    relabelled = head.text + b"\n" + foreign
    assert refused(lambda: checkpoint.verified(relabelled, ORIGIN, PUBLIC)).code is (
        Code.BAD_SIGNATURE
    )


def test_a_proof_does_not_serve_for_another_entry_place_head_or_log(
    folder: Path, tmp_path: Path
) -> None:
    true = proof_of(folder, 4)
    assert log_proof.verified(true, PUBLIC)[0] == ENTRIES[4]
    other = proof_of(write(tmp_path / "other", ENTRIES[:7], MALLORY), 4)
    for change, code in (
        ({"entry": b"entry five"}, Code.LOG_PROOF),
        ({"index": 5}, Code.LOG_PROOF),
        ({"index": -1}, Code.LOG_PROOF),
        ({"path": true.path[:-1]}, Code.LOG_PROOF),
        ({"path": other.path}, Code.LOG_PROOF),
        ({"note": other.note}, Code.BAD_SIGNATURE),
        ({"origin": "example.org/x"}, Code.BAD_SIGNATURE),
    ):
        lie = LogProof(**{**vars(true), **change})
        assert refused(lambda lie=lie: log_proof.verified(lie, PUBLIC)).code is code  # type: ignore[misc]


def test_a_node_does_not_pass_as_an_entry(folder: Path) -> None:
    """The prefixes of RFC 9162 2.1.1 are what stands against this second preimage."""
    with Reader(folder) as reader:
        left, right = (reader.files.node(0, index) for index in (0, 1))
        head = reader.claimed
        path = reader.files.inclusion(0, head.size)[1:]
        lie = merkle.leaf_hash(left + right)
        for size in (head.size, head.size // 2):
            call = lambda size=size: merkle.check_inclusion(  # noqa: E731
                lie, 0, path, size=size, root=head.root
            )
            assert refused(call).code is Code.LOG_PROOF


def test_a_false_node_makes_no_proof(folder: Path) -> None:
    tree = bytearray((folder / "tree").read_bytes())
    tree[log_files.tree_bytes(2) + 8] ^= 1  # the third entry's leaf
    (folder / "tree").write_bytes(tree)
    with Log(folder, KEY, ORIGIN) as kept:  # its head's nodes are whole
        for ask in (lambda: kept.inclusion(3, 10), lambda: kept.consistency(3, 10),
                    lambda: list(kept.entries(2, 3))):  # fmt: skip
            assert refused(ask).code is Code.LOG_PROOF


def test_a_head_that_claims_more_than_there_is_only_costs_a_refusal(folder: Path) -> None:
    for size in (11, 2**40, 2**63 - 1):
        head = checkpoint.Head(origin=ORIGIN, size=size, root=bytes(32))
        (folder / "checkpoint").write_bytes(checkpoint.sign(head, KEY))
        for look in (audit, reopen, lambda at: proof_of(at, 3)):
            code = refused(lambda look=look: look(folder)).code  # type: ignore[misc]
            assert code is Code.LOG_PROOF
        with Reader(folder) as reader:
            assert refused(lambda: list(reader.entries(size - 1))).code is Code.LOG_PROOF  # noqa: B023


def test_an_entry_longer_than_any_may_be_is_not_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_files, "MAX_ENTRY", len(ENTRIES[0]) - 1)
    assert "entry 0, at byte 0" in refused(lambda: audit(folder)).message


def test_ends_that_lead_out_of_the_file_only_cost_a_refusal(folder: Path) -> None:
    tree = bytearray((folder / "tree").read_bytes())
    tree[log_files.tree_bytes(3) : log_files.tree_bytes(3) + 8] = b"\xff" * 8
    (folder / "tree").write_bytes(tree)
    with Reader(folder) as reader:
        assert refused(lambda: list(reader.entries(4, 5))).code is Code.LOG_PROOF


@pytest.mark.parametrize(
    "change",
    [
        {"more": 1},
        {"type": "fedclave-log-proof/2"},
        {"index": "4"},
        {"index": True},
        {"index": 4.0},
        {"path": "AAAA"},
        {"path": ["AAAA"] * 64},
        {"path": [7]},
        {"entry": "AB=="},
        {"entry": "é"},
        {"entry": None},
        {"checkpoint": 1},
        {"origin": []},
    ],
)
def test_a_file_that_is_no_proof_is_refused(folder: Path, change: dict[str, object]) -> None:
    fields = json.loads(log_proof.encode(proof_of(folder, 4)))
    data = json.dumps({**fields, **change}, sort_keys=True, separators=(",", ":"),
                      ensure_ascii=False).encode() + b"\n"  # fmt: skip
    assert refused(lambda: log_proof.decode(data)).code is Code.MALFORMED


def test_a_proof_has_one_form(folder: Path) -> None:
    data = log_proof.encode(proof_of(folder, 4))
    assert log_proof.decode(data) == proof_of(folder, 4)
    for other in (data[:-1], data + b"\n", b" " + data, b"", b"\n", b"null\n", b"[" * 10**5 + b"\n",
                  bytes(log_proof.MAX_SIZE + 1)):  # fmt: skip
        assert refused(lambda other=other: log_proof.decode(other)).code is Code.MALFORMED  # type: ignore[misc]
