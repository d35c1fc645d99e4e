# SPDX-License-Identifier: Apache-2.0
"""``fx audit recompute``: a run computed again from its updates, and held to its log."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedclave.algorithms import catalogue
from fedclave.cli import vaults
from fedclave.engine import keep
from fedclave.engine.medium import Medium
from fedclave.errors import Code, Refused, UserError
from fedclave.plan import Plan, load
from fedclave.tensors import Stored, Tensors, digest, file_digest
from fedclave.trust import records
from fedclave.trust.log_files import Reader
from fedclave.trust.records import RoundRecord
from fedclave.workspace import agreement, assemble, initial
from fedclave.workspace.layout import Workspace

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


@dataclass(frozen=True, kw_only=True)
class Same:
    """A round whose updates give what the log says."""

    round: int
    updates: int
    aggregate: str
    model: str


def rounds(
    workspace: Workspace,
    log: Path,
    key: "Ed25519PublicKey",
    folders: Sequence[Path],
    given: Path,
    until: int,
) -> tuple[Same, ...]:
    """Compute the rounds of the workspace's plan again, from the initial model on.

    The log is verified first, whole. ``Refused``: LOG_AGGREGATE for a round that comes out
    otherwise, and what ``Reader.verify`` finds. ``UserError``: an update is missing or damaged, or
    this is not the model that the run began with.
    """
    plan = load(workspace.plan)
    with Reader(log) as reader:
        reader.verify(key)
        found = [records.decode(entry) for entry in reader.entries()]
    logged = [one for one in found if isinstance(one, RoundRecord) and one.plan == plan.digest]
    if not logged:
        raise UserError(f"{log} has no round of the plan {plan.digest[:12]} in {workspace.plan}")
    if not given.is_file():
        raise UserError(f"there is no {given}. Name the initial model with --model")
    params: Tensors = Stored(given)
    agreed = _agreed(workspace, plan, logged[0].contract)
    _require_initial(logged[0], agreed, given, digest(params))
    kept = _Kept(folders=folders, media=vaults.both(workspace))
    return tuple(_computed(plan, params, logged, kept, until))


def _agreed(workspace: Workspace, plan: Plan, contract: str | None) -> str | None:
    """The digest of the initial model by the contract of a run; None: that does not lie here."""
    found = agreement.find(workspace)
    if found is None or found.contract.id != contract:
        return None
    listed = {file.path: file.sha256 for file in found.contract.files}
    if initial.is_sealed(plan):
        path = workspace.initial_layout
        whole = path.is_file() and file_digest(path) == listed.get("save/initial.json")
        return initial.described(workspace, plan).digest if whole else None
    return listed.get("save/initial.safetensors")


def _require_initial(first: RoundRecord, agreed: str | None, given: Path, own: str) -> None:
    """Tell a wrong file at hand from an aggregator that began with a wrong one.

    ``own`` is the digest of the given file, ``agreed`` that of the contract's.
    """
    if first.round != 1:
        return  # the log itself is at fault, as will be found
    began = first.model_before
    if agreed is not None and began != agreed:
        raise _differs(
            1, f"the log has it begin with model {began[:16]}, the contract has {agreed[:16]}"
        )
    if own == began:
        return
    source = "the contract" if agreed is not None else "the log"
    doubt = (
        ""
        if agreed is not None
        else f". If {own[:16]} is what all agreed on, the aggregator began with another model: show"
        " the log to the other parties"
    )
    raise UserError(
        f"{given} is not the initial model: it is {own[:16]}, and by {source} the run began with"
        f" {began[:16]}. Name the initial model with --model{doubt}"
    )


def _computed(
    plan: Plan, params: Tensors, logged: list[RoundRecord], kept: "_Kept", until: int
) -> list[Same]:
    bounds = assemble.bounds(plan)
    algorithm = catalogue.make(plan.algorithm.name, plan.algorithm.settings, bounds)
    state = algorithm.init(params)
    model, same = digest(params), []
    for number, record in enumerate(logged, 1):
        if number > until:
            break
        if record.round != number or record.model_before != model:
            raise _differs(
                number,
                f"the log has round {record.round} here, which began with model"
                f" {record.model_before[:16]}; computed up to here is {model[:16]}",
            )
        updates = _updates(record, kept)
        summed, params, state = keep.again(algorithm, bounds, params, state, updates)
        model = digest(params)
        if summed != record.aggregate:
            raise _differs(
                number,
                f"the updates add up to {summed[:16]}, the log says {record.aggregate[:16]}",
            )
        if model != record.model_after:
            raise _differs(
                number, f"the new model is {model[:16]}, the log says {record.model_after[:16]}"
            )
        same.append(Same(round=number, updates=len(updates), aggregate=summed, model=model))
    return same


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """Where updates may lie, and how."""

    folders: Sequence[Path]
    media: Sequence[Medium]


def _updates(record: RoundRecord, kept: _Kept) -> list[tuple[Stored, int]]:
    updates: list[tuple[Stored, int]] = []
    for part in record.members:
        if part.outcome != "folded" or part.packet is None or part.weight is None:
            continue
        update = keep.find(kept.folders, part.packet, kept.media)
        if update is None:
            raise UserError(
                f"round {record.round}: the update of {part.name} ({part.packet}) is in none of"
                f" {', '.join(map(str, kept.folders))}. Get it from {part.name} or the aggregator's"
                " operator (--keep-updates)"
            )
        updates.append((update, part.weight))
    return updates


def _differs(number: int, how: str) -> Refused:
    return Refused(
        Code.LOG_AGGREGATE,
        f"round {number} does not come out as the log says: {how}. Keep log and updates, and show"
        " them to the other parties",
    )
