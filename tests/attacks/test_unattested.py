# SPDX-License-Identifier: Apache-2.0
"""Members without evidence get what the policy says that they receive, and nothing else."""

from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.support.attesting import Mallory
from tests.support.federation import federation
from tests.support.hostile import code_of, hostile

pytestmark = pytest.mark.timeout(180)
BOTH = ("aggregator", "collaborators")
MEMBERS = {"anna": 1.0, "bernd": 2.0}


def excusing(receives: list[str]) -> Any:
    """Changes to the policy's roles: bernd needs no evidence, and receives this."""
    return {"members": ["bernd"], "reason": "has no SGX", "receives": receives}


@pytest.mark.parametrize("receives", [["model"], []], ids=["model", "nothing"])
def test_it_is_asked_and_given_only_what_it_may_receive(
    tmp_path: Path, receives: list[str]
) -> None:
    with federation(
        tmp_path / "ws", proving=BOTH, members=MEMBERS, unattested=excusing(receives)
    ) as fed:
        aggregator = fed.aggregator()
        own = fed.certify("collaborator", "bernd", into="x")
        with hostile(fed, own) as peer:
            m = Mallory(fed, own, peer)
            assert m.attest(lambda a, t: b"") in ("NOT ATTESTED", "ATT-REQUIRED")
            stream = peer.work()
            stream.hear("welcome")
            fed.collaborator("anna")
            opened = aggregator.wait("round_opened", round=1)
            model = opened["model"]
            if receives:
                assert sorted(opened["asked"]) == ["anna", "bernd"]
                assert stream.hear("request").params == model
                assert peer.fetch(model)
                return
            assert list(opened["asked"]) == ["anna"]
            with pytest.raises(grpc.RpcError) as refused:
                peer.fetch(model)
            assert code_of(refused.value) == "ATT-POLICY"
            assert aggregator.wait("run_finished")["rounds"] == 3


def test_who_comes_into_an_open_round_without_the_right_is_left_out_at_once(
    tmp_path: Path,
) -> None:
    rules = {"unattested": excusing([]), "fraction": 0.5, "deadline_s": 50}
    with federation(tmp_path / "ws", proving=BOTH, members=MEMBERS, **rules) as fed:
        busy = fed.busy("anna", in_round=1)
        aggregator = fed.aggregator()
        fed.collaborator("anna")
        aggregator.wait("task_started", round=1, member="anna")
        own = fed.certify("collaborator", "bernd", into="x")
        with hostile(fed, own) as peer:
            m = Mallory(fed, own, peer)
            assert m.attest(lambda a, t: b"") == "NOT ATTESTED"
            stream = peer.work()
            stream.hear("welcome")
            assert aggregator.wait("update_refused", member="bernd")["code"] == "ATT-POLICY"
            busy.unlink()
            closed = aggregator.wait("round_closed", round=1)
            assert closed["failed"] == {"bernd": "ATT-POLICY"}
            aggregator.wait("run_finished")
