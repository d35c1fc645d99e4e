# SPDX-License-Identifier: Apache-2.0
"""``fx plan``: what is trained, and how."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedclave.cli import console, options
from fedclave.cli.options import (
    Json,
    KeyPassphraseFile,
    SigningKey,
    WorkspaceDir,
    Yes,
    command,
    noun,
)

if TYPE_CHECKING:
    from fedclave.plan import Plan
    from fedclave.workspace.layout import Workspace

app = noun("plan", "Check, show and initialize the plan.")


@command(app, "check", "fx plan check")
def check(workspace: WorkspaceDir = Path(), as_json: Json = False) -> None:
    """Check the plan and the code that it names; report every mistake with its line.

    Builds the learner and asks for its weights, without data. Trains nothing.
    """
    opened, plan = _checked(workspace)
    rounds = console.count(plan.rounds, "round")
    console.answer(
        {"plan": plan.digest, "file": opened.plan, "name": plan.name, "rounds": plan.rounds},
        [f"{opened.plan} is good: {plan.name}, {rounds}, digest {plan.digest}"],
        as_json,
    )


@command(app, "initialize", "fx plan initialize", "fx plan initialize --force")
def initialize(
    force: Annotated[
        bool, typer.Option("--force", help="Move the run that was begun to save/old-TIME.")
    ] = False,
    workspace: WorkspaceDir = Path(),
    as_json: Json = False,
) -> None:
    """Write the initial model, from which the run begins, to save/initial.safetensors.

    Needs no data. A run that was begun is not touched without --force, and never deleted.
    """
    from fedclave import tensors
    from fedclave.algorithms.folds import delta_layout
    from fedclave.cli import run
    from fedclave.workspace import assemble

    opened, plan = _checked(workspace)
    params = assemble.initial(opened, plan, plan.seed)
    model, layout = tensors.digest(params), tensors.layout_of(params)
    moved = run.set_aside(opened, plan, model, force=force, now=datetime.now(UTC))
    run.begin(opened, plan, params)
    up = delta_layout(layout).size
    console.answer(
        {
            "plan": plan.digest,
            "model": model,
            "path": opened.initial,
            "tensors": len(params),
            "bytes": {"down": layout.size, "up": up},
            "moved": moved,
        },
        [
            *([f"The run that was begun is now in {moved}."] if moved else []),
            *console.rows(
                {
                    "plan": plan.digest,
                    "initial model": model,
                    "file": opened.initial,
                    "tensors": f"{len(params)}, {sum(e.count for e in layout.entries)} elements",
                    "per round": f"{layout.size} bytes down, {up} bytes up for each party",
                }
            ),
            *console.steps(
                "fx workspace certify                make the CA (once)",
                "fx workspace export                 pack this for the parties",
                "fx invite NAME                      let each of them join",
                "fx aggregator start",
            ),
        ],
        as_json,
    )


@command(app, "sign", "fx plan sign", "fx plan sign --key author.key")
def sign(
    key: SigningKey = None,
    passphrase_file: KeyPassphraseFile = None,
    workspace: WorkspaceDir = Path(),
    as_json: Json = False,
) -> None:
    """Sign the contract: plan, code, requirements, initial weights and policy, file by file.

    A change of one byte makes another contract, to be signed and accepted anew. Without --key the
    author's key is cert/author.key, which is made when it is first needed.
    """
    from fedclave.cli import contract
    from fedclave.workspace import layout

    contract.sign(layout.open_(workspace), key, passphrase_file, as_json)


@command(
    app,
    "accept",
    "fx plan accept -n alice",
    "fx plan accept -n alice --author author.pub --key /safe/owner.key",
)
def accept(
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            "-n",
            metavar="NAME",
            help="The party whose data's owner accepts. Without it: only trust the author, as the"
            " aggregator's operator does.",
            callback=options.optional_collaborator,
        ),
    ] = None,
    author: Annotated[
        Path | None,
        typer.Option(
            "--author",
            metavar="PUB",
            help="The author's public key, as the author gave it.",
            show_default="the one known here, or plan/author.pub after a question",
        ),
    ] = None,
    key: SigningKey = None,
    passphrase_file: KeyPassphraseFile = None,
    yes: Yes = False,
    workspace: WorkspaceDir = Path(),
    as_json: Json = False,
) -> None:
    """Accept a contract as the owner of the data: show what leaves the site, ask, countersign.

    Works offline. Refuses a folder that is not, byte for byte, what the author signed. A
    collaborator does not start without this. The owner's key may lie elsewhere (--key).
    """
    from fedclave.cli import contract
    from fedclave.workspace import layout

    opened = layout.open_(workspace)
    contract.accept(opened, name, author, key, passphrase_file, yes=yes, as_json=as_json)


@command(app, "show", "fx plan show", "fx plan show --contract", "fx plan show --json")
def show(
    contract: Annotated[
        bool,
        typer.Option("--contract", help="Show the contract, and what leaves a data owner's site."),
    ] = False,
    workspace: WorkspaceDir = Path(),
    as_json: Json = False,
) -> None:
    """Show the plan's digest, and every key with the defaults filled in.

    All parties must see the same digest. With --contract: every file with its SHA-256, who signed
    and accepted them, and in plain words what leaves the site of a data owner.
    """
    import yaml

    from fedclave.cli import contract as contracts
    from fedclave.plan import load
    from fedclave.workspace import layout

    if contract:
        contracts.show(layout.open_(workspace), as_json)
        return
    plan = load(layout.open_(workspace).plan)
    content = plan.model_dump(mode="json", by_alias=True)
    console.answer(
        {"digest": plan.digest, "plan": content},
        [
            f"# digest {plan.digest}",
            yaml.safe_dump(content, sort_keys=False, allow_unicode=True).rstrip(),
        ],
        as_json,
    )


def _checked(folder: Path) -> "tuple[Workspace, Plan]":
    from fedclave.workspace import assemble, layout

    opened = layout.open_(folder)
    return opened, assemble.check(opened)
