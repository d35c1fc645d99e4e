# SPDX-License-Identifier: Apache-2.0
"""What a party remembers of another's log: heads that only grow, and evidence if they do not."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedclave import canonical
from fedclave.errors import Code, Refused
from fedclave.trust import checkpoint, heads, merkle
from fedclave.trust.checkpoint import Head
from fedclave.trust.heads import Heads, Peer

NOW = datetime(2031, 5, 1, tzinfo=UTC)
KEY, OTHER = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2))
PEER = Peer(origin="example.org/digits", key=KEY.public_key())


class Tree:
    """A log in memory, which can be made to lie."""

    def __init__(self, *entries: str) -> None:
        self.leaves = [merkle.leaf_hash(entry.encode()) for entry in entries]

    def head(self, size: int) -> Head:
        return Head(origin=PEER.origin, size=size, root=merkle.root(self.leaves[:size]))

    def note(self, size: int, key: Ed25519PrivateKey = KEY) -> bytes:
        return checkpoint.sign(self.head(size), key)

    def growth(self, old: int, new: int) -> list[bytes]:
        return merkle.consistency(
            old, new, lambda level, at: merkle.root(self.leaves[at << level : (at + 1) << level])
        )


TRUE = Tree(*"abcdefghij")
FALSE = Tree(*"abcXefghij")


def refused(call: object, *arguments: object) -> Refused:
    with pytest.raises(Refused) as caught:
        call(*arguments)  # type: ignore[operator]
    return caught.value


@pytest.fixture
def memory(tmp_path: Path) -> Heads:
    kept = Heads(tmp_path / "heads")
    kept.accept(TRUE.note(5), PEER, [], NOW)
    return kept


def test_the_first_head_is_taken_and_remembered(memory: Heads) -> None:
    assert memory.seen(PEER) == Heads(memory.folder).seen(PEER) == TRUE.head(5)
    assert memory.note(PEER) == TRUE.note(5)


def test_nothing_is_known_of_a_log_that_was_not_seen(tmp_path: Path) -> None:
    kept = Heads(tmp_path)
    assert (kept.seen(PEER), kept.note(PEER), kept.evidence(PEER)) == (None, b"", None)
    assert refused(kept.compare, TRUE.note(5), PEER, [], NOW).code is Code.LOG_PROOF
    assert refused(kept.accept, TRUE.note(5), PEER, TRUE.growth(3, 5), NOW).code is Code.LOG_PROOF


def test_a_log_that_grew_and_proves_it_is_followed(memory: Heads) -> None:
    for size in (5, 7, 10):
        known = memory.seen(PEER)
        assert known is not None
        memory.accept(TRUE.note(size), PEER, TRUE.growth(known.size, size), NOW)
        assert memory.seen(PEER) == TRUE.head(size)
    assert memory.evidence(PEER) is None


def test_a_smaller_head_is_refused_and_changes_nothing(memory: Heads) -> None:
    found = refused(memory.accept, TRUE.note(4), PEER, [], NOW)
    assert (found.code, memory.seen(PEER)) == (Code.LOG_OLDER, TRUE.head(5))
    assert "4 entries; it had 5 before" in found.message


def test_a_head_without_proof_or_with_a_wrong_one_is_refused_and_kept(memory: Heads) -> None:
    for proof in ([], TRUE.growth(4, 7), TRUE.growth(5, 8), [bytes(32)] * 1000, [bytes(10**6)]):
        assert refused(memory.accept, TRUE.note(7), PEER, proof, NOW).code is Code.LOG_PROOF
    (kept,) = memory.folder.glob("*.unproven.json")
    assert kept.stat().st_size < heads.MAX_EVIDENCE
    assert memory.seen(PEER) == TRUE.head(5)
    memory.accept(TRUE.note(7), PEER, TRUE.growth(5, 7), NOW)  # it accused nobody


def test_two_heads_of_one_size_are_a_split_view_and_nothing_is_believed_any_more(
    memory: Heads,
) -> None:
    found = refused(memory.accept, FALSE.note(5), PEER, [], NOW)
    assert found.code is Code.LOG_FORK
    path = memory.evidence(PEER)
    assert path is not None and str(path) in found.message
    assert heads.verify_evidence(path.read_bytes(), PEER) == (TRUE.head(5), FALSE.head(5))
    for call in (memory.accept, memory.compare):
        assert refused(call, TRUE.note(7), PEER, TRUE.growth(5, 7), NOW).code is Code.LOG_FORK
    path.rename(path.with_name("looked-at.json"))
    memory.accept(TRUE.note(7), PEER, TRUE.growth(5, 7), NOW)


def test_one_logs_split_does_not_stop_another_log(memory: Heads) -> None:
    refused(memory.accept, FALSE.note(5), PEER, [], NOW)
    other = Peer(origin=PEER.origin, key=OTHER.public_key())
    assert memory.accept(TRUE.note(5, OTHER), other, [], NOW) == TRUE.head(5)


def test_a_head_by_another_key_or_of_another_log_is_refused(memory: Heads) -> None:
    note = TRUE.note(7, OTHER)
    assert refused(memory.accept, note, PEER, TRUE.growth(5, 7), NOW).code is Code.BAD_SIGNATURE
    elsewhere = Peer(origin="example.org/other", key=PEER.key)
    assert refused(memory.accept, TRUE.note(7), elsewhere, [], NOW).code is Code.BAD_SIGNATURE
    assert list(memory.folder.glob("*.json")) == []


def test_what_others_saw_is_compared_in_both_directions_and_not_remembered(memory: Heads) -> None:
    memory.compare(TRUE.note(3), PEER, TRUE.growth(3, 5), NOW)
    memory.compare(TRUE.note(5), PEER, [], NOW)
    memory.compare(TRUE.note(9), PEER, TRUE.growth(5, 9), NOW)
    assert memory.seen(PEER) == TRUE.head(5)
    assert refused(memory.compare, FALSE.note(9), PEER, [], NOW).code is Code.LOG_PROOF
    assert refused(memory.compare, FALSE.note(5), PEER, [], NOW).code is Code.LOG_FORK


def test_evidence_that_shows_no_contradiction_is_refused(memory: Heads) -> None:
    def made(*notes: object) -> bytes:
        return canonical.encode({"heads": list(notes)})

    one, same, other = (tree.note(5).decode() for tree in (TRUE, TRUE, FALSE))
    for data, code in (
        (made(one, same), Code.LOG_PROOF),
        (made(one, FALSE.note(6).decode()), Code.LOG_PROOF),
        (made(one, FALSE.note(5, OTHER).decode()), Code.BAD_SIGNATURE),
        (made(one), Code.MALFORMED),
        (made(one, 7), Code.MALFORMED),
        (b"[]", Code.MALFORMED),
        (b" " * 40000, Code.MALFORMED),
    ):
        assert refused(heads.verify_evidence, data, PEER).code is code
    assert heads.verify_evidence(made(one, other), PEER)
