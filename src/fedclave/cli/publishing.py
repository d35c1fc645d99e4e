# SPDX-License-Identifier: Apache-2.0
"""What a run leaves for people: its models, sealed to their owner or marked with how it stood.

    save/final.sealed, best.sealed             where the plan says so, and none in the clear
    save/final.safetensors, best.safetensors   else, where the plan asks for attestation: copies
                                               that have VERIFIED, SIMULATED or NOT ATTESTED in
                                               their metadata; or where the run's state is sealed

The files in ``save/models`` are the engine's own: each is named by the digest of its bytes, so
nothing can be added to them. A mark changes no model's digest, which is over the tensors alone.
"""

from dataclasses import dataclass
from pathlib import Path

from fedclave import tensors
from fedclave.cli import models, sealing
from fedclave.cli.sealing import Opened
from fedclave.engine import ending
from fedclave.engine.aggregator import Aggregator
from fedclave.engine.ending import Publish, Published
from fedclave.engine.events import Events
from fedclave.engine.ports import Traffic
from fedclave.engine.store import State, Store
from fedclave.plan import Plan
from fedclave.tensors import Tensors
from fedclave.trust.attesting import Terms
from fedclave.trust.judgement import Word
from fedclave.workspace import output
from fedclave.workspace.layout import Workspace


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What came out of a run: the digest of the final model, the file that holds it, and how those
    stood who made it (None: the plan asks nobody for proof).
    """

    model: str
    path: Path
    word: str | None
    round: int


@dataclass(frozen=True, kw_only=True)
class Publisher:
    """Makes the models of a run that attests what their users get."""

    workspace: Workspace
    store: Store
    terms: Terms
    own: Word
    """How the aggregator stands: what is said where the log knows of no round."""
    recipient: bytes | None
    """Whom the models are sealed to; None: they stay in the clear."""

    def __call__(self, state: State) -> Published:
        """Publish the final and the best model (``engine.ending.Publish``)."""
        best = self.store.best()
        word = self._word(state.model)
        found = {"final": state.params.path}
        if best is not None:
            found["best"] = self.store.path(best.model)
        if self.recipient is not None:
            sealing.seal_models(
                self.workspace,
                self.terms,
                self.recipient,
                found,
                word,
                opens=self.store.medium.opens,
            )
            return Published(path=self.workspace.sealed("final"), word=word.value)
        for which, path in found.items():
            mark(self.store.stored(path.stem), self.workspace.marked(which), self._word(path.stem))
        return Published(path=self.workspace.marked("final"), word=word.value)

    def _word(self, model: str) -> Word:
        return Word(models.word_of(self.workspace, model) or self.own)


def exported(workspace: Workspace, store: Store) -> Publish:
    """Copies what a run that is sealed, and attests nothing, leaves: both models in the clear."""

    def publish(state: State) -> Published:
        best = store.best()
        if best is not None:
            tensors.write(workspace.marked("best"), store.stored(best.model))
        tensors.write(workspace.marked("final"), state.params)
        return Published(path=workspace.marked("final"))

    return publish


def mark(model: Tensors, target: Path, word: Word) -> None:
    """A copy of a model whose metadata says how those stood who made it."""
    with output.new_file(target) as temporary:
        tensors.write_export(temporary, model, models.marked(word.value))


async def run(aggregator: Aggregator, publish: Publish) -> Ended:
    """To the end, and what came out."""
    published: list[Published] = []

    def publishing(state: State) -> Published:
        published.append(publish(state))
        return published[-1]

    state = await aggregator.run(publishing)
    return Ended(
        model=state.model, path=published[-1].path, word=published[-1].word, round=state.round
    )


def was_over(plan: Plan, store: Store, events: Events, model: Opened, path: Path) -> Ended:
    """A run that was over before. If it was killed before it could say so, it is said now."""
    if not events.finished:
        ending.tell(
            events,
            model.digest,
            Published(path=path, word=model.word),
            rounds=plan.rounds,
            best=store.best(),
            traffic=Traffic(),
            seconds=0.0,
        )
    return Ended(model=model.digest, path=path, word=model.word, round=plan.rounds)
