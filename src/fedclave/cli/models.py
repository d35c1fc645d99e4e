# SPDX-License-Identifier: Apache-2.0
"""Finding a run's models by name, and copying them out."""

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fedclave import tensors
from fedclave.cli import vaults
from fedclave.cli.audit import FOLDER
from fedclave.durable import Opens, as_it_is
from fedclave.engine import journal
from fedclave.engine.medium import PLAIN, Medium
from fedclave.errors import Refused, UserError
from fedclave.tensors import BFLOAT16, Layout, Stored, widen
from fedclave.trust import records
from fedclave.trust.log_files import Reader
from fedclave.trust.records import RoundRecord
from fedclave.workspace import layout, output
from fedclave.workspace.layout import Workspace

NAMES = ("final", "best", "initial")
METADATA = "fedclave.attestation"
"""The key in the metadata of an exported model: VERIFIED, SIMULATED or NOT ATTESTED."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A model's file. ``round`` and ``metrics`` are known for models of this workspace's run."""

    name: str
    path: Path
    digest: str
    size: int  # bytes
    layout: Layout
    opens: Opens
    """How its file is opened: a run's state may be sealed."""
    round: int | None
    metrics: Mapping[str, float]
    word: str | None = None
    """How the parties of the round that made it stood (``trust.records``); None: nobody was asked,
    or nobody knows."""


def find(folder: Path, which: str) -> Found:
    """A model by its name in a workspace's run, or by its path. ``UserError``: not there."""
    if which in NAMES:
        workspace = layout.open_(folder)
        if which != "initial" and workspace.sealed(which).exists():
            raise UserError(
                f"the {which} model is sealed to its owner: {workspace.sealed(which)}. Its owner"
                f" runs 'fx model open {workspace.sealed(which).name} model.safetensors'"
            )
        found = _of_run(workspace.save, which, vaults.found(workspace))
        found = replace(found, word=word_of(workspace, found.digest))
        copy = _marked(workspace, found)
        return found if copy is None else replace(found, path=copy, opens=as_it_is)
    path = Path(which)
    if not path.is_file():
        raise UserError(f"there is no model {which!r}. Name a file, or {', '.join(NAMES)}")
    found = _found(path.name, path, None)
    return replace(found, word=tensors.metadata(path).get(METADATA))


def export(found: Found, out: Path, *, force: bool) -> None:
    """Copy a model, atomically; the format is the suffix's."""
    writers: dict[str, Callable[[Stored, Path, str | None], None]] = {
        ".safetensors": _write_safetensors, ".npz": _write_npz}  # fmt: skip
    write = writers.get(out.suffix)
    if write is None:
        known = " or ".join(writers)
        raise UserError(f"the name of {out} must end in {known}, which says the format")
    output.check(out)
    if out.exists() and not force:
        raise UserError(f"{out} exists. Choose another name, or replace it with --force")
    with output.new_file(out) as path:
        write(Stored(found.path, found.opens), path, found.word)
        if out.suffix == ".safetensors" and tensors.digest(Stored(path)) != found.digest:
            raise UserError(f"{out}: the copy differs from {found.path}. Check the disk")


def metrics_of(run: journal.Journal, number: int) -> Mapping[str, float]:
    """What the members measured of the model after a round: the next round begins with it."""
    measured: Mapping[str, float] = run.records.get(number + 1, {}).get("metrics", {})
    return {name: value for name, value in measured.items() if "/global/" in name}


def _of_run(save: Path, which: str, medium: Medium) -> Found:
    run = journal.read(save, medium)
    if run is None or not run.models:
        raise UserError(f"{save} holds no run. Begin one with 'fx plan initialize'")
    if which == "best":
        if run.best is None:
            raise UserError("no model was measured yet, so none is the best. Try 'final'")
        number, digest = run.best.round, run.best.model
    else:
        digest = run.models[0 if which == "initial" else max(run.models)]
        number = min(n for n, model in run.models.items() if model == digest)
    path = save / "models" / f"{digest}{medium.suffix}"
    if which == "initial" and not path.is_file():  # the store keeps the last two and the best
        path, medium = save / "initial.safetensors", PLAIN
    found = _found(which, path, run, number, medium.opens)
    if found.digest != digest:
        raise UserError(f"{path} is damaged: its digest is not {digest}. Restore it from a copy")
    return found


def _found(
    name: str,
    path: Path,
    run: journal.Journal | None,
    number: int | None = None,
    opens: Opens = as_it_is,
) -> Found:
    try:
        stored = Stored(path, opens)
        digest = tensors.digest(stored)
    except Refused as error:
        raise UserError(f"{path} is not a whole safetensors file ({error.message})") from error
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing. Restore it from a copy") from error
    return Found(
        name=name,
        path=path,
        digest=digest,
        size=stored.size,
        layout=stored.layout,
        opens=opens,
        round=number,
        metrics={} if run is None or number is None else metrics_of(run, number),
    )


def _marked(workspace: Workspace, found: Found) -> Path | None:
    """The copy of a finished run's model that says how its parties stood, if it is this one's."""
    path = workspace.marked(found.name)
    if found.word is None or found.name == "initial" or not path.is_file():
        return None
    try:
        same = tensors.digest(Stored(path)) == found.digest
        return path if same and tensors.metadata(path).get(METADATA) == found.word else None
    except (Refused, OSError):
        return None


def marked(word: str | None) -> Mapping[str, str]:
    """The metadata of a model that parties made who stood so."""
    return {} if word is None else {METADATA: word}


def word_of(workspace: Workspace, model: str) -> str | None:
    """What the transparency log says of the round that made a model: SIMULATED goes with it."""
    folder = workspace.logs / FOLDER
    if not folder.is_dir():
        return None
    word = None
    with Reader(folder) as log:
        for entry in log.entries():
            record = records.decode(entry)
            if isinstance(record, RoundRecord) and record.model_after == model:
                word = record.word if word is None else records.together([word, record.word])
    return None if word is None else word.value


def _write_safetensors(model: Stored, path: Path, word: str | None) -> None:
    tensors.write_export(path, model, marked(word))


def _write_npz(model: Stored, path: Path, word: str | None) -> None:
    """As ``numpy.savez`` would, one tensor in memory at a time and any name allowed."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        archive.comment = b"" if word is None else f"{METADATA}: {word}".encode()
        for name in model:
            array = model[name]
            plain = widen(array) if array.dtype == BFLOAT16 else array
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, plain, allow_pickle=False)
