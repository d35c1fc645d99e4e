# SPDX-License-Identifier: Apache-2.0
"""The end of a run whose models leave it only sealed to their owner (``fx model open``).

The final and the best model are written to ``save/final.sealed`` and ``save/best.sealed``; then
those of the run are removed. Until then they lie in ``save/models``, in the clear unless the run's
state is sealed (``--seal-state``).
"""

from dataclasses import dataclass
from pathlib import Path

from fedclave import tensors
from fedclave.cli import models
from fedclave.durable import Opens, as_it_is
from fedclave.engine.medium import Sealed
from fedclave.errors import UserError
from fedclave.plan import Plan
from fedclave.tensors import Stored
from fedclave.trust import files, release, sealed
from fedclave.trust.attesting import Terms
from fedclave.trust.judgement import Word
from fedclave.trust.release import Context, KeyPair
from fedclave.workspace import output
from fedclave.workspace.layout import Workspace

MODELS = ("final", "best")


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A model that is or was sealed: which, its digest, how the parties stood that made it."""

    which: str
    digest: str
    word: str


def final_recipient(workspace: Workspace, plan: Plan) -> bytes | None:
    """The key to seal the final model to; None where the plan does not ask for it."""
    if plan.attestation is None or "final" not in plan.attestation.sealed:
        return None
    remedy = "The model's owner makes it with 'fx model key', before 'fx plan sign'"
    return release.parse_public(
        files.read(workspace.model_owner, remedy), str(workspace.model_owner)
    )


def seal_models(
    workspace: Workspace,
    terms: Terms,
    recipient: bytes,
    found: dict[str, Path],
    word: Word,
    *,
    opens: Opens = as_it_is,
) -> None:
    """Leave the models of a run sealed to their owner, the final one last, and none in the clear.

    ``found``: name -> file, whose name is its digest; ``word``: how those stood who made them. What
    a kill interrupts is done again.
    """
    for which in sorted(found, key=lambda which: which == "final"):
        context = Context(
            contract=terms.contract,
            policy=terms.policy.digest,
            transcript=found[which].stem,
            purpose=f"{which}-model:{word}",
        )
        sealed.seal_file(
            recipient, found[which], workspace.sealed(which), context=context, opens=opens
        )
    clear(workspace)


def clear(workspace: Workspace) -> None:
    """Remove the models that lie in the clear, once the sealed ones are there."""
    folder = workspace.save / "models"
    for path in [
        *folder.glob("*.safetensors"),
        *folder.glob(f"*{Sealed.suffix}"),
        folder / ".spare",
    ]:
        path.unlink(missing_ok=True)
    tensors.sync_folder(folder)


def sealed_final(workspace: Workspace, terms: Terms) -> Opened | None:
    """What is known of the final model that lies sealed here; None: no run has ended so.

    ``UserError``: it is of another contract.
    """
    path = workspace.sealed("final")
    if not path.exists():
        return None
    context = sealed.context_of(path)
    if context.contract != terms.contract:
        raise UserError(
            f"{path} is the final model of contract {context.contract[:16]}; this one is"
            f" {terms.contract[:16]}. Begin anew with 'fx plan initialize --force', which moves it"
            " aside"
        )
    which, word = _purpose(path, context.purpose)
    return Opened(which=which, digest=context.transcript, word=word)


def open_model(pair: KeyPair, source: Path, target: Path, contract: str) -> Opened:
    """Open a sealed model into a new file. ``UserError``: it is of another contract.

    ``Refused``: it was sealed to another key, or changed.
    """
    context = sealed.context_of(source)
    which, word = _purpose(source, context.purpose)
    if context.contract != contract:
        raise UserError(
            f"{source} is of contract {context.contract[:16]!r}, and this workspace has"
            f" {contract[:16]}. Run this in the workspace of its contract"
        )
    with output.new_file(target) as clear:
        sealed.open_file(pair, source, clear, context=context)
        model = Stored(clear)
        if tensors.digest(model) != context.transcript:
            raise UserError(
                f"{source} holds another model than it says. Ask the aggregator's operator"
            )
        tensors.write_export(clear, model, models.marked(word))
    return Opened(which=which, digest=context.transcript, word=word)


def _purpose(source: Path, purpose: str) -> tuple[str, str]:
    """Which model a file was sealed as, and how the parties stood. ``UserError``: it is none."""
    which, _, rest = purpose.partition("-")
    kind, _, word = rest.partition(":")
    if which not in MODELS or kind != "model" or word not in set(Word):
        raise UserError(f"{source} is no sealed model: it is {purpose!r:.80}")
    return which, word
