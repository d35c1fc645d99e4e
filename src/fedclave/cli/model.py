# SPDX-License-Identifier: Apache-2.0
"""``fx model``: look at models, and take them out of the workspace."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedclave.cli import console
from fedclave.cli.options import Json, WorkspaceDir, command, noun

if TYPE_CHECKING:
    from fedclave.cli.models import Found

app = noun("model", "Show and export models.")


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
    console.answer(value, [f"{found.name} model {found.digest[:12]} is in {out}"], as_json)


def _described(found: "Found") -> dict[str, Any]:
    return {
        "model": found.name,
        "path": found.path,
        "digest": found.digest,
        "bytes": found.size,
        "round": found.round,
        "metrics": dict(found.metrics),
    }
