# SPDX-License-Identifier: Apache-2.0
"""Members that may not take part, or no longer: the others go on, or are told how to."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.support.federation import Federation, Party, federation

from fedclave import tensors

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def fed(tmp_path: Path) -> Iterator[Federation]:
    with federation(tmp_path / "ws", deadline_s=600) as made:
        yield made


def model(finished: dict[str, object]) -> tensors.Stored:
    return tensors.Stored(Path(str(finished["path"])))


def ended_as_refused(party: Party, code: str) -> str:
    assert party.end() == 3, (party.stderr, party.events)
    error = party.events[-1]["error"]
    assert (error["kind"], error["code"]) == ("refused", code)
    return str(error["message"])


def test_a_certified_name_that_is_not_listed_is_told_so_and_the_others_go_on(
    fed: Federation,
) -> None:
    fed.admits("anna", "bernd")
    aggregator = fed.aggregator()
    message = ended_as_refused(fed.collaborator("carla"), "unknown-member")
    assert "'carla'" in message and "plan/cols.yaml" in message
    aggregator.wait("peer_refused", code="unknown-member")
    fed.members.pop("carla")
    parties = fed.all()
    finished = aggregator.wait("run_finished")
    np.testing.assert_allclose(model(finished)["w"], fed.final(), rtol=1e-5)
    assert [party.end() for party in (aggregator, *parties)] == [0, 0, 0]


def test_a_member_that_is_revoked_in_a_round_is_left_out_and_the_run_goes_on(
    tmp_path: Path,
) -> None:
    with federation(tmp_path / "ws", fraction=0.5, deadline_s=600) as fed:
        busy = fed.busy("carla", in_round=2)
        aggregator = fed.aggregator()
        anna, bernd, carla = fed.all()
        aggregator.wait("task_started", round=2, member="carla", task="train")
        fed.fx("ca", "revoke", "carla")
        busy.unlink()
        closed = aggregator.wait("round_closed", round=2)
        assert closed["accepted"] == ["anna", "bernd"]
        assert closed["failed"] == {"carla": "certificate-revoked"}  # known, not waited for
        assert aggregator.wait("round_opened", round=3)["asked"].keys() == {"anna", "bernd"}
        finished = aggregator.wait("run_finished")
        after_one = fed.final(1)
        fed.members.pop("carla")
        expected = fed.final(2, after_one)
        np.testing.assert_allclose(model(finished)["w"], expected, rtol=1e-5)
        ended_as_refused(carla, "certificate-revoked")
        assert [party.end() for party in (aggregator, anna, bernd)] == [0, 0, 0]


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Federation]:
    """One whose members wait for as long as a busy machine needs to bring back the aggregator."""
    with federation(tmp_path / "ws", deadline_s=600, patience_s=240) as made:
        yield made


@pytest.mark.timeout(300)
def test_a_run_that_a_revocation_stopped_goes_on_with_a_party_that_joins_instead(
    patient: Federation,
) -> None:
    fed = patient
    busy = fed.busy("carla", in_round=2)
    aggregator = fed.aggregator()
    anna, bernd, carla = fed.all()
    aggregator.wait("task_started", round=2, member="carla", task="train")
    fed.fx("ca", "revoke", "carla")
    busy.unlink()
    stopped = aggregator.wait("run_stopped", round=2)
    assert "carla (certificate-revoked)" in stopped["message"]
    assert "Start again" in stopped["message"] and "plan/cols.yaml" in stopped["message"]
    assert aggregator.end() == 4
    assert aggregator.events[-1]["error"]["message"] == stopped["message"]
    ended_as_refused(carla, "certificate-revoked")

    (fed.folder / "data/dora.txt").write_text("4.0")
    fed.fx("collaborator", "create", "-n", "dora", "-d", str(fed.folder / "data/dora.txt"))
    fed.fx("collaborator", "generate-cert-request", "-n", "dora")
    fed.fx("collaborator", "certify", "-n", "dora", "--yes")
    again = fed.aggregator()
    dora = fed.collaborator("dora")
    started = again.wait("run_started")
    assert (started["round"], started["resumed"]) == (1, True)
    here = ["anna", "bernd", "dora"]
    assert sorted(again.wait("round_opened", round=2)["asked"]) == here
    assert again.wait("round_closed", round=2)["accepted"] == here
    finished = again.wait("run_finished")
    after_one = fed.final(1)
    fed.members = {"anna": 1.0, "bernd": 2.0, "dora": 4.0}
    np.testing.assert_allclose(model(finished)["w"], fed.final(2, after_one), rtol=1e-5)
    assert [party.end() for party in (again, anna, bernd, dora)] == [0, 0, 0, 0]
