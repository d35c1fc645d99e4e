# SPDX-License-Identifier: Apache-2.0
"""``fx model``: look at models, and take them out of the workspace."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedclave.cli import console, options
from fedclave.cli.options import (
    AllowSimulated,
    Json,
    KeyPassphraseFile,
    SigningKey,
    WorkspaceDir,
    command,
    noun,
)

if TYPE_CHECKING:
    from fedclave.cli.models import Found

app = noun("model", "Show, export, release and open models.")


@command(app, "show", "fx model show best", "fx model show model.safetensors")
def show(
    which: Annotated[
        str, typer.Argument(metavar="MODEL", help="final, best, initial, or a file.")
    ] = "final",
    workspace: WorkspaceDir = Path(),
    as_json: Json = False,
) -> None:
    """Show a model's tensors, its digest, and what was measured of it.

    final is the model of the last finished round. Works while a run goes on.
    """
    from fedclave.cli import models

    found = models.find(workspace, which)
    listed = [
        {"name": e.name, "dtype": e.dtype, "shape": list(e.shape)} for e in found.layout.entries
    ]
    value = {**_described(found), "tensors": listed}
    width = max([len(e.name) for e in found.layout.entries], default=0) + 2
    pairs = {k: v for k, v in value.items() if v is not None and k not in ("tensors", "metrics")}
    lines = console.rows(pairs | {k: f"{v:.4f}" for k, v in found.metrics.items()})
    lines += ["", *(f"{e.name:{width}}{e.dtype:6}{list(e.shape)}" for e in found.layout.entries)]
    console.answer(value, lines, as_json)


@command(app, "export", "fx model export best model.safetensors", "fx model export final m.npz")
def export(
    which: Annotated[str, typer.Argument(metavar="MODEL", help="final, best, initial, or a file.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new .safetensors or .npz file.")],
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")] = False,
    workspace: WorkspaceDir = Path(),
    as_json: Json = False,
) -> None:
    """Copy a model out, verified against its digest.

    In a .npz file bfloat16 becomes float32, exactly: NumPy has no bfloat16.
    """
    from fedclave.cli import models

    found = models.find(workspace, which)
    models.export(found, out, force=force)
    value = {**_described(found), "out": out.absolute()}
    lines = [f"{found.name} model {found.digest[:12]} is in {out}"]
    if found.word is not None:
        lines.append(_stood(found.word))
    console.answer(value, lines, as_json)


@command(app, "key", "fx model key")
def key(workspace: WorkspaceDir = Path(), as_json: Json = False) -> None:
    """Make the key of the model's owner, to which the aggregator seals the final model.

    The private key is cert/model-owner.key; keep a copy apart, as nothing else opens the model. The
    public one, plan/model-owner.pub, is part of the contract: run this before 'fx plan sign'.
    """
    from fedclave.errors import UserError
    from fedclave.trust import release
    from fedclave.workspace import layout, output

    opened = layout.open_(workspace)
    private = _owner_key(opened.cert)
    if opened.model_owner.exists():
        raise UserError(f"{opened.model_owner} exists already. Move it away for another key")
    pair = release.generate()
    release.save(private, pair)
    with output.new_file(opened.model_owner) as temporary:
        temporary.write_bytes(release.format_public(pair.public))
    value = {
        "key": release.digest_of(pair.public),
        "private": private,
        "public": opened.model_owner,
    }
    lines = console.rows(value)
    lines += console.steps(
        "attestation.sealed: [initial, final] in plan/plan.yaml",
        "fx plan initialize && fx plan sign",
    )
    console.answer(value, lines, as_json)


@command(
    app, "release", "fx model release 127.0.0.1:40123", "fx model release enclave.example:9444"
)
def release(
    address: Annotated[
        str,
        typer.Argument(
            metavar="HOST:PORT", help="As the aggregator printed it.", callback=options.address
        ),
    ],
    key: SigningKey = None,
    passphrase_file: KeyPassphraseFile = None,
    allow_simulated: AllowSimulated = False,
    workspace: WorkspaceDir = Path(),
    as_json: Json = False,
) -> None:
    """Give the initial model to the aggregator, once it has proved what it runs.

    Run by the model's owner, with the author's key. The model is sealed to a key inside the
    aggregator's TEE. The release is noted in logs/releases before a byte of it goes out.
    """
    from fedclave.cli import release_commands

    release_commands.model(workspace, address, key, passphrase_file, allow_simulated, as_json)


@command(app, "open", "fx model open final.sealed model.safetensors")
def open_(
    sealed: Annotated[Path, typer.Argument(metavar="SEALED", help="What the aggregator left.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new .safetensors file.")],
    key: Annotated[
        Path | None,
        typer.Option(
            "--key", metavar="FILE", help="The owner's key.", show_default="cert/model-owner.key"
        ),
    ] = None,
    workspace: WorkspaceDir = Path(),
    as_json: Json = False,
) -> None:
    """Open a model that was sealed to this key, in the workspace of its contract."""
    from fedclave.cli import sealing
    from fedclave.errors import UserError
    from fedclave.trust import release
    from fedclave.workspace import agreement, layout, output

    opened = layout.open_(workspace)
    found = agreement.find(opened)
    if found is None:
        raise UserError(f"there is no {opened.contract}, so nobody can say what was sealed")
    if out.suffix != ".safetensors":
        raise UserError(f"the name of {out} must end in .safetensors, which says the format")
    output.check(out)
    if out.exists():
        raise UserError(f"{out} exists. Choose another name")
    pair = release.load(key or _owner_key(opened.cert))
    made = sealing.open_model(pair, sealed, out, found.contract.id)
    value = {
        "out": out.absolute(),
        "digest": made.digest,
        "model": made.which,
        "attestation": made.word,
    }
    lines = [f"the {made.which} model {made.digest[:12]} is in {out}", _stood(made.word)]
    console.answer(value, lines, as_json)


def _stood(word: str) -> str:
    return f"{word}: so the parties stood that made it. The file's metadata says so too."


def _owner_key(cert: Path) -> Path:
    return cert / "model-owner.key"


def _described(found: "Found") -> dict[str, Any]:
    return {
        "model": found.name,
        "path": found.path,
        "digest": found.digest,
        "bytes": found.size,
        "round": found.round,
        "attestation": found.word,
        "metrics": dict(found.metrics),
    }
