# SPDX-License-Identifier: Apache-2.0
"""Real processes that seal what they keep: the same run, and nothing of it on their disks."""

from pathlib import Path

import numpy as np
import pytest
from tests.support.federation import Federation, federation

from fedclave.tensors import Stored

pytestmark = pytest.mark.timeout(240)

COUNT = 3_000_000
"""Elements of the model: large enough that uploads go to files."""
NEEDLE = 64
"""Bytes that are looked for."""


def holding(folder: Path, wanted: list[bytes]) -> list[str]:
    """The files below a folder with one of these in them."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and any(needle in path.read_bytes() for needle in wanted)
    )


def to_the_end(fed: Federation) -> tuple[str, Path]:
    """Run it; the digest and the file of its final model."""
    aggregator = fed.aggregator()
    parties = fed.all()
    finished = aggregator.wait("run_finished")
    assert [party.end() for party in [*parties, aggregator]] == [0] * 4
    return finished["model"], Path(finished["path"])


def test_a_sealed_run_ends_with_the_same_digest_and_leaves_only_what_is_public(
    tmp_path: Path,
) -> None:
    with federation(tmp_path / "plain") as fed:
        plain, _ = to_the_end(fed)
    with federation(tmp_path / "sealed", sealing=True) as fed:
        model, path = to_the_end(fed)
        assert model == plain
        assert path == fed.folder / "save/final.safetensors"
        final = Stored(path)
        assert np.allclose(final["w"], fed.final(), atol=1e-6)
        assert holding(fed.folder / "save", [final["w"].tobytes()]) == ["final.safetensors"]
        code, told = fed.says("model", "show", "final")
        assert (code, told["digest"], told["round"]) == (0, model, 3)
        out = fed.folder / "out.safetensors"
        assert fed.says("model", "export", "final", str(out))[0] == 0
        assert np.array_equal(Stored(out)["w"], final["w"])


def test_nothing_of_a_large_model_lies_on_a_disk_while_the_run_goes_on(tmp_path: Path) -> None:
    with federation(
        tmp_path / "kit", settings=f"{{count: {COUNT}}}", sealing=True, members={"anna": 3.0}
    ) as fed:
        order = fed.busy("anna", 3)
        aggregator = fed.aggregator()
        anna = fed.collaborator("anna")
        aggregator.wait("round_closed", round=2)
        # what the members move towards is one number: so the model has it in each element
        values = [np.float32(3.0 * (1 - 0.5**n)) for n in (1, 2)]
        updates = [np.float32(1.5), np.float32(0.75)]
        wanted = [np.full(NEEDLE, value, np.float32).tobytes() for value in values + updates]
        assert holding(fed.folder, wanted) == []
        assert list((fed.folder / "save/models").glob("*.vault"))
        order.unlink()
        aggregator.wait("run_finished")
        assert (anna.end(), aggregator.end()) == (0, 0)
        assert holding(fed.folder, wanted) == []


@pytest.mark.parametrize("sealing", [True, False], ids=["sealed", "plain"])
def test_a_run_goes_on_as_it_was_begun(sealing: bool, tmp_path: Path) -> None:
    with federation(tmp_path / "kit", sealing=sealing) as fed:
        order = fed.busy("anna", 2)
        aggregator = fed.aggregator()
        parties = fed.all()
        aggregator.wait("round_closed", round=1)
        aggregator.kill()
        parties[0].kill()
        fed.sealing = not sealing
        for refused in (fed.start_aggregator(), fed.collaborator("anna")):
            assert refused.end() == 2
            assert "whose state is" in str(refused.events[-1])
        fed.sealing = sealing
        order.unlink()
        again = fed.aggregator()
        fed.collaborator("anna")
        assert again.wait("run_finished")["rounds"] == 3


def test_a_sealed_run_without_its_key_is_refused_and_set_aside_with_force(tmp_path: Path) -> None:
    with federation(tmp_path / "kit", sealing=True) as fed:
        to_the_end(fed)
        (fed.cert / "vault.key").rename(fed.cert / "vault.old")
        code, told = fed.says("aggregator", "start", "--seal-state", "--listen", "localhost:0")
        assert code == 2
        assert "vault.key" in str(told)
        assert fed.says("plan", "initialize")[0] == 2
        code, told = fed.says("plan", "initialize", "--force")
        assert (code, list((fed.folder / "save").glob("*.vault"))) == (0, []), told
