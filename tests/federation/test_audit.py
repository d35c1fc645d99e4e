# SPDX-License-Identifier: Apache-2.0
"""The log of a run between real processes: what it says, also after `kill -9`, and `fx audit`."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.support.federation import FX, WAIT_S, Federation, federation
from tests.support.hostile import code_of, hostile

from fedclave.tensors import Stored, digest

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def fed(tmp_path: Path) -> Iterator[Federation]:
    with federation(tmp_path / "ws", proving=("aggregator",)) as made:
        yield made


def audit(fed: Federation, *command: str, code: int = 0) -> dict[str, Any]:
    done = subprocess.run(
        [*FX, "audit", *command, "-C", str(fed.folder), "--json"],
        stdout=subprocess.PIPE,
        timeout=WAIT_S,
    )
    assert done.returncode == code
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def rounds(shown: dict[str, Any]) -> list[dict[str, Any]]:
    return [one["record"] for one in shown["entries"] if one["kind"] == "round"]


def test_each_round_is_logged_once_also_when_the_aggregator_is_killed(fed: Federation) -> None:
    aggregator = fed.aggregator()
    fed.all()
    for event in ("update_accepted", "round_closed"):
        aggregator.wait(event)
        aggregator.kill()
        aggregator = fed.aggregator()
    finished = aggregator.wait("run_finished")
    assert aggregator.end() == 0
    shown = audit(fed, "show")
    logged = rounds(shown)
    assert [one["round"] for one in logged] == [1, 2, 3, 4]  # the fourth: the final evaluation
    before, after = ([one[key] for one in logged] for key in ("model_before", "model_after"))
    assert before[1:] == after[:-1]
    assert before[0] == digest(Stored(fed.folder / "save/initial.safetensors"))
    assert after[-1] == finished["model"]
    for one in logged[:3]:
        assert {part["outcome"] for part in one["members"]} == {"folded"}
        assert {part["name"]: part["weight"] for part in one["members"]} == {
            "anna": 1, "bernd": 2, "carla": 5
        }  # fmt: skip
        assert one["word"] == "SIMULATED"
    assert {part["outcome"] for part in logged[3]["members"]} == {"measured"}
    kinds = [one["kind"] for one in shown["entries"]]
    assert kinds.count("contract") == kinds.count("policy") == 3  # once for each start


def test_the_log_is_verified_and_an_entry_proved_offline(fed: Federation, tmp_path: Path) -> None:
    aggregator = fed.aggregator()
    own = fed.certify("collaborator", "anna", into="x")
    with hostile(fed, own) as peer, pytest.raises(grpc.RpcError) as refused:
        peer.status()
    assert code_of(refused.value) == "ATT-REQUIRED"
    fed.all()
    aggregator.wait("run_finished")
    assert aggregator.end() == 0
    key = str(fed.cert / "log.pub")
    head = audit(fed, "verify", "--key", key)
    assert head["verified"] is True
    shown = audit(fed, "show")
    refusals = [one["record"] for one in shown["entries"] if one["kind"] == "refusal"]
    assert [one["code"] for one in refusals] == ["ATT-REQUIRED"]
    index = next(one["index"] for one in shown["entries"] if one["kind"] == "round")
    audit(fed, "prove", str(index), "--out", str(tmp_path / "round.proof"))
    proved = audit(fed, "verify", str(tmp_path / "round.proof"), "--key", key)
    assert proved["entry"]["record"]["round"] == 1
    entries = fed.folder / "logs/audit/entries"
    raw = bytearray(entries.read_bytes())
    raw[len(raw) // 2] ^= 1
    entries.write_bytes(raw)
    assert audit(fed, "verify", "--key", key, code=3)["error"]["code"] == "log-proof"
