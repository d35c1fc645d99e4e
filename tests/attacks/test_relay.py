# SPDX-License-Identifier: Apache-2.0
"""Relay: genuine evidence of an attested party, passed on by who ends TLS with a key of his own.

The aggregator is a real process, and so are the members. The attacker has what the federation's CA
certifies (an aggregator's certificate, and a member's to ask with), and the enclave's own words.
"""

from collections.abc import Iterator

import pytest
from tests.support.attesting import Mallory, calls
from tests.support.between import Answer, Between, asked, between
from tests.support.federation import Federation, Party, federation
from tests.support.hostile import hostile

from fedclave.transport.grpc.proto import federation_pb2 as pb
from fedclave.trust.credentials import Credentials

pytest.importorskip("cbor2", reason="evidence needs an extra: attest")
pytestmark = pytest.mark.timeout(180)
BOTH = ("aggregator", "collaborators")
MEMBERS = {"anna": 1.0, "mallory": 2.0}


@pytest.fixture(scope="module")
def fed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    folder = tmp_path_factory.mktemp("relay") / "ws"
    with federation(folder, proving=BOTH, members=MEMBERS) as made:
        made.aggregator()
        yield made


def shown_to(fed: Federation, answer: Answer) -> tuple[Party, Between]:
    """A member that came to the attacker's address, when it has ended."""
    shown = fed.certify("aggregator", "aggregator", into="rogue")
    assert shown.key != Credentials.read(fed.cert, "aggregator").key
    truth = fed.address
    with between(fed, shown, answer) as attacker:
        fed.address = attacker.address
        try:
            party = fed.collaborator("anna")
            party.end()
        finally:
            fed.address = truth
    return party, attacker


def error(party: Party) -> tuple[int | None, str, str]:
    """Exit code, code and message of what a party ended with."""
    found = party.events[-1]["error"]
    return party.process.returncode, str(found["code"]), str(found["message"])


def test_the_enclave_does_not_speak_for_a_key_that_is_not_its_own(fed: Federation) -> None:
    """The challenge is passed on as it came: it names the key that the member sees."""
    with hostile(fed, Credentials.read(fed.cert, "mallory")) as own:
        party, attacker = shown_to(fed, lambda key, challenge: asked(own.channel, challenge))
    code, refusal, message = error(party)
    assert (code, refusal) == (3, "ATT-KEY-BINDING")
    assert "the aggregator refused this side" in message
    assert (set(attacker.called), attacker.heard) == ({"Attest"}, [])


def test_a_member_does_not_believe_evidence_of_another_key(fed: Federation) -> None:
    """The enclave is told that its own key is seen, and answers for that."""
    truth = fed.key_of("aggregator")
    passed: list[pb.Evidence] = []

    with hostile(fed, Credentials.read(fed.cert, "mallory")) as own:

        def answer(key: bytes, challenge: pb.Challenge) -> pb.Evidence:
            challenge.key = truth
            passed.append(asked(own.channel, challenge))
            return passed[-1]

        party, attacker = shown_to(fed, answer)
    code, refusal, message = error(party)
    assert (code, refusal) == (3, "ATT-KEY-BINDING")
    assert "relay" in message
    assert passed[0].evidence, "the enclave did answer"
    assert set(attacker.called) == {"Attest"}, "nothing of the run was asked or sent"
    assert [up.WhichOneof("body") for up in attacker.heard] == ["refusal"]


def test_evidence_that_a_member_made_for_the_attacker_is_not_the_attackers(
    fed: Federation,
) -> None:
    """The other way round: what an honest member would say to him opens no session of his."""
    own = Credentials.read(fed.cert, "mallory")
    with hostile(fed, own) as peer, hostile(fed, Credentials.read(fed.cert, "anna")) as hers:
        anna = Mallory(fed, Credentials.read(fed.cert, "anna"), hers)
        mallory = Mallory(fed, own, peer)
        relayed = mallory.attest(lambda a, t: anna.evidence(anna.claims(a, t.nonce)))
        assert relayed == "ATT-KEY-BINDING"
        assert calls(peer) <= {"ATT-REQUIRED", "ATT-KEY-BINDING"}
        assert anna.attest(lambda a, t: anna.evidence(anna.claims(a, t.nonce))) == "SIMULATED"
        assert calls(peer) <= {"ATT-REQUIRED", "ATT-KEY-BINDING"}, "her session is not his"
