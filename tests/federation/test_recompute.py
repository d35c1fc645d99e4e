# SPDX-License-Identifier: Apache-2.0
"""A run computed again from its updates: bit for bit, also after kills; and what is found out."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support.federation import FX, WAIT_S, Federation, Party, federation

from fedclave import tensors
from fedclave.plan import load
from fedclave.trust import records, signing
from fedclave.trust.log import Log
from fedclave.trust.log_files import Reader
from fedclave.trust.records import RoundRecord

pytestmark = pytest.mark.timeout(240)
MEMBERS = {"anna": 1.0, "bernd": 2.0}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """A run that is over; the aggregator was killed in each round, and kept the updates."""
    folder = tmp_path_factory.mktemp("recompute") / "ws"
    with federation(folder, proving=("aggregator",), members=MEMBERS, rounds=3) as fed:
        aggregator = keeping(fed)
        members = [
            fed._start(
                *("collaborator", "start", "-n", name, "--address", fed.address),
                *("--keep-updates", str(fed.folder / f"kept-{name}")),
            )
            for name in MEMBERS
        ]
        for event in ("update_accepted", "round_closed", "update_accepted"):
            aggregator.wait(event)
            aggregator.kill()
            aggregator = keeping(fed)
        assert [party.end() for party in (*members, aggregator)] == [0, 0, 0]
        yield fed


def keeping(fed: Federation) -> Party:
    party = fed._start(
        *("aggregator", "start", "--listen", fed.address or "localhost:0"),
        *("--keep-updates", str(fed.folder / "kept")),
    )
    fed.address = party.wait("listening")["address"]
    return party


def recompute(
    fed: Federation, *options: str, code: int = 0, folder: Path | None = None
) -> dict[str, Any]:
    key = ("--key", str(fed.cert / "log.pub"))
    done = subprocess.run(
        [*FX, "audit", "recompute", "-C", str(folder or fed.folder), "--json", *options, *key],
        stdout=subprocess.PIPE,
        timeout=WAIT_S,
    )
    value: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == code, value
    return value


def from_all(fed: Federation) -> tuple[str, str]:
    return "--updates", str(fed.folder / "kept")


def test_every_round_comes_out_as_the_log_says(ran: Federation) -> None:
    value = recompute(ran, *from_all(ran))
    assert value["same"] is True
    assert [(one["round"], one["updates"]) for one in value["rounds"]] == [
        (1, 2), (2, 2), (3, 2), (4, 0)
    ]  # fmt: skip
    assert len({one["model"] for one in value["rounds"]}) == 3


def test_the_parties_alone_can_do_it_with_what_each_of_them_kept(ran: Federation) -> None:
    pooled = [x for name in MEMBERS for x in ("--updates", str(ran.folder / f"kept-{name}"))]
    assert recompute(ran, *pooled) == recompute(ran, *from_all(ran))


def test_it_can_stop_at_a_round(ran: Federation) -> None:
    assert len(recompute(ran, *from_all(ran), "--until", "2")["rounds"]) == 2


def test_an_update_that_is_missing_is_named_with_its_member(ran: Federation) -> None:
    said = recompute(ran, "--updates", str(ran.folder / "kept-anna"), code=2)["error"]["message"]
    assert "round 1: the update of bernd (" in said


def test_an_update_that_was_changed_is_not_used(ran: Federation, tmp_path: Path) -> None:
    shutil.copytree(ran.folder / "kept", tmp_path / "kept")
    path = sorted((tmp_path / "kept").iterdir())[0]
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    said = recompute(ran, "--updates", str(tmp_path / "kept"), code=2)["error"]["message"]
    assert f"{path} is damaged" in said


def forged(fed: Federation, folder: Path, change: Any) -> Path:
    """The log as its own key would sign it, had the aggregator written something else."""
    with Reader(fed.folder / "logs/audit") as log:
        entries = list(log.entries())
    key = signing.load(fed.cert / "log.key")
    with Log(folder, key, f"fedclave/{load(fed.folder / 'plan/plan.yaml').name}") as log:
        for entry in entries:
            record = records.decode(entry)
            log.append(records.encode(change(record)) if isinstance(record, RoundRecord) else entry)
    return folder


def changed(record: RoundRecord, **fields: Any) -> RoundRecord:
    value = {name: getattr(record, name) for name in record.__dataclass_fields__}
    return RoundRecord(**{**value, **fields})


@pytest.mark.parametrize("field", ["aggregate", "model_after", "model_before"])
def test_an_aggregator_that_computed_something_else_is_found_out(
    ran: Federation, tmp_path: Path, field: str
) -> None:
    def change(record: RoundRecord) -> RoundRecord:
        return changed(record, **{field: "ab" * 32}) if record.round == 2 else record

    log = forged(ran, tmp_path / "log", change)
    error = recompute(ran, str(log), *from_all(ran), code=3)["error"]
    assert error["code"] == "log-aggregate"
    assert "round 2 does not come out" in error["message"]


def test_other_weights_and_left_out_members_are_found_out(ran: Federation, tmp_path: Path) -> None:
    def heavier(record: RoundRecord) -> RoundRecord:
        parts = [
            records.Part(
                name=part.name, word=part.word, packet=part.packet, outcome=part.outcome,
                weight=None if part.weight is None else part.weight + 1,
            )
            for part in record.members
        ]  # fmt: skip
        return changed(record, members=tuple(parts))

    def without(record: RoundRecord) -> RoundRecord:
        return changed(record, members=record.members[:1])

    for number, change in enumerate((heavier, without)):
        log = forged(ran, tmp_path / str(number), change)
        error = recompute(ran, str(log), *from_all(ran), code=3)["error"]
        assert error["code"] == "log-aggregate"
        assert "round 1 does" in error["message"]


def test_a_round_that_is_left_out_of_the_log_is_missed(ran: Federation, tmp_path: Path) -> None:
    log = forged(
        ran, tmp_path / "log", lambda r: changed(r, round=r.round + 1) if r.round > 1 else r
    )
    assert (
        "the log has round 3 here"
        in (recompute(ran, str(log), *from_all(ran), code=3)["error"]["message"])
    )


def test_the_plan_and_the_initial_model_must_be_those_of_the_run(
    ran: Federation, tmp_path: Path
) -> None:
    other = tmp_path / "other.safetensors"
    tensors.write(other, {"w": np.ones(4, np.float32), "steps": np.zeros((), np.int64)})
    said = recompute(ran, *from_all(ran), "--model", str(other), code=2)["error"]["message"]
    assert f"{other} is not the initial model" in said
    assert "by the contract the run began with" in said
    recompute(ran, *from_all(ran), "--model", str(tmp_path / "no"), code=2)
    copy = tmp_path / "ws"
    shutil.copytree(ran.folder, copy)
    plan = copy / "plan/plan.yaml"
    plan.write_text(plan.read_text().replace("seed: 7", "seed: 8"))
    error = recompute(ran, *from_all(ran), code=2, folder=copy)["error"]
    assert "has no round of the plan" in error["message"]


def began_elsewhere(ran: Federation, folder: Path) -> tuple[Path, Path]:
    """The log of an aggregator that began with another model than the contract's, and that one."""
    other = folder / "other.safetensors"
    params = {"w": np.ones(4, np.float32), "steps": np.zeros((), np.int64)}
    began = tensors.write(other, params)
    log = forged(
        ran, folder / "log", lambda r: changed(r, model_before=began) if r.round == 1 else r
    )
    return log, other


