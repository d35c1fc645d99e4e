# SPDX-License-Identifier: Apache-2.0
"""Replay towards a member: an aggregator that shows what it proved at an earlier time.

Its TLS key is the aggregator's own, so that nothing but the challenge is of another time. That an
aggregator refuses a member's replay stands in ``test_attestation.py``.
"""

import secrets
from collections.abc import Iterator

import pytest
from tests.support.attesting import Mallory
from tests.support.between import asked, between
from tests.support.federation import Federation, federation
from tests.support.hostile import hostile
from tests.support.split_view import ping

from fedclave.transport.grpc.proto import federation_pb2 as pb
from fedclave.trust.credentials import Credentials

pytest.importorskip("cbor2", reason="evidence needs an extra: attest")
pytestmark = pytest.mark.timeout(180)
MEMBERS = {"anna": 1.0, "bernd": 2.0}


@pytest.fixture(scope="module")
def fed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    folder = tmp_path_factory.mktemp("replay") / "ws"
    with federation(folder, proving=("aggregator",), members=MEMBERS) as made:
        made.aggregator()
        yield made


def challenge(fed: Federation, name: str, nonce: bytes) -> pb.Challenge:
    """The one that a member would send, but for its nonce."""
    with hostile(fed, Credentials.read(fed.cert, name)) as peer:
        return Mallory(fed, Credentials.read(fed.cert, name), peer).challenge(nonce=nonce)


@pytest.mark.parametrize("nonce", [bytes(32), b"\xff" * 32, None], ids=["zeros", "ones", "random"])
def test_evidence_for_a_guessed_challenge_is_refused(fed: Federation, nonce: bytes | None) -> None:
    """The attacker asked the enclave over the member's own key, before the member came."""
    with hostile(fed, Credentials.read(fed.cert, "anna")) as hers:
        guessed = challenge(fed, "anna", nonce or secrets.token_bytes(32))
        recorded = asked(hers.channel, guessed)
    assert recorded.evidence
    truth = fed.address
    shown = Credentials.read(fed.cert, "aggregator")
    with between(fed, shown, lambda key, challenge: recorded) as attacker:
        fed.address = attacker.address
        party = fed.collaborator("anna")
        code = party.end()
        fed.address = truth
    assert (code, party.events[-1]["error"]["code"]) == (3, "ATT-NONCE")
    assert "replay" in party.events[-1]["error"]["message"]
    assert set(attacker.called) == {"Attest"}, "nothing of the run was asked or sent"
    assert [up.WhichOneof("body") for up in attacker.heard] == ["refusal"]


def test_what_a_member_believed_once_it_does_not_believe_again(fed: Federation) -> None:
    """The very answer that was good a second ago: the member's challenge is a new one each time.

    Everything else is the same: both TLS keys, the aggregator's own nonce, the head of its log. So
    a member that gave one challenge always would take it again.
    """
    recorded: list[pb.Evidence] = []
    asks: list[bytes] = []
    shown = Credentials.read(fed.cert, "aggregator")
    with hostile(fed, Credentials.read(fed.cert, "bernd")) as his:

        def answer(key: bytes, challenge: pb.Challenge) -> pb.Evidence:
            asks.append(challenge.nonce)
            if not recorded:
                recorded.append(asked(his.channel, challenge))
            return recorded[0]

        with between(fed, shown, answer) as attacker:
            assert ping(fed, "bernd", attacker.address) == "unavailable", "it believed, and went on"
            assert ping(fed, "bernd", attacker.address) == "ATT-NONCE"
            assert ping(fed, "bernd", attacker.address) == "ATT-NONCE"
    assert len(set(asks)) == len(asks) == 3
    assert [up.WhichOneof("body") for up in attacker.heard] == ["evidence", "refusal", "refusal"]
