# SPDX-License-Identifier: Apache-2.0
"""Runs over gRPC as real processes: killed anywhere and started again, they end as undisturbed."""

import asyncio
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from tests.support.federation import Federation, federation

from fedclave import tensors
from fedclave.algorithms import assignment, catalogue
from fedclave.engine.aggregator import Aggregator, Rules
from fedclave.engine.collaborator import Collaborator
from fedclave.engine.events import Events
from fedclave.engine.notebook import Notebook
from fedclave.engine.spool import Spool
from fedclave.engine.store import Store
from fedclave.learners.base import Site
from fedclave.plan import load
from fedclave.transport.local import LocalTransport
from fedclave.workspace import assemble
from fedclave.workspace.layout import Workspace

pytestmark = pytest.mark.timeout(180)
LARGE = 3_000_000  # elements: 12 MB, so that uploads go to disk


@pytest.fixture
def fed(tmp_path: Path) -> Iterator[Federation]:
    with federation(tmp_path / "my work.space") as made:
        yield made


def undisturbed(fed: Federation) -> str:
    """The digest that the same plan reaches in one process, over the local transport."""
    plan = load(fed.folder / "plan/plan.yaml")
    bounds = assemble.bounds(plan)
    algorithm = catalogue.make("fedavg", {}, bounds)
    folder = fed.folder.parent / "undisturbed"

    def learner(name: str, data: Path | None):  # type: ignore[no-untyped-def]
        site = Site(member=name, data=data, seed=plan.seed)
        return assemble.learner(Workspace(fed.folder), plan, site)

    async def run() -> str:
        store = Store(folder, plan.digest)
        store.begin(learner("aggregator", None).weights(), {})
        notebooks = {name: Notebook(folder / name) for name in fed.members}
        members = {
            name: Collaborator(
                plan, learner(name, fed.folder / f"data/{name}.txt"), algorithm, bounds, notebook
            )
            for name, notebook in notebooks.items()
        }
        rules = Rules(
            plan=plan,
            algorithm=algorithm,
            bounds=bounds,
            assign=assignment.rule(plan.assignment, list(plan.tasks), plan.seed),
            members=lambda: list(members),
        )
        events = Events(None, lambda: datetime.now(UTC))
        transport = LocalTransport(members, store, Spool(folder / "spool"))
        state = await Aggregator(rules, store, transport, events).run()
        for opened in (store, *notebooks.values()):
            opened.close()
        return state.model

    return asyncio.run(run())


def test_local_and_grpc_give_the_same_digest(fed: Federation) -> None:
    aggregator = fed.aggregator()
    parties = fed.all()
    finished = aggregator.wait("run_finished")
    assert finished["model"] == undisturbed(fed)
    assert [aggregator.end()] + [party.end() for party in parties] == [0, 0, 0, 0]
    model = tensors.Stored(Path(finished["path"]))
    np.testing.assert_allclose(model["w"], fed.final(), rtol=1e-5)
    assert model["steps"] == 3


@pytest.mark.parametrize("moment", ["round_opened", "task_started", "update_accepted"])
def test_killed_aggregator_goes_on_to_the_same_digest(fed: Federation, moment: str) -> None:
    busy = fed.busy("carla", in_round=2)
    aggregator = fed.aggregator()
    fed.all()
    aggregator.wait(moment, round=2)
    aggregator.kill()
    busy.unlink()
    again = fed.aggregator()
    assert again.wait("run_started")["resumed"]
    assert again.wait("run_finished")["model"] == undisturbed(fed)
    assert again.end() == 0


def test_killed_collaborator_comes_back_to_the_same_digest(fed: Federation) -> None:
    busy = fed.busy("carla", in_round=2)
    aggregator = fed.aggregator()
    parties = fed.all()
    aggregator.wait("task_started", round=2, member="carla", task="train")
    parties[2].kill()
    aggregator.wait("member_left", member="carla")
    busy.unlink()
    fed.collaborator("carla")
    assert aggregator.wait("run_finished")["model"] == undisturbed(fed)


def test_everybody_killed_goes_on_to_the_same_digest(fed: Federation) -> None:
    busy = fed.busy("carla", in_round=3)
    aggregator = fed.aggregator()
    parties = fed.all()
    aggregator.wait("update_accepted", round=3)
    for party in [aggregator, *parties]:
        party.kill()
    busy.unlink()
    aggregator = fed.aggregator()
    fed.all()
    assert aggregator.wait("run_finished")["model"] == undisturbed(fed)


def test_kill_during_large_uploads_goes_on_to_the_same_digest(tmp_path: Path) -> None:
    settings = f"{{count: {LARGE}}}"
    with federation(tmp_path / "ws", settings=settings, rounds=2) as fed:
        aggregator = fed.aggregator()
        parties = fed.all()
        for _ in range(2):  # once the aggregator, in the round's first acceptance; once a party
            aggregator.wait("update_accepted")
            aggregator.kill()
            aggregator = fed.aggregator()
        aggregator.wait("task_started", member="anna")
        parties[0].kill()
        fed.collaborator("anna")
        assert aggregator.wait("run_finished")["model"] == undisturbed(fed)


def test_parties_that_were_away_at_the_end_hear_of_it_from_an_aggregator_started_again(
    fed: Federation,
) -> None:
    aggregator = fed.aggregator()
    fed.all()
    model = aggregator.wait("run_finished")["model"]
    assert aggregator.end() == 0
    parties = fed.all()
    again = fed.aggregator()
    assert again.wait("recalling")["members"] == list(fed.members)
    assert [party.wait("finished")["model"] for party in parties] == [model] * 3
    assert [party.end() for party in parties] == [0, 0, 0]
    assert again.end() == 0


def test_late_collaborator_is_waited_for_and_then_counts(fed: Federation) -> None:
    aggregator = fed.aggregator()
    fed.collaborator("anna"), fed.collaborator("bernd")
    aggregator.wait("member_joined", member="bernd")
    fed.collaborator("carla")
    closed = aggregator.wait("round_closed", round=1)
    assert closed["accepted"] == ["anna", "bernd", "carla"]


def test_round_closes_at_the_deadline_without_the_silent_one(tmp_path: Path) -> None:
    with federation(tmp_path / "ws", fraction=0.5, deadline_s=2, rounds=1) as fed:
        busy = fed.busy("carla", in_round=1)
        aggregator = fed.aggregator()
        fed.all()
        closed = aggregator.wait("round_closed", round=1)
        busy.unlink()
        assert (closed["accepted"], closed["missing"]) == (["anna", "bernd"], ["carla"])


def test_round_without_a_quorum_stops_and_resumes(tmp_path: Path) -> None:
    with federation(tmp_path / "ws", fraction=1.0, deadline_s=3) as fed:
        busy = fed.busy("carla", in_round=2)
        aggregator = fed.aggregator()
        fed.all()
        stopped = aggregator.wait("run_stopped")
        assert "Not heard: carla" in stopped["message"]
        assert aggregator.end() == 4
        busy.unlink()
        again = fed.aggregator()
        assert again.wait("run_finished")["model"] == undisturbed(fed)


def test_port_in_use_is_said(fed: Federation) -> None:
    with socket.create_server(("localhost", 0)) as taken:
        fed.address = f"localhost:{taken.getsockname()[1]}"
        party = fed._start("aggregator", "start", "--listen", fed.address)
        assert party.end() == 4
        assert "--listen" in str(party.events) + party.stderr
