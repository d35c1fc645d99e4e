# SPDX-License-Identifier: Apache-2.0
"""Models are found by name, with what was measured of them, and copied out verified."""

import errno
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fedclave import tensors
from fedclave.cli import models, run
from fedclave.engine.store import Best, Store, lock
from fedclave.errors import Unavailable, UserError
from fedclave.plan import Plan, load
from fedclave.tensors import BFLOAT16, Stored, narrow
from fedclave.workspace import layout
from fedclave.workspace.layout import Workspace


def model(value: float) -> dict[str, tensors.Array]:
    return {"layer/w": np.full((2, 3), value, np.float32), "file": np.arange(3)}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return layout.create("numpy-digits", tmp_path / "ws")


@pytest.fixture
def plan(workspace: Workspace) -> Plan:
    return load(workspace.plan)


@pytest.fixture
def run_of_two(workspace: Workspace, plan: Plan) -> Workspace:
    """Two rounds and the final evaluation; the model of round 1 is the best."""
    run.begin(workspace, plan, model(0))
    store = Store(workspace.save, plan.digest)
    for number, value in ((1, 1.0), (2, 2.0), (3, 2.0)):
        store.open(number, {"alice": ("train",)})
        metrics = {"validate/global/accuracy": number / 10, "train/loss": 0.5}
        state = store.put(number, model(value), {}, {"round": number, "metrics": metrics})
        if number == 1:
            store.set_best(Best(1, state.model, 0.2))
    store.close()
    return workspace


def value_of(found: models.Found) -> float:
    return float(Stored(found.path)["layer/w"][0, 0])


@pytest.mark.parametrize(
    ("which", "value", "number", "accuracy"),
    [("final", 2.0, 2, 0.3), ("best", 1.0, 1, 0.2), ("initial", 0.0, 0, 0.1)],
)
def test_models_are_found_with_the_metrics_of_the_round_that_measured_them(
    run_of_two: Workspace, which: str, value: float, number: int, accuracy: float
) -> None:
    found = models.find(run_of_two.root, which)
    assert (value_of(found), found.round) == (value, number)
    assert found.metrics == {"validate/global/accuracy": accuracy}


def test_models_are_found_while_a_run_goes_on(run_of_two: Workspace, plan: Plan) -> None:
    store = Store(run_of_two.save, plan.digest)
    assert models.find(run_of_two.root, "final").round == 2
    store.close()


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_export_copies_every_tensor(run_of_two: Workspace, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"model{suffix}"
    found = models.find(run_of_two.root, "final")
    models.export(found, out, force=False)
    copy = Stored(out) if suffix == ".safetensors" else np.load(out, allow_pickle=False)
    assert {name: copy[name].tolist() for name in copy} == {
        name: array.tolist() for name, array in model(2.0).items()
    }
    with pytest.raises(UserError, match="--force"):
        models.export(found, out, force=False)
    models.export(found, out, force=True)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [out.name]


def test_bfloat16_becomes_float32_in_npz(tmp_path: Path) -> None:
    tensors.write(tmp_path / "m.safetensors", {"w": narrow(np.float32([1.0, 2.5]))})
    found = models.find(tmp_path, str(tmp_path / "m.safetensors"))
    assert Stored(found.path)["w"].dtype == BFLOAT16
    models.export(found, tmp_path / "m.npz", force=False)
    assert np.load(tmp_path / "m.npz")["w"].tolist() == [1.0, 2.5]


def test_unknown_format_and_unknown_model_are_refused(
    run_of_two: Workspace, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="must end in"):
        models.export(models.find(run_of_two.root, "best"), tmp_path / "m.pt", force=False)
    with pytest.raises(UserError, match="no folder"):
        models.export(models.find(run_of_two.root, "best"), tmp_path / "x/m.npz", force=False)
    with pytest.raises(UserError, match="no model"):
        models.find(run_of_two.root, "nothing.safetensors")


def test_a_full_disk_names_the_path_that_was_asked_for(
    run_of_two: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, found = tmp_path / "m.npz", models.find(run_of_two.root, "final")

    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(arguments[0]))

    monkeypatch.setattr(zipfile, "ZipFile", full)
    with pytest.raises(Unavailable, match=f"{out} cannot be written .No space left on device"):
        models.export(found, out, force=False)


def test_damaged_model_is_told(run_of_two: Workspace) -> None:
    path = models.find(run_of_two.root, "final").path
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        models.find(run_of_two.root, "final")
    path.write_bytes(b"not a model")
    with pytest.raises(UserError, match="not a whole safetensors file"):
        models.find(run_of_two.root, "final")


def test_without_a_run_the_next_step_is_said(workspace: Workspace) -> None:
    with pytest.raises(UserError, match="fx plan initialize"):
        models.find(workspace.root, "final")


def test_without_a_measurement_no_model_is_the_best(workspace: Workspace, plan: Plan) -> None:
    run.begin(workspace, plan, model(0))
    with pytest.raises(UserError, match="measured"):
        models.find(workspace.root, "best")


def test_a_begun_run_is_moved_aside_only_by_force(
    run_of_two: Workspace, plan: Plan, tmp_path: Path
) -> None:
    from tests.support.ca import NOW

    digest = tensors.digest(model(5))
    with pytest.raises(UserError, match="--force"):
        run.set_aside(run_of_two, plan, digest, force=False, now=NOW)
    held = lock(run_of_two.save / "federation.lock")
    with pytest.raises(Unavailable, match="in use"):
        run.set_aside(run_of_two, plan, digest, force=True, now=NOW)
    held.close()
    old = run.set_aside(run_of_two, plan, digest, force=True, now=NOW)
    assert old is not None
    assert (old / "initial.safetensors").is_file()
    run.begin(run_of_two, plan, model(5))
    assert value_of(models.find(run_of_two.root, "final")) == 5.0


def test_a_damaged_journal_is_moved_aside_by_force(run_of_two: Workspace, plan: Plan) -> None:
    from tests.support.ca import NOW

    for path in run_of_two.save.glob("federation.db*"):
        path.write_bytes(b"no database" * 1000)
    with pytest.raises(UserError, match="is damaged"):
        run.set_aside(run_of_two, plan, "x", force=False, now=NOW)
    assert run.set_aside(run_of_two, plan, "x", force=True, now=NOW) is not None
