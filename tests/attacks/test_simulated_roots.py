# SPDX-License-Identifier: Apache-2.0
"""A simulated TEE between processes where hardware is asked for, or where nobody said to bear it.

The aggregator of the attacker does not ask itself whether its members would refuse it
(``support.launch``); a member of his has the simulated platform's keys.
"""

from pathlib import Path

import pytest
from tests.support import trust
from tests.support.attesting import Mallory, calls
from tests.support.federation import Federation, Party, federation
from tests.support.hostile import hostile

from fedclave.workspace.layout import Workspace

pytestmark = pytest.mark.timeout(180)
BOTH = ("aggregator", "collaborators")
MEMBERS = {"anna": 1.0, "bernd": 2.0}
NO_HARDWARE = ("ATT-SIMULATED", "ATT-CHAIN")
INTEL = {"roots": ["intel"]}


def refused(party: Party) -> str:
    """The code that a party ended with."""
    assert party.end() == 3, party.stderr
    return str(party.events[-1]["error"]["code"])


def unrehearsed(fed: Federation) -> Party:
    """The attacker's aggregator."""
    fed.changes = {"unrehearsed": True}
    aggregator = fed.aggregator()
    fed.changes = {}
    return aggregator


def test_an_aggregator_on_a_simulated_tee_does_not_start_where_hardware_is_asked_for(
    tmp_path: Path,
) -> None:
    with federation(tmp_path / "ws", proving=BOTH, members=MEMBERS, rules=INTEL) as fed:
        party = fed.start_aggregator()
        assert refused(party) in NO_HARDWARE
        assert "the members would refuse this aggregator" in party.events[-1]["error"]["message"]


def test_a_member_that_wants_hardware_refuses_a_simulated_aggregator_whatever_its_switch(
    tmp_path: Path,
) -> None:
    with federation(tmp_path / "ws", proving=BOTH, members=MEMBERS, rules=INTEL) as fed:
        unrehearsed(fed)
        party = fed.collaborator("anna")  # with --allow-simulated
        assert refused(party) in NO_HARDWARE


def test_an_aggregator_that_wants_hardware_refuses_a_simulated_member(tmp_path: Path) -> None:
    with federation(tmp_path / "ws", proving=BOTH, members=MEMBERS, rules=INTEL) as fed:
        unrehearsed(fed)  # with --allow-simulated
        own = fed.certify("collaborator", "anna", into="x")
        with hostile(fed, own) as peer:
            m = Mallory(fed, own, peer)
            code = m.attest(lambda a, t: m.evidence(m.claims(a, t.nonce)))
            assert code in NO_HARDWARE
            assert calls(peer) <= {"ATT-REQUIRED", code}


def test_a_simulated_root_of_somebody_else_is_refused_on_both_sides(tmp_path: Path) -> None:
    other = {"roots": ["intel", "simulated:" + "5e" * 32]}
    with federation(tmp_path / "ws", proving=BOTH, members=MEMBERS, rules=other) as fed:
        unrehearsed(fed)
        assert refused(fed.collaborator("anna")) in NO_HARDWARE
        own = fed.certify("collaborator", "anna", into="x")
        with hostile(fed, own) as peer:
            m = Mallory(fed, own, peer)
            assert m.attest(lambda a, t: m.evidence(m.claims(a, t.nonce))) in NO_HARDWARE


def test_an_aggregator_without_the_switch_refuses_a_simulated_member(tmp_path: Path) -> None:
    with federation(tmp_path / "ws", proving=BOTH, members=MEMBERS) as fed:
        fed.proving = ()  # no --allow-simulated
        assert fed.start_aggregator().end() == 2  # there is no other TEE here
        fed.changes = {"unallowed": True}
        fed.proving = BOTH
        fed.aggregator()
        own = fed.certify("collaborator", "anna", into="x")
        with hostile(fed, own) as peer:
            m = Mallory(fed, own, peer)
            code = m.attest(lambda a, t: m.evidence(m.claims(a, t.nonce)))
            assert code == "ATT-SIMULATED"
            assert calls(peer) <= {"ATT-REQUIRED", code}


def test_a_root_that_the_next_version_drops_is_trusted_no_longer(tmp_path: Path) -> None:
    rules = {"fraction": 0.5, "deadline_s": 50}
    with federation(tmp_path / "ws", proving=BOTH, members=MEMBERS, **rules) as fed:
        fed.changes = {"reconsider_s": 0.5}
        fed.busy("anna", in_round=1)
        aggregator = fed.aggregator()
        anna = fed.collaborator("anna")
        aggregator.wait("task_started", round=1, member="anna")
        trust.follow(Workspace(fed.folder), fed.signer, fed.now, INTEL)
        assert aggregator.wait("session_ended")["code"] in NO_HARDWARE
        assert refused(anna) in NO_HARDWARE
