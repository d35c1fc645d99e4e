# SPDX-License-Identifier: Apache-2.0
"""``fx workspace``: the folder that a party works in."""

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from fedclave.cli import ca, console, graminize, images
from fedclave.cli.options import Json, PassphraseFile, WorkspaceDir, command, new_folder, noun

app = noun("workspace", "Make a workspace, its CA, and copies and images for the other parties.")
images.add_to(app)
graminize.add_to(app)


@command(app, "create", "fx workspace create --template numpy-digits digits")
def create(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    template: Annotated[
        str, typer.Option("--template", metavar="NAME", help="numpy-digits or torch-digits.")
    ] = "numpy-digits",
    as_json: Json = False,
) -> None:
    """Make a workspace from a template.

    The folder then holds a plan, the code that it names, and a README that says what is what.
    """
    from fedclave.workspace import layout

    made = layout.create(template, directory)
    files = sorted(p.relative_to(made.root) for p in made.root.rglob("*") if p.is_file())
    console.answer(
        {"workspace": made.root.absolute(), "template": template, "files": files},
        [
            f"{made.root} is a workspace, made from {template}.",
            *console.steps(f"cd '{made.root}'", "fx plan check", "fx plan initialize"),
        ],
        as_json,
    )


@command(app, "certify", "fx workspace certify")
def certify(
    workspace: WorkspaceDir = Path(),
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Make the federation's CA in cert/ca, encrypted under a passphrase.

    The federation's name is the plan's. The CA's root has a fingerprint; parties that certify by
    hand compare it. The same as fx ca init.
    """
    ca.make(workspace, passphrase_file, as_json)


@command(app, "export", "fx workspace export --out digits.zip")
def export(
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="The archive.", show_default="NAME.zip"),
    ] = None,
    workspace: WorkspaceDir = Path(),
    as_json: Json = False,
) -> None:
    """Pack what all parties share: plan, code, requirements, initial model.

    Never keys, data, lists of members, logs or checkpoints. Equal workspaces give equal bytes, so
    the SHA-256 that is printed tells whether two parties have the same.
    """
    from fedclave.workspace import archive, layout

    opened = layout.open_(workspace)
    target = out or Path(f"{opened.root.resolve().name}.zip")
    sha256 = archive.export(opened, target)
    files = archive.names(target)
    console.answer(
        {"archive": target.absolute(), "sha256": sha256, "files": files},
        [
            *console.rows({"archive": target, "sha256": sha256, "files": len(files)}),
            *console.steps(
                "send it to the parties, who run: fx workspace import " + quote(target.name)
            ),
        ],
        as_json,
    )


@command(app, "import", "fx workspace import digits.zip --into digits")
def import_(
    archive: Annotated[Path, typer.Argument(metavar="ARCHIVE", help="From fx workspace export.")],
    into: Annotated[Path | None, new_folder("the archive's name")] = None,
    as_json: Json = False,
) -> None:
    """Unpack an archive into a new workspace; nothing of it is run.

    Refused are archives with anything that an export would not contain: paths that lead elsewhere,
    links, bombs, keys. Read the plan and the code before you start it.
    """
    from fedclave import plan
    from fedclave.workspace import archive as packing

    folder = into or Path(archive.name.removesuffix(".zip"))
    made = packing.unpack(archive, folder)
    digest = plan.load(made.plan).digest
    console.answer(
        {"workspace": made.root, "plan": digest, "files": packing.names(archive)},
        [
            *console.rows({"workspace": folder, "plan": digest}),
            *console.steps(
                f"cd {quote(str(folder))}",
                "pip install -r requirements.txt",
                "read plan/plan.yaml and src/: this is what will run on your data",
                "fx join TOKEN, or: fx collaborator generate-cert-request -n NAME",
            ),
        ],
        as_json,
    )