def test_an_aggregator_that_began_with_another_model_is_found_out(
    ran: Federation, tmp_path: Path
) -> None:
    log, other = began_elsewhere(ran, tmp_path)
    for model in ([], ["--model", str(other)]):
        error = recompute(ran, str(log), *from_all(ran), *model, code=3)["error"]
        assert error["code"] == "log-aggregate"
        assert "round 1 does not come out" in error["message"]
        assert "the contract has" in error["message"]


def test_without_the_contract_nobody_is_accused_for_a_model_that_does_not_fit(
    ran: Federation, tmp_path: Path
) -> None:
    copy = tmp_path / "ws"
    shutil.copytree(ran.folder, copy)
    (copy / "plan/contract.dsse.json").unlink()
    log, _ = began_elsewhere(ran, tmp_path)
    said = recompute(ran, str(log), *from_all(ran), code=2, folder=copy)["error"]["message"]
    assert "by the log the run began with" in said
    assert "If " in said and "show the log to the other parties" in said


def test_updates_that_cannot_be_kept_do_not_count(tmp_path: Path) -> None:
    """Nothing is recorded that could not be computed again; the run goes on once there is room."""
    with federation(tmp_path / "ws", proving=("aggregator",), members={"anna": 1.0}) as fed:
        (fed.folder / "kept").write_text("a file, where a folder should be")
        aggregator = keeping(fed)
        anna = fed.collaborator("anna")
        assert aggregator.end() == 4
        assert "an update could not be kept" in str(aggregator.events[-1])
        (fed.folder / "kept").unlink()
        aggregator = keeping(fed)
        assert [party.end() for party in (anna, aggregator)] == [0, 0]
        assert recompute(fed, *from_all(fed))["same"] is True
