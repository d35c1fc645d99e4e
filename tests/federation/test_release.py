# SPDX-License-Identifier: Apache-2.0
"""A run whose initial model, data and final model the operators never hold in the clear."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support.federation import FX, WAIT_S, Federation, Party, federation

from fedclave import tensors
from fedclave.tensors import Stored
from fedclave.trust import records, release, sealed
from fedclave.trust.log_files import Reader
from fedclave.trust.records import ReleaseRecord

pytestmark = pytest.mark.timeout(240)
MEMBERS = {"anna": 1.0, "bernd": 2.0}
BOTH = ("aggregator", "collaborators")


@pytest.fixture
def fed(tmp_path: Path) -> Iterator[Federation]:
    sealed_ = ("initial", "final")
    with federation(
        tmp_path / "owner", members=MEMBERS, proving=BOTH, sealed=sealed_, patience_s=60
    ) as made:
        yield made


def fx(folder: Path, *command: str) -> dict[str, Any]:
    """The answer of a command that must do well."""
    done = subprocess.run(
        [*FX, *command, "-C", str(folder), "--json"], capture_output=True, text=True, timeout=WAIT_S
    )
    assert done.returncode == 0, done.stdout
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def released(folder: Path) -> list[ReleaseRecord]:
    with Reader(folder) as log:
        found = [records.decode(entry) for entry in log.entries()]
    return [record for record in found if isinstance(record, ReleaseRecord)]


def begun(fed: Federation, folder: Path) -> Party:
    """An operator's aggregator that was given the initial model."""
    party = fed.operator(folder)
    address = party.wait("awaiting_release")["address"]
    value = fx(fed.folder, "model", "release", address, "--allow-simulated")
    assert value["word"] == "SIMULATED"
    fed.address = party.wait("listening")["address"]
    return party


def clear_models(folder: Path) -> list[Path]:
    """Files of an operator that have a model in the clear."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            try:
                found += [path] if "w" in Stored(path) else []
            except Exception:  # no safetensors file
                continue
    return found


def test_models_and_data_are_sealed_from_end_to_end(fed: Federation, tmp_path: Path) -> None:
    operator = tmp_path / "operator"
    aggregator = begun(fed, operator)

    data = tmp_path / "anna.txt"
    data.write_text("1.0")
    fx(fed.folder, "data", "seal", str(data), str(tmp_path / "anna.txt.sealed"), "-n", "anna")
    data.unlink()
    bernd = fed.collaborator("bernd")
    anna = fed._start(
        *("collaborator", "start", "-n", "anna", "--address", fed.address),
        *("-d", str(tmp_path / "anna.txt.sealed")),
    )
    waiting = anna.wait("awaiting_release")
    for _ in range(2):  # a kill while it waits costs nothing
        anna.kill()
        anna = fed._start(
            *("collaborator", "start", "-n", "anna", "--address", fed.address),
            *("-d", str(tmp_path / "anna.txt.sealed")),
        )
        waiting = anna.wait("awaiting_release")
    fx(
        fed.folder,
        *("data", "release", waiting["address"], str(tmp_path / "anna.txt.sealed")),
        *("-n", "anna", "--allow-simulated"),
    )
    finished = aggregator.wait("run_finished")
    named = Path(finished["path"])
    assert named == operator / "save/final.sealed"
    assert sealed.context_of(named).transcript == finished["model"]  # it is there when it is named
    assert finished["word"] == "SIMULATED"
    assert [party.end() for party in (anna, bernd, aggregator)] == [0, 0, 0]

    assert not clear_models(operator)
    made = fx(
        fed.folder,
        *("model", "open", str(operator / "save/final.sealed"), str(tmp_path / "m.safetensors")),
    )
    model = Stored(tmp_path / "m.safetensors")
    np.testing.assert_allclose(model["w"], fed.final(), rtol=1e-6)
    assert made["digest"] == tensors.digest(model)
    assert tensors.metadata(tmp_path / "m.safetensors") == {"fedclave.attestation": "SIMULATED"}
    fx(
        fed.folder,
        *("model", "open", str(operator / "save/best.sealed"), str(tmp_path / "b.safetensors")),
    )

    owner_log = released(fed.folder / "logs/releases")
    assert [one.purpose for one in owner_log] == ["initial-model", "data-key"]
    (received,) = released(operator / "logs/audit")
    assert (received.transcript, received.key) == (owner_log[0].transcript, owner_log[0].key)
    assert received.object == tensors.digest(Stored(fed.folder / "save/initial.safetensors"))


def test_kills_at_any_time_change_nothing_and_leave_nothing_in_the_clear(
    fed: Federation, tmp_path: Path
) -> None:
    operator = tmp_path / "operator"
    waiting = fed.operator(operator)
    waiting.wait("awaiting_release")
    waiting.kill()
    aggregator = begun(fed, operator)
    order = fed.busy("anna", 2)
    members = fed.all()
    aggregator.wait("round_opened", round=2)
    aggregator.kill()
    aggregator = fed.operator(operator)  # it has begun: nothing is to be released again
    aggregator.wait("listening")
    order.unlink()
    assert [party.end() for party in (*members, aggregator)] == [0, 0, 0]
    assert not clear_models(operator)
    digest = sealed.context_of(operator / "save/final.sealed").transcript

    again = fed.operator(operator)  # the run is over: who comes late hears so
    again.wait("recalling")
    late = fed.all()
    assert [party.end() for party in (*late, again)] == [0, 0, 0]
    assert late[0].events[-1]["model"] == digest


def test_a_kill_between_sealing_and_clearing_is_made_good(fed: Federation, tmp_path: Path) -> None:
    operator = tmp_path / "operator"
    aggregator = begun(fed, operator)
    members = fed.all()
    assert [party.end() for party in (*members, aggregator)] == [0, 0, 0]
    left = operator / "save/models" / f"{'ab' * 32}.safetensors"
    tensors.write(left, {"w": np.zeros(4, np.float32)})
    again = fed.operator(operator)
    again.wait("recalling")
    again.kill()
    assert not clear_models(operator)


def test_only_the_owner_opens_the_final_model(fed: Federation, tmp_path: Path) -> None:
    operator = tmp_path / "operator"
    aggregator = begun(fed, operator)
    members = fed.all()
    assert [party.end() for party in (*members, aggregator)] == [0, 0, 0]
    release.save(tmp_path / "other.key", release.generate())
    out = str(tmp_path / "m.safetensors")
    for command, code in (
        (["model", "open", "save/final.sealed", out, "--key", str(tmp_path / "other.key")], 3),
        (["model", "show", "final"], 2),
        (["model", "export", "best", out], 2),
    ):
        done = subprocess.run(
            [*FX, *command, "-C", str(operator), "--json"],
            cwd=operator, capture_output=True, text=True, timeout=WAIT_S,
        )  # fmt: skip
        assert done.returncode == code, done.stdout
        assert "open" in json.loads(done.stdout)["error"]["message"]
    assert not Path(out).exists()
