# SPDX-License-Identifier: Apache-2.0
"""Whatever a finished run is named by says how its parties stood, and a mark changes no digest."""

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fedclave import tensors
from fedclave.cli import aggregator, models, publishing, run
from fedclave.cli.party import Party
from fedclave.cli.publishing import Ended, Publisher
from fedclave.engine import ending, events
from fedclave.engine.events import Events
from fedclave.engine.ports import Traffic
from fedclave.engine.store import Best, State, Store
from fedclave.plan import load
from fedclave.tensors import Stored
from fedclave.trust import records, signing
from fedclave.trust.judgement import Word
from fedclave.trust.log import Log
from fedclave.trust.records import RoundRecord
from fedclave.workspace import layout
from fedclave.workspace.layout import Workspace

AT = datetime(2031, 5, 1, 9, 30, tzinfo=UTC)
A = "a" * 64


def model(value: float) -> dict[str, tensors.Array]:
    return {"w": np.full(4, value, np.float32)}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return layout.create("numpy-digits", tmp_path / "ws")


def ran(workspace: Workspace, word: Word) -> tuple[Store, State]:
    """One round, logged by an aggregator whose parties stood so."""
    plan = load(workspace.plan)
    run.begin(workspace, plan, model(0))
    store = Store(workspace.save, plan.digest)
    state = store.put(1, model(1), {}, {"round": 1, "metrics": {}})
    store.set_best(Best(1, state.model, 0.5))
    with Log(workspace.logs / "audit", signing.generate(), "kit") as log:
        record = RoundRecord(
            at=AT, contract=A, plan=plan.digest, round=1, word=word, members=(), aggregate=A,
            model_before=A, model_after=state.model, codec={}, privacy={},
        )  # fmt: skip
        log.append(records.encode(record))
        log.checkpoint()
    return store, state


def published(workspace: Workspace, store: Store, state: State) -> ending.Published:
    terms: Any = SimpleNamespace(contract=A)
    publish = Publisher(
        workspace=workspace, store=store, terms=terms, own=Word.VERIFIED, recipient=None
    )
    return publish(state)


def test_the_file_that_is_named_says_that_it_is_simulated(workspace: Workspace) -> None:
    store, state = ran(workspace, Word.SIMULATED)
    made = published(workspace, store, state)
    store.close()
    assert (made.path, made.word) == (workspace.save / "final.safetensors", "SIMULATED")
    for path in (made.path, workspace.save / "best.safetensors"):
        assert tensors.metadata(path) == {models.METADATA: "SIMULATED"}
        assert tensors.digest(Stored(path)) == state.model


@pytest.mark.parametrize("which", ["final", "best"])
def test_a_model_is_found_as_the_marked_file(workspace: Workspace, which: str) -> None:
    store, state = ran(workspace, Word.SIMULATED)
    before = models.find(workspace.root, which)
    assert (before.path, before.word) == (state.params.path, "SIMULATED")
    published(workspace, store, state)
    store.close()
    found = models.find(workspace.root, which)
    assert found.path == workspace.save / f"{which}.safetensors"
    assert (found.digest, found.word) == (before.digest, before.word)


def test_a_marked_file_of_another_model_or_with_another_mark_is_passed_over(
    workspace: Workspace,
) -> None:
    store, state = ran(workspace, Word.SIMULATED)
    store.close()
    for content, word in ((model(9), "SIMULATED"), (model(1), "VERIFIED")):
        tensors.write_export(workspace.marked("final"), content, models.marked(word))
        assert models.find(workspace.root, "final").path == state.params.path
    workspace.marked("final").write_bytes(b"no model")
    assert models.find(workspace.root, "final").path == state.params.path


def test_the_summary_at_the_end_says_how_the_parties_stood(workspace: Workspace) -> None:
    party = Party(workspace=workspace, plan=load(workspace.plan), name="x", clock=lambda: AT)
    for word, said in (("SIMULATED", "SIMULATED: a trial, which protects nobody"), (None, None)):
        ended = Ended(model=A, path=workspace.save / "final.safetensors", word=word, round=1)
        lines = aggregator._summary(party, ended)
        found = [line.split(maxsplit=1)[1] for line in lines if line.startswith("attestation")]
        assert found == ([said] if said else [])


def test_a_run_that_was_killed_before_it_could_say_that_it_is_over_says_it_once(
    workspace: Workspace,
) -> None:
    path = workspace.save / "final.sealed"
    store = Store(workspace.save, load(workspace.plan).digest)
    opened: Any = SimpleNamespace(digest=A, word="SIMULATED")
    for _ in range(2):
        with_file = Events(workspace.events, lambda: AT)
        ended = publishing.was_over(load(workspace.plan), store, with_file, opened, path)
        with_file.close()
        assert (ended.path, ended.word) == (path, "SIMULATED")
    store.close()
    (told,) = events.read(workspace.events)
    assert (told["event"], told["path"], told["word"]) == ("run_finished", str(path), "SIMULATED")


def test_events_know_whether_the_run_has_finished_since_it_was_started(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"

    def reopened() -> Events:
        return Events(path, lambda: AT)

    sink = reopened()
    assert not sink.finished
    ending.tell(
        sink, A, ending.Published(path=path), rounds=1, best=None, traffic=Traffic(), seconds=0.0
    )
    assert sink.finished
    sink.close()
    sink = reopened()
    assert sink.finished
    sink.emit(
        "run_started",
        plan=A, name="kit", round=1, rounds=1, model=A, size=1, resumed=True,
    )  # fmt: skip
    assert not sink.finished
    sink.close()
    sink = reopened()
    assert not sink.finished
    sink.close()
