# SPDX-License-Identifier: Apache-2.0
"""A policy that says of an enclave's role nothing about the code: it admits nobody in that role.

Neither measurements nor signers is not "any". A policy that says so of every role does not load.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support import trust
from tests.support.attesting import Mallory, calls
from tests.support.evidence import EXPECTED
from tests.support.federation import federation
from tests.support.hostile import hostile
from tests.support.policies import ROLE, made
from tests.support.vouching import Door, opened

from fedclave.errors import Code, PlanError
from fedclave.trust.policy import MeasurementPart
from fedclave.workspace.layout import Workspace

pytest.importorskip("dcap_qvl", reason="the second verifier is an extra: attest")
pytestmark = pytest.mark.timeout(180)
BOTH = ("aggregator", "collaborators")
MEMBERS = {"anna": 1.0, "bernd": 2.0}
NOTHING: dict[str, Any] = {"measurements": []}


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with opened(tmp_path_factory.mktemp("door")) as opened_:
        yield opened_


@pytest.mark.parametrize(
    "aggregator",
    [NOTHING, {}, {"attributes": {"mask": 0, "value": 0}, "signers": []}],
    ids=["no measurement", "not a word", "any attributes"],
)
def test_the_gate_refuses_genuine_evidence_in_a_role_without_measurements(
    door: Door, aggregator: dict[str, Any]
) -> None:
    policy = door.rules(roles={"aggregator": aggregator, "collaborator": ROLE})
    assert not policy.policy.roles.aggregator.admits
    assert door.verdict(door.evidence(), policy=policy) is Code.ATT_POLICY_EMPTY
    member = door.about_role("collaborator")
    assert door.verdict(*member, policy=policy) is None, "the role that it does speak of"


def test_that_everybody_is_excused_says_nothing_of_the_aggregators_code(door: Door) -> None:
    excused = {"members": "all", "reason": "no TEE", "receives": ["model"]}
    policy = door.rules(roles={"collaborator": {"unattested": excused}})
    assert door.verdict(door.evidence(), EXPECTED, policy=policy) is Code.ATT_POLICY_EMPTY
    member = door.about_role("collaborator")
    assert door.verdict(*member, policy=policy) is Code.ATT_POLICY_EMPTY


@pytest.mark.parametrize("roles", [{}, {"aggregator": NOTHING, "collaborator": NOTHING}], ids=repr)
def test_a_policy_that_speaks_of_no_code_at_all_does_not_load(roles: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match="admits nobody"):
        made(roles=roles)


def test_a_measurement_of_nothing_is_none() -> None:
    with pytest.raises(ValueError, match="mr_enclave or mr_td"):
        MeasurementPart()


def without(fed_folder: Path, *roles: str) -> dict[str, Any]:
    """The roles of a policy in which these have no measurements."""
    code = {"measurements": [{"mr_enclave": trust.measured(Workspace(fed_folder)).hex()}]}
    return {role: NOTHING if role in roles else code for role in ("aggregator", "collaborator")}


def test_an_aggregator_that_no_member_would_admit_does_not_start(tmp_path: Path) -> None:
    with federation(tmp_path / "ws", proving=BOTH, members=MEMBERS) as fed:
        rules = {"roles": without(fed.folder, "aggregator")}
        trust.follow(Workspace(fed.folder), fed.signer, fed.now, rules)
        party = fed.start_aggregator()
        assert party.end() == 3
        assert party.events[-1]["error"]["code"] == "ATT-POLICY-EMPTY"
        fed.changes = {"unrehearsed": True}  # the attacker's asks nobody
        aggregator = fed.aggregator()
        fed.changes = {}
        member = fed.collaborator("anna")
        assert member.end() == 3
        assert member.events[-1]["error"]["code"] == "ATT-POLICY-EMPTY"
        assert aggregator.wait("peer_refused")["code"] == "ATT-POLICY-EMPTY"


def test_a_member_of_whose_code_the_policy_says_nothing_gets_nothing(tmp_path: Path) -> None:
    with federation(tmp_path / "ws", proving=BOTH, members=MEMBERS) as fed:
        rules = {"roles": without(fed.folder, "collaborator")}
        trust.follow(Workspace(fed.folder), fed.signer, fed.now, rules)
        fed.aggregator()
        member = fed.collaborator("anna")
        assert member.end() == 3
        assert member.events[-1]["error"]["code"] == "ATT-POLICY-EMPTY"
        own = fed.certify("collaborator", "anna", into="x")
        with hostile(fed, own) as peer:
            m = Mallory(fed, own, peer)
            code = m.attest(lambda a, t: m.evidence(m.claims(a, t.nonce)))
            assert code == "ATT-POLICY-EMPTY"
            assert calls(peer) <= {"ATT-REQUIRED", code}
