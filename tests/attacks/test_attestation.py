# SPDX-License-Identifier: Apache-2.0
"""Attacks on attestation, against a real aggregator process (and a real quoting service).

A hostile peer has a good certificate, speaks fl-attest/1 by hand, and has the simulated platform's
keys: whatever it may quote, it gets nothing of the run without evidence for this very channel.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.support.attesting import Attesting, Mallory, calls
from tests.support.federation import Federation, Party, federation
from tests.support.hostile import code_of, hostile

from fedclave.plan import load
from fedclave.transport.grpc.proto import federation_pb2 as pb
from fedclave.trust import claims, ratls
from fedclave.trust.quoting import QuotingEnclave

cbor2 = pytest.importorskip("cbor2", reason="evidence needs an extra: attest")
pytestmark = pytest.mark.timeout(180)
BOTH = ("aggregator", "collaborators")
MEMBERS = {"anna": 1.0, "bernd": 2.0}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Federation, Party]]:
    """A federation in which both sides prove what they run, and its running aggregator."""
    folder = tmp_path_factory.mktemp("attested") / "ws"
    with federation(folder, proving=BOTH, members=MEMBERS) as made:
        yield made, made.aggregator()


@pytest.fixture
def mallory(both: tuple[Federation, Party]) -> Iterator[Mallory]:
    fed, _ = both
    own = fed.certify("collaborator", "anna", into="x")
    with hostile(fed, own) as peer:
        yield Mallory(fed, own, peer)


def test_an_honest_answer_opens_a_session(mallory: Mallory) -> None:
    assert mallory.attest(lambda a, t: mallory.evidence(mallory.claims(a, t.nonce))) == "SIMULATED"
    assert mallory.peer.status().member == "anna"


def test_no_call_is_answered_before_attestation(mallory: Mallory) -> None:
    assert calls(mallory.peer) == {"ATT-REQUIRED"}


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"contract": "0" * 64}, "ATT-CONTRACT"),
        ({"policy": "0" * 64}, "ATT-POLICY-VERSION"),
        ({"key": bytes(32)}, "ATT-KEY-BINDING"),  # a man in the middle, seen from the other end
        ({"versions": [9]}, "wrong-version"),
        ({"versions": []}, "wrong-version"),
        ({"nonce": b""}, "ATT-MALFORMED"),
        ({"nonce": bytes(31)}, "ATT-MALFORMED"),
        ({"contract": "\u0000" * 5000, "policy": ""}, "ATT-CONTRACT"),
    ],
)
def test_a_challenge_of_another_run_gets_no_evidence(
    mallory: Mallory, changed: dict[str, Any], code: str
) -> None:
    assert mallory.asks(mallory.challenge(**changed)) == code


def without(said: bytes) -> bytes:
    """Claims that do not say which key they are about."""
    plain = dict(cbor2.loads(said))
    del plain["pubkey-hash"]
    return bytes(cbor2.dumps(plain, canonical=True))


FORGED: dict[str, tuple[str, Callable[[Mallory, bytes, pb.Evidence], bytes]]] = {
    "none at all": ("ATT-REQUIRED", lambda m, a, t: b""),
    "garbage": ("ATT-MALFORMED", lambda m, a, t: b"\xff" * 100),
    "more than there can be": ("ATT-MALFORMED", lambda m, a, t: bytes(2**17)),
    "the aggregator's own (reflection)": ("ATT-KEY-BINDING", lambda m, a, t: t.evidence),
    "another TLS key's (relay)": (
        "ATT-KEY-BINDING",
        lambda m, a, t: m.evidence(replace(m.claims(a, t.nonce), key=bytes(32))),
    ),
    "made for another peer": (
        "ATT-KEY-BINDING",
        lambda m, a, t: m.evidence(replace(m.claims(a, t.nonce), peer=bytes(32))),
    ),
    "of an earlier challenge (replay)": (
        "ATT-NONCE",
        lambda m, a, t: m.evidence(m.claims(a, bytes(32))),
    ),
    "naming another challenge of ours": (
        "ATT-NONCE",
        lambda m, a, t: m.evidence(m.claims(bytes(32), t.nonce)),
    ),
    "of an aggregator (wrong role)": (
        "ATT-ROLE",
        lambda m, a, t: m.evidence(replace(m.claims(a, t.nonce), role="aggregator")),
    ),
    "of another member": (
        "ATT-ROLE",
        lambda m, a, t: m.evidence(replace(m.claims(a, t.nonce), name="bernd")),
    ),
    "of another federation": (
        "wrong-federation",
        lambda m, a, t: m.evidence(replace(m.claims(a, t.nonce), federation="other")),
    ),
    "of another contract": (
        "ATT-CONTRACT",
        lambda m, a, t: m.evidence(replace(m.claims(a, t.nonce), contract="0" * 64)),
    ),
    "of another policy": (
        "ATT-POLICY-VERSION",
        lambda m, a, t: m.evidence(replace(m.claims(a, t.nonce), policy="0" * 64)),
    ),
    "naming another head of the log than was shown": (
        "log-fork",
        lambda m, a, t: m.evidence(replace(m.claims(a, t.nonce), checkpoint=b"another")),
    ),
    "of changed code": (
        "ATT-MRENCLAVE",
        lambda m, a, t: m.evidence(m.claims(a, t.nonce), measurement=bytes(32)),
    ),
    "an hour old": (
        "ATT-NONCE",
        lambda m, a, t: m.evidence(
            replace(m.claims(a, t.nonce), time=datetime(2020, 1, 1, tzinfo=UTC))
        ),
    ),
    "without pubkey-hash": (
        "ATT-KEY-BINDING",
        lambda m, a, t: m.evidence_about(without(claims.encode(m.claims(a, t.nonce)))),
    ),
    "10,000 arrays in each other": (
        "ATT-MALFORMED",
        lambda m, a, t: m.evidence_about(b"\x81" * 10_000 + b"\0"),
    ),
    "claims of 8 EiB": (
        "ATT-MALFORMED",
        lambda m, a, t: m.evidence_about(bytes.fromhex("bb7fffffffffffffff")),
    ),
    "claims over what claims may have": (
        "ATT-MALFORMED",
        lambda m, a, t: m.evidence_about(bytes(claims.MAX_SIZE + 1)),
    ),
    "a quote about other claims": (
        "ATT-KEY-BINDING",
        lambda m, a, t: ratls.encode(
            m.enclave.quote(m.measurement, bytes(64)), claims.encode(m.claims(a, t.nonce))
        ),
    ),
}


@pytest.mark.parametrize("what", FORGED)
def test_evidence_that_proves_nothing_here_opens_no_session(mallory: Mallory, what: str) -> None:
    code, forge = FORGED[what]
    assert mallory.attest(lambda a, t: forge(mallory, a, t)) == code
    assert calls(mallory.peer) <= {"ATT-REQUIRED", code}


def test_evidence_that_was_good_once_is_not_good_again(mallory: Mallory) -> None:
    made: list[bytes] = []

    def first(asked: bytes, theirs: pb.Evidence) -> bytes:
        made.append(mallory.evidence(mallory.claims(asked, theirs.nonce)))
        return made[0]

    assert mallory.attest(first) == "SIMULATED"
    assert mallory.attest(lambda asked, theirs: made[0]) == "ATT-NONCE"
    assert calls(mallory.peer) == {"ATT-NONCE"}


def test_each_challenge_of_the_aggregator_is_a_new_one(mallory: Mallory) -> None:
    seen: list[bytes] = []

    def look(asked: bytes, theirs: pb.Evidence) -> bytes:
        seen.append(theirs.nonce)
        return b""

    for _ in range(5):
        mallory.attest(look)
    assert len(set(seen)) == 5


def test_a_debug_enclave_opens_no_session(mallory: Mallory, both: tuple[Federation, Party]) -> None:
    mallory.enclave = QuotingEnclave(both[0].platform.quoting, debug=True)
    answer = mallory.attest(lambda a, t: mallory.evidence(mallory.claims(a, t.nonce)))
    assert answer in ("ATT-DEBUG", "ATT-ATTRIBUTES")
    assert "answered" not in calls(mallory.peer)


def test_a_session_that_failed_to_attest_again_is_over(mallory: Mallory) -> None:
    assert mallory.attest(lambda a, t: mallory.evidence(mallory.claims(a, t.nonce))) == "SIMULATED"
    assert mallory.attest(lambda a, t: t.evidence) == "ATT-KEY-BINDING"
    assert calls(mallory.peer) == {"ATT-KEY-BINDING"}


def test_a_session_is_bound_to_its_tls_key(
    mallory: Mallory, both: tuple[Federation, Party]
) -> None:
    fed, _ = both
    assert mallory.attest(lambda a, t: mallory.evidence(mallory.claims(a, t.nonce))) == "SIMULATED"
    with hostile(fed, fed.certify("collaborator", "anna", into="y")) as other:
        assert calls(other) == {"ATT-REQUIRED"}


def test_both_sides_prove_themselves_and_the_model_is_what_it_would_have_been(
    tmp_path: Path,
) -> None:
    with federation(tmp_path / "plain", members=MEMBERS) as plain:
        aggregator = plain.aggregator()
        plain.all()
        expected = aggregator.wait("run_finished")["model"]
    rules = {"freshness": {"session_s": 4, "reattest_s": 1}}
    with federation(tmp_path / "ws", proving=BOTH, members=MEMBERS, rules=rules) as fed:
        busy = fed.busy("anna", in_round=2)
        aggregator = fed.aggregator()
        parties = fed.all()
        aggregator.wait("task_started", round=2, member="anna")
        seen = [aggregator.wait("member_attested") for _ in range(6)]  # again and again, at work
        busy.unlink()
        assert aggregator.wait("run_finished")["model"] == expected
        assert {event["word"] for event in seen} == {"SIMULATED"}
        assert len({event["measurement"] for event in seen}) == 1
        assert [aggregator.end(), *(party.end() for party in parties)] == [0, 0, 0]
        told = map(json.loads, (fed.folder / "logs/events.jsonl").read_text().splitlines())
        joined = [event["member"] for event in told if event["event"] == "member_joined"]
        assert sorted(joined) == list(MEMBERS)  # nobody had to come again


def test_a_session_ends_with_its_time(tmp_path: Path) -> None:
    rules = {"freshness": {"session_s": 2, "reattest_s": 2}}
    with federation(tmp_path / "ws", proving=BOTH, members=MEMBERS, rules=rules) as fed:
        fed.aggregator()
        own = fed.certify("collaborator", "anna", into="x")
        with hostile(fed, own) as peer:
            m = Mallory(fed, own, peer)
            assert m.attest(lambda a, t: m.evidence(m.claims(a, t.nonce))) == "SIMULATED"
            assert peer.status().member == "anna"
            time.sleep(2.5)
            assert calls(peer) == {"ATT-REQUIRED"}


def test_a_simulated_tee_is_refused_without_the_switch(tmp_path: Path) -> None:
    with federation(tmp_path / "ws", proving=("aggregator",), members=MEMBERS) as fed:
        aggregator = fed.aggregator()
        fed.proving = ()  # no --allow-simulated from here on
        party = fed.collaborator("anna")
        assert party.end() == 3
        assert party.events[-1]["error"]["code"] == "ATT-SIMULATED"
        assert aggregator.wait("peer_refused")["code"] == "ATT-SIMULATED"


def test_nothing_is_sent_by_a_party_whose_owner_has_not_accepted(tmp_path: Path) -> None:
    with federation(tmp_path / "ws", proving=("aggregator",), members=MEMBERS) as fed:
        (fed.cert / "anna.acceptance.dsse.json").unlink()
        fed.aggregator()
        party = fed.collaborator("anna")
        assert party.end() == 2
        assert "has not accepted" in party.events[-1]["error"]["message"]


@pytest.mark.parametrize(
    "path", ["src/learner.py", "plan/attestation.yaml", "save/initial.safetensors", "src/more.py"]
)
def test_a_changed_file_stops_every_side_and_is_named(tmp_path: Path, path: str) -> None:
    with federation(tmp_path / "ws", proving=("aggregator",), members=MEMBERS) as fed:
        fed.aggregator()
        if path == "plan/attestation.yaml":  # its signers sign what it means, not its bytes
            policies = (fed.folder / path).read_text()
            (fed.folder / path).write_text(policies.replace("kit-policy", "my-policy"))
        else:
            with (fed.folder / path).open("ab") as file:
                file.write(b"\n# one line more\n")
        for party in (fed.collaborator("anna"), fed.start_aggregator()):
            assert party.end() in (2, 3)
            assert path in party.events[-1]["error"]["message"]


def test_a_clean_plan_asks_for_nothing(tmp_path: Path) -> None:
    with federation(tmp_path / "ws", members=MEMBERS) as fed:
        assert load(fed.folder / "plan/plan.yaml").attestation is None
        aggregator = fed.aggregator()
        with hostile(fed, fed.certify("collaborator", "anna", into="x")) as peer:
            call = Attesting(peer.channel)
            call.say(challenge=pb.Challenge())
            with pytest.raises(grpc.RpcError) as refused:
                call.hear()
            assert code_of(refused.value) == "wrong-version"
        assert aggregator.process.poll() is None
