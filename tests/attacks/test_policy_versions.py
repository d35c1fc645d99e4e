# SPDX-License-Identifier: Apache-2.0
"""Processes that follow different versions of the policy, and who would go back to an older one."""

from pathlib import Path
from typing import Any

import pytest
from tests.support import trust
from tests.support.federation import Federation, Party, federation

from fedclave.workspace.layout import Workspace

pytestmark = pytest.mark.timeout(180)
BOTH = ("aggregator", "collaborators")
MEMBERS = {"anna": 1.0, "bernd": 2.0}
QUORUM = {"fraction": 0.5, "deadline_s": 50}
NEXT = {"freshness": {"session_s": 40_000}}
"""What the second version changes."""


def follow(fed: Federation, folder: Path, **rules: Any) -> str:
    """Put the next version in place in a folder; returns its digest."""
    return trust.follow(Workspace(folder), fed.signer, fed.now, {**NEXT, **rules})


def refused(party: Party, code: str = "ATT-POLICY") -> str:
    """What a party was told that the policy kept out."""
    assert party.end() == 3, party.stderr
    error = party.events[-1]["error"]
    assert error["code"] == code
    return str(error["message"])


@pytest.mark.parametrize("newer", ["aggregator", "anna"])
def test_two_versions_refuse_each_other_and_say_what_to_do(tmp_path: Path, newer: str) -> None:
    with federation(tmp_path / "ws", proving=BOTH, members=MEMBERS, **QUORUM) as fed:
        home = fed.apart("anna")
        follow(fed, home if newer == "anna" else fed.folder)
        aggregator = fed.aggregator()
        told = refused(fed.collaborator("anna"), "ATT-POLICY-VERSION")
        assert "Give the newer one to both sides" in told
        assert aggregator.wait("peer_refused")["code"] == "ATT-POLICY-VERSION"
        follow(fed, fed.folder if newer == "anna" else home)
        fed.changes = {}
        if newer == "anna":
            aggregator.kill()
            aggregator = fed.aggregator()
        fed.all()
        aggregator.wait("run_finished")


def test_nobody_goes_back_to_the_version_before(tmp_path: Path) -> None:
    with federation(tmp_path / "ws", proving=BOTH, members=MEMBERS) as fed:
        workspace = Workspace(fed.folder)
        paths = (workspace.attestation, workspace.attestation_signatures)
        first = [path.read_bytes() for path in paths]
        follow(fed, fed.folder)
        second = [path.read_bytes() for path in paths]
        fed.changes = {"reconsider_s": 0.5}
        fed.busy("anna", in_round=1)
        aggregator = fed.aggregator()
        anna, _ = fed.all()
        aggregator.wait("task_started", round=1, member="anna")
        for path, raw in zip(paths, first, strict=True):
            path.write_bytes(raw)
        trouble = aggregator.until(
            lambda e: e.get("event") == "policy_trouble" and "is older" in e["message"], "refusal"
        )
        assert "Get the newer one" in trouble["message"]
        anna.kill()
        for party in (fed.collaborator("anna"), fed.start_aggregator()):
            assert "accepted policy kit-policy v2, and policy kit-policy v1 is older" in refused(
                party
            )
        for path, raw in zip(paths, second, strict=True):
            path.write_bytes(raw)
        (fed.folder / "data/anna.order").unlink()
        fed.collaborator("anna")
        aggregator.wait("run_finished")


def test_a_running_aggregator_follows_the_next_version_and_members_come_along(
    tmp_path: Path,
) -> None:
    short = {"freshness": {"session_s": 60, "reattest_s": 2}}
    with federation(tmp_path / "ws", proving=BOTH, members=MEMBERS, rules=short) as fed:
        fed.changes = {"reconsider_s": 0.5}
        busy = fed.busy("anna", in_round=2)
        aggregator = fed.aggregator()
        anna, bernd = fed.all()
        aggregator.wait("task_started", round=2, member="anna")
        digest = follow(fed, fed.folder, **short)
        assert aggregator.wait("policy")["version"] == 2
        for party in (anna, bernd):
            assert party.wait("attested", policy=digest)["word"] == "SIMULATED"
        busy.unlink()
        aggregator.wait("run_finished")
        assert [aggregator.end(), anna.end(), bernd.end()] == [0, 0, 0]


@pytest.mark.parametrize("first", ["aggregator", "anna"])
def test_the_next_version_may_reach_one_side_first(tmp_path: Path, first: str) -> None:
    short = {"freshness": {"session_s": 600, "reattest_s": 2}}
    with federation(tmp_path / "ws", proving=BOTH, members=MEMBERS, rules=short) as fed:
        home = fed.apart("anna")
        folders = [fed.folder, home] if first == "aggregator" else [home, fed.folder]
        fed.changes = {"reconsider_s": 0.5}
        busy = fed.busy("bernd", in_round=2)
        aggregator = fed.aggregator()
        anna, bernd = fed.all()
        aggregator.wait("task_started", round=2, member="bernd")
        follow(fed, folders[0], **short)
        trouble = anna.until(
            lambda e: e.get("event") == "policy_trouble" and "Give the newer one" in e["message"],
            "that the sides differ",
        )
        assert "the aggregator refused this side" in trouble["message"]
        assert aggregator.wait("peer_refused")["code"] == "ATT-POLICY-VERSION"
        digest = follow(fed, folders[1], **short)
        assert anna.wait("attested", policy=digest)["word"] == "SIMULATED"
        busy.unlink()
        aggregator.wait("run_finished")
        assert [aggregator.end(), anna.end(), bernd.end()] == [0, 0, 0]


def test_a_version_that_does_not_admit_a_member_ends_its_session(tmp_path: Path) -> None:
    with federation(tmp_path / "ws", proving=BOTH, members=MEMBERS, **QUORUM) as fed:
        fed.changes = {"reconsider_s": 0.5}
        fed.busy("anna", in_round=2)
        aggregator = fed.aggregator()
        anna, _ = fed.all()
        aggregator.wait("task_started", round=2, member="anna")
        follow(fed, fed.folder, platforms={"deny_keys": [fed.key_of("anna").hex()]})
        assert aggregator.wait("policy")["version"] == 2
        ended = aggregator.wait("session_ended")
        assert (ended["member"], ended["code"]) == ("anna", "ATT-POLICY")
        assert "denies the TLS key" in refused(anna)
        assert aggregator.wait("round_closed", round=2)["accepted"] == ["bernd"]
