# SPDX-License-Identifier: Apache-2.0
"""What a party remembers of another's log: heads that only grow, and evidence if they do not."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedclave import canonical
from fedclave.errors import Code, FedclaveError, Refused, Unavailable, UserError
from fedclave.trust import checkpoint, heads, merkle
from fedclave.trust.checkpoint import Head
from fedclave.trust.heads import Heads, Peer, Seen

NOW = datetime(2031, 5, 1, tzinfo=UTC)
KEY, OTHER = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2))
ORIGIN = "example.org/digits"
PEER = Peer(origin=ORIGIN, key=KEY.public_key())


class Tree:
    """A log in memory, which can be made to lie."""

    def __init__(self, *entries: str) -> None:
        self.leaves = [merkle.leaf_hash(entry.encode()) for entry in entries]

    def head(self, size: int, origin: str = ORIGIN) -> Head:
        return Head(origin=origin, size=size, root=merkle.root(self.leaves[:size]))

    def note(self, size: int, key: Ed25519PrivateKey = KEY, origin: str = ORIGIN) -> bytes:
        return checkpoint.sign(self.head(size, origin), key)

    def shown(self, size: int, key: Ed25519PrivateKey = KEY, origin: str = ORIGIN) -> bytes:
        peer = Peer(origin=origin, key=key.public_key())
        return heads.show(self.note(size, key, origin), peer)

    def growth(self, old: int, new: int) -> list[bytes]:
        return merkle.consistency(
            old, new, lambda level, at: merkle.root(self.leaves[at << level : (at + 1) << level])
        )


TRUE = Tree(*"abcdefghij")
FALSE = Tree(*"abcXefghij")


def accept(memory: Heads, shown: bytes, growth: list[bytes], since: int = 5) -> Seen:
    return memory.accept(shown, ORIGIN, growth, since=since, now=NOW)


def compare(memory: Heads, note: bytes, growth: list[bytes], since: int = 5) -> Head:
    return memory.compare(note, ORIGIN, growth, since=since, now=NOW)


def failed(call: object, *arguments: object) -> FedclaveError:
    with pytest.raises(FedclaveError) as caught:
        call(*arguments)  # type: ignore[operator]
    return caught.value


def refused(call: object, *arguments: object) -> Refused:
    error = failed(call, *arguments)
    assert isinstance(error, Refused)
    return error


def known(memory: Heads) -> Head:
    seen = memory.seen(ORIGIN)
    assert seen is not None
    return seen.head


@pytest.fixture
def memory(tmp_path: Path) -> Heads:
    kept = Heads(tmp_path / "heads")
    accept(kept, TRUE.shown(5), [], since=0)
    return kept


def test_the_first_head_is_taken_and_remembered_with_its_key(memory: Heads) -> None:
    seen = Heads(memory.folder).seen(ORIGIN)
    assert seen is not None
    assert (seen.head, seen.peer.line, seen.shown) == (TRUE.head(5), PEER.line, TRUE.shown(5))


def test_nothing_is_known_of_a_log_that_was_not_seen(tmp_path: Path) -> None:
    kept = Heads(tmp_path)
    assert (kept.seen(ORIGIN), kept.evidence(ORIGIN)) == (None, None)
    assert "no head of" in str(failed(compare, kept, TRUE.note(5), [], 0))
    found = refused(accept, kept, TRUE.shown(5), TRUE.growth(3, 5), 0)
    assert (found.code, kept.seen(ORIGIN)) == (Code.LOG_PROOF, None)


def test_a_log_that_grew_and_proves_it_is_followed(memory: Heads) -> None:
    for size in (5, 7, 10):
        before = known(memory).size
        accept(memory, TRUE.shown(size), TRUE.growth(before, size), before)
        assert known(memory) == TRUE.head(size)
    assert memory.evidence(ORIGIN) is None


def test_a_smaller_head_is_refused_and_kept_and_changes_nothing(memory: Heads) -> None:
    found = refused(accept, memory, TRUE.shown(4), [])
    assert (found.code, known(memory)) == (Code.LOG_OLDER, TRUE.head(5))
    assert "4 entries; it had 5 before" in found.message
    (kept,) = memory.folder.glob("*.older.json")
    assert str(kept) in found.message
    assert json.loads(kept.read_text())["heads"] == [
        TRUE.note(5).decode(),
        TRUE.note(4).decode(),
    ]
    accept(memory, TRUE.shown(7), TRUE.growth(5, 7))  # the newest copy was restored


def test_a_head_without_proof_or_with_a_wrong_one_is_refused_and_kept(memory: Heads) -> None:
    for proof in ([], TRUE.growth(4, 7), TRUE.growth(5, 8), [bytes(32)] * 1000, [bytes(10**6)]):
        assert refused(accept, memory, TRUE.shown(7), proof).code is Code.LOG_PROOF
    (kept,) = memory.folder.glob("*.unproven.json")
    assert kept.stat().st_size < heads.MAX_EVIDENCE
    assert known(memory) == TRUE.head(5)
    accept(memory, TRUE.shown(7), TRUE.growth(5, 7))  # it accused nobody


def test_two_heads_of_one_size_are_a_split_view_until_a_person_has_looked(memory: Heads) -> None:
    found = refused(accept, memory, FALSE.shown(5), [])
    assert found.code is Code.LOG_FORK
    path = memory.evidence(ORIGIN)
    assert path is not None and str(path) in found.message
    assert heads.verify_evidence(path.read_bytes(), PEER) == (TRUE.head(5), FALSE.head(5))
    for call, given in ((accept, TRUE.shown(7)), (compare, TRUE.note(7))):
        again = refused(call, memory, given, TRUE.growth(5, 7))
        assert again.code is Code.LOG_FORK
    assert refused(memory.seen, ORIGIN).code is Code.LOG_FORK, "nobody is even asked"
    assert "moved that file away" in again.message
    path.rename(path.with_name("looked-at.json"))
    accept(memory, TRUE.shown(7), TRUE.growth(5, 7))


def test_one_logs_split_does_not_stop_another_log(memory: Heads) -> None:
    refused(accept, memory, FALSE.shown(5), [])
    other = "example.org/other"
    shown = TRUE.shown(5, OTHER, other)
    assert memory.accept(shown, other, [], since=0, now=NOW).head == TRUE.head(5, other)


def test_a_head_by_another_key_or_of_another_log_is_refused(memory: Heads) -> None:
    for lie in ((7, OTHER), (7, KEY, "example.org/other")):
        found = refused(accept, memory, TRUE.shown(*lie), TRUE.growth(5, 7))
        assert found.code is Code.BAD_SIGNATURE
        found = refused(compare, memory, TRUE.note(*lie), TRUE.growth(5, 7))
        assert found.code is Code.BAD_SIGNATURE
    assert list(memory.folder.glob("*.json")) == []
    assert known(memory) == TRUE.head(5)


def test_a_head_that_its_key_did_not_sign_is_refused(memory: Heads) -> None:
    for shown, code in (
        (heads.show(TRUE.note(7, OTHER), PEER), Code.BAD_SIGNATURE),
        (TRUE.note(7), Code.MALFORMED),
        (b"", Code.MALFORMED),
        (b"\xff\n" + TRUE.note(7), Code.MALFORMED),
        (TRUE.shown(7) + b"x", Code.MALFORMED),
        (TRUE.shown(7) + bytes(20_000), Code.MALFORMED),
    ):
        assert refused(accept, memory, shown, TRUE.growth(5, 7)).code is code


def test_what_another_process_has_meanwhile_seen_is_no_accusation(memory: Heads) -> None:
    accept(memory, TRUE.shown(9), TRUE.growth(5, 9))
    assert isinstance(failed(accept, memory, TRUE.shown(7), TRUE.growth(5, 7)), Unavailable)
    assert isinstance(failed(accept, memory, TRUE.shown(7), [], 0), Unavailable)
    assert isinstance(failed(compare, memory, TRUE.note(3), TRUE.growth(3, 5)), Unavailable)
    assert known(memory) == TRUE.head(9)


def test_what_others_saw_is_compared_in_both_directions_and_not_remembered(memory: Heads) -> None:
    compare(memory, TRUE.note(3), TRUE.growth(3, 5))
    compare(memory, TRUE.note(5), [])
    compare(memory, TRUE.note(9), TRUE.growth(5, 9))
    assert known(memory) == TRUE.head(5)
    assert refused(compare, memory, FALSE.note(9), []).code is Code.LOG_PROOF
    assert refused(compare, memory, FALSE.note(5), []).code is Code.LOG_FORK


def test_a_damaged_file_of_ones_own_is_named_and_accuses_nobody(memory: Heads) -> None:
    (path,) = memory.folder.glob("*.head")
    whole = path.read_bytes()
    foreign = TRUE.shown(5, KEY, "example.org/other")
    for damage in (b"", whole[:-1], whole.replace(b"\n5\n", b"\n6\n"), foreign):
        path.write_bytes(damage)
        for error in (
            failed(memory.seen, ORIGIN),
            failed(accept, memory, TRUE.shown(7), TRUE.growth(5, 7)),
        ):
            assert isinstance(error, UserError)
            assert str(path) in str(error) and "move this file away" in str(error)
    path.unlink()
    accept(memory, TRUE.shown(7), [], since=0)


def made(*notes: object, **changed: Any) -> bytes:
    usual: dict[str, Any] = {
        "heads": list(notes), "key": PEER.line, "proof": [], "time": "2031-05-01T00:00:00Z",
        "type": heads.EVIDENCE,
    }  # fmt: skip
    fields = {key: value for key, value in (usual | changed).items() if value is not None}
    return canonical.encode(fields) + b"\n"


ONE, SAME, CONTRARY = (tree.note(5).decode() for tree in (TRUE, TRUE, FALSE))


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (made(ONE, SAME), Code.LOG_PROOF),
        (made(ONE, FALSE.note(6).decode()), Code.LOG_PROOF),
        (made(ONE, FALSE.note(5, OTHER).decode()), Code.BAD_SIGNATURE),
        (made(ONE, CONTRARY, key="x"), Code.BAD_SIGNATURE),
        (made(ONE), Code.MALFORMED),
        (made(ONE, 7), Code.MALFORMED),
        (b"[]\n", Code.MALFORMED),
        (b" " * 40000, Code.MALFORMED),
        (made(ONE, CONTRARY)[:-1], Code.MALFORMED),
        *(
            (made(ONE, CONTRARY, **{key: None}), Code.MALFORMED)
            for key in ("heads", "key", "proof", "time", "type")
        ),
        (made(ONE, CONTRARY, more="x"), Code.MALFORMED),
        (made(ONE, CONTRARY, type="fedclave-log-heads/2"), Code.MALFORMED),
        (made(ONE, CONTRARY, key=7), Code.MALFORMED),
        (made(ONE, CONTRARY, time="yesterday"), Code.MALFORMED),
        (made(ONE, CONTRARY, proof="ab"), Code.MALFORMED),
        (made(ONE, CONTRARY, proof=["ab"]), Code.MALFORMED),
        (made(ONE, CONTRARY, proof=["ab" * 32] * 65), Code.MALFORMED),
    ],
)
def test_evidence_that_shows_no_contradiction_is_refused(data: bytes, code: Code) -> None:
    assert refused(heads.verify_evidence, data, PEER).code is code


def test_evidence_that_shows_one_is_good_for_whoever_has_the_key() -> None:
    found = heads.verify_evidence(made(ONE, CONTRARY, proof=["ab" * 32]), PEER)
    assert found == (TRUE.head(5), FALSE.head(5))
