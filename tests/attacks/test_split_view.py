# SPDX-License-Identifier: Apache-2.0
"""An operator whose log says one thing to one party and another to the next, or later to the same.

Real processes: what a member has seen of the log when it attested, it holds the aggregator to.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.support.false_aggregator import Show, false_aggregator
from tests.support.federation import Federation, Party, federation
from tests.support.split_view import (
    ORIGIN,
    entry,
    fx,
    kept,
    log_of,
    peer_of,
    ping,
    rewrite,
    seen,
    twin,
)

from fedclave.trust import checkpoint, claims, heads, merkle, ratls, signing
from fedclave.trust.checkpoint import Head
from fedclave.trust.log_files import Reader
from fedclave.workspace.layout import Workspace

pytestmark = pytest.mark.timeout(180)
MEMBERS = {"anna": 1.0, "bernd": 2.0}


@pytest.fixture
def fed(tmp_path: Path) -> Iterator[Federation]:
    """A federation in which the aggregator alone proves what it runs."""
    with federation(tmp_path / "ws", proving=("aggregator",), members=MEMBERS) as made:
        yield made


def refused(fed: Federation, name: str) -> dict[str, Any]:
    """A member that starts, and ends because it refused the aggregator."""
    party = fed.collaborator(name)
    assert party.end() == 3
    assert [event["event"] for event in party.events if "event" in event] == []
    error: dict[str, Any] = party.events[-1]["error"]
    return error


def size(fed: Federation, name: str) -> int:
    found = seen(fed, name)
    return 0 if found is None else found.head.size


def told(fed: Federation, event: str) -> list[dict[str, Any]]:
    lines = (fed.folder / "logs/events.jsonl").read_text().splitlines()
    return [one for one in map(json.loads, lines) if one["event"] == event]


def test_a_log_that_was_rewritten_is_refused_and_both_heads_are_kept(fed: Federation) -> None:
    aggregator = fed.aggregator()
    assert ping(fed, "anna") == "good"
    before = seen(fed, "anna")
    assert before is not None
    aggregator.kill()
    rewrite(fed, lambda entries: [entry("nothing happened"), *entries[1:], entry("x"), entry("y")])
    aggregator = fed.aggregator()
    error = refused(fed, "anna")
    assert error["code"] == "log-proof"
    assert aggregator.wait("peer_refused")["code"] == "log-proof"
    assert len(told(fed, "member_attested")) == 1, "nothing more was said to it"
    old, new = kept(fed, "anna", "unproven")
    assert old == before.note
    assert heads.read(heads.show(new, peer_of(fed))).head.size > before.head.size
    assert seen(fed, "anna") == before
    assert ping(fed, "bernd") == "good", "at first contact nobody can know"


def test_a_log_rewritten_to_the_same_size_is_proof_against_its_operator(fed: Federation) -> None:
    aggregator = fed.aggregator()
    for _ in range(2):
        assert ping(fed, "anna") == "good"
    aggregator.kill()
    shutil.copytree(log_of(fed), fed.folder / "true")
    rewrite(fed, lambda entries: [entry("x")])  # and two that a start logs: as many as were seen
    assert size(fed, "anna") == 3
    aggregator = fed.aggregator()
    error = refused(fed, "anna")
    assert error["code"] == "log-fork"
    evidence = next(Workspace(fed.folder).heads("anna").glob("*.split.json"))
    assert str(evidence) in error["message"]
    one, other = heads.verify_evidence(evidence.read_bytes(), peer_of(fed))
    assert (one.size, one.root == other.root) == (3, False)
    aggregator.kill()
    shutil.rmtree(log_of(fed))
    (fed.folder / "true").rename(log_of(fed))
    fed.aggregator()
    assert ping(fed, "anna") == "log-fork", "the true log again, but a person has to look first"
    evidence.rename(fed.folder / "looked-at.json")
    assert ping(fed, "anna") == "good"


def test_a_log_that_was_set_back_is_refused(fed: Federation) -> None:
    aggregator = fed.aggregator()
    shutil.copytree(log_of(fed), fed.folder / "older")
    for _ in range(4):
        assert ping(fed, "anna") == "good"
    aggregator.kill()
    shutil.copytree(log_of(fed), fed.folder / "newest")
    shutil.rmtree(log_of(fed))
    (fed.folder / "older").rename(log_of(fed))
    aggregator = fed.aggregator()
    assert refused(fed, "anna")["code"] == "log-older"
    assert aggregator.wait("peer_refused")["code"] == "log-older"
    before = seen(fed, "anna")
    assert before is not None
    newer, older = kept(fed, "anna", "older")
    assert newer == before.note
    assert heads.read(heads.show(older, peer_of(fed))).head.size < before.head.size
    aggregator.kill()
    shutil.rmtree(log_of(fed))
    (fed.folder / "newest").rename(log_of(fed))
    fed.aggregator()
    assert ping(fed, "anna") == "good", "the newest copy was restored"


def test_a_log_begun_anew_under_another_key_is_refused(fed: Federation) -> None:
    aggregator = fed.aggregator()
    assert ping(fed, "anna") == "good"
    aggregator.kill()
    for path in ("log.key", "log.pub"):
        (fed.cert / path).unlink()
    shutil.rmtree(log_of(fed))
    fed.aggregator()
    error = refused(fed, "anna")
    assert error["code"] == "bad-signature"
    assert "A log keeps its key" in error["message"]


def test_two_logs_for_two_members_show_when_these_compare(fed: Federation, tmp_path: Path) -> None:
    first = fed.aggregator()
    first.kill()
    other = twin(fed, tmp_path / "other")
    rewrite(fed, lambda entries: [*entries, entry("for anna")])
    rewrite(other, lambda entries: [*entries, entry("for bernd")])
    fed.aggregator()
    other.aggregator()
    assert ping(fed, "anna") == ping(other, "bernd") == "good", "each sees a good log"
    assert ping(other, "bernd", fed.address) == "log-proof", "who meets both sees it at once"
    head = tmp_path / "bernd.head"
    code, shown = fx(other, "audit", "head", "-n", "bernd", "--out", str(head))
    assert (code, shown["size"], shown["origin"]) == (0, 5, ORIGIN)
    code, found = fx(fed, "audit", "compare", str(head), "-n", "anna")
    assert (code, found["error"]["code"]) == (3, "log-fork")
    evidence = next(Workspace(fed.folder).heads("anna").glob("*.split.json"))
    one, contrary = heads.verify_evidence(evidence.read_bytes(), peer_of(fed))
    assert (one.size, one.root == contrary.root) == (5, False)
    assert refused(fed, "anna")["code"] == "log-fork", "she goes on with neither"


def test_two_logs_of_different_sizes_show_by_a_copy_of_either(
    fed: Federation, tmp_path: Path
) -> None:
    fed.aggregator().kill()
    other = twin(fed, tmp_path / "other")
    rewrite(fed, lambda entries: [*entries, entry("for anna")])
    rewrite(other, lambda entries: [*entries, entry("for bernd")])
    fed.aggregator()
    other.aggregator()
    for _ in range(2):
        assert ping(fed, "anna") == "good"
    assert ping(other, "bernd") == "good"
    head = str(tmp_path / "bernd.head")
    fx(other, "audit", "head", "-n", "bernd", "--out", head)
    compare = ("audit", "compare", head, "-n", "anna")
    code, found = fx(fed, *compare)
    assert (code, "--log DIR" in found["error"]["message"]) == (2, True)
    code, found = fx(fed, *compare, "--log", str(log_of(fed)))
    assert (code, found["error"]["code"]) == (3, "log-fork")
    assert head in found["error"]["message"]


def test_members_of_an_honest_log_find_one_history(fed: Federation, tmp_path: Path) -> None:
    fed.aggregator()
    assert [ping(fed, name) for name in ("anna", "bernd", "bernd")] == ["good"] * 3
    head, log = str(tmp_path / "anna.head"), str(log_of(fed))
    fx(fed, "audit", "head", "-n", "anna", "--out", head)
    code, found = fx(fed, "audit", "compare", head, "-n", "bernd", "--log", log)
    assert (code, found["one_history"]) == (0, True)
    assert (found["other"]["size"], found["own"]["size"]) == (2, 4)
    key = str(fed.cert / "log.pub")
    code, found = fx(fed, "audit", "verify", log, "--key", key, "--since", head)
    assert (code, found["since"]["size"]) == (0, 2)


def test_what_a_member_has_seen_grows_with_the_run_and_survives_kill_9(tmp_path: Path) -> None:
    rules = {"freshness": {"session_s": 4, "reattest_s": 1}}
    options: dict[str, Any] = {"proving": ("aggregator",), "members": MEMBERS, "rules": rules}
    with federation(tmp_path / "ws", **options) as fed:
        busy = fed.busy("anna", in_round=2)
        aggregator = fed.aggregator()
        parties: list[Party] = fed.all()
        aggregator.wait("task_started", round=2, member="anna")
        sizes = []
        for _ in range(3):
            parties[0].wait("attested")
            sizes.append(size(fed, "anna"))
        assert sizes == sorted(set(sizes)), "it grows at each attestation"
        aggregator.kill()
        aggregator = fed.aggregator()
        busy.unlink()
        aggregator.wait("run_finished")
        assert [aggregator.end(), *(party.end() for party in parties)] == [0, 0, 0]
        assert size(fed, "anna") > sizes[-1]
        with Reader(log_of(fed)) as log:
            last = seen(fed, "anna")
            assert last is not None
            assert log.verify(last.peer.key).size >= last.head.size


def test_a_head_that_proves_nothing_is_refused_and_nothing_else_is_sent(fed: Federation) -> None:
    key, other = signing.generate(), signing.generate()
    peer = heads.Peer(origin=ORIGIN, key=key.public_key())

    def head(number: int, by: Ed25519PrivateKey = key, origin: str = ORIGIN) -> bytes:
        root = merkle.root([merkle.leaf_hash(b"x")] * number)
        return checkpoint.sign(Head(origin=origin, size=number, root=root), by)

    elsewhere = heads.Peer(origin="fedclave/other", key=key.public_key())
    lies: list[tuple[str, Show]] = [
        ("log-proof", Show(b"")),
        ("malformed", Show(b"garbage")),
        ("malformed", Show(head(3))),
        ("malformed", Show(heads.show(head(3), peer) + bytes(9000))),
        ("bad-signature", Show(heads.show(head(3, other), peer))),
        ("bad-signature", Show(heads.show(head(3, origin=elsewhere.origin), elsewhere))),
        ("log-proof", Show(heads.show(head(3), peer), (bytes(32),))),
    ]
    grown: list[tuple[str, Show]] = [
        ("log-proof", Show(heads.show(head(9), peer))),
        ("log-proof", Show(heads.show(head(9), peer), (bytes(32),) * 10_000)),
        ("log-proof", Show(heads.show(head(9), peer), (bytes(10**6),))),
        ("log-older", Show(heads.show(head(2), peer))),
    ]
    with false_aggregator(fed) as liar:
        for code, shown in lies:
            liar.say = lambda seen, shown=shown: shown  # type: ignore[misc]
            assert ping(fed, "anna", liar.address) == code
            assert seen(fed, "anna") is None
        liar.say = lambda seen: Show(heads.show(head(3), peer))
        assert ping(fed, "anna", liar.address) == "unavailable", "she believed it, and went on"
        for code, shown in grown:
            liar.say = lambda seen, shown=shown: shown  # type: ignore[misc]
            assert ping(fed, "anna", liar.address) == code
        assert size(fed, "anna") == 3
        kinds = [one.WhichOneof("body") for one in liar.heard]
        assert kinds == [*["refusal"] * len(lies), "evidence", *["refusal"] * len(grown)]


def test_a_member_that_proves_itself_proves_which_head_it_was_shown(tmp_path: Path) -> None:
    both = ("aggregator", "collaborators")
    with (
        federation(tmp_path / "ws", proving=both, members=MEMBERS) as fed,
        false_aggregator(fed) as liar,
    ):
        key = signing.generate()
        head = Head(origin=ORIGIN, size=0, root=merkle.EMPTY)
        peer = heads.Peer(origin=ORIGIN, key=key.public_key())
        shown = heads.show(checkpoint.sign(head, key), peer)
        liar.say = lambda seen: Show(shown)
        assert ping(fed, "anna", liar.address) == "unavailable"
        _, said = ratls.decode(liar.heard[0].evidence.evidence)
        assert claims.decode(said).checkpoint == shown


def test_a_damaged_memory_of_ones_own_stops_the_member_and_is_named(fed: Federation) -> None:
    fed.aggregator()
    assert ping(fed, "anna") == "good"
    (path,) = Workspace(fed.folder).heads("anna").glob("*.head")
    path.write_bytes(path.read_bytes()[:-9])
    party = fed.collaborator("anna")
    assert party.end() == 2
    assert str(path) in party.events[-1]["error"]["message"]
    assert told(fed, "peer_refused") == []
