# SPDX-License-Identifier: Apache-2.0
"""``fx workspace lock|dockerize``: from a workspace to a container image."""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedclave.cli import console
from fedclave.cli.options import Json, WorkspaceDir, command
from fedclave.errors import UserError

if TYPE_CHECKING:
    from fedclave.trust.contract import Contract
    from fedclave.workspace.images.deployment import Deployment
    from fedclave.workspace.images.engines import Engine
    from fedclave.workspace.images.image import Made
    from fedclave.workspace.images.wheels import Wheel
    from fedclave.workspace.layout import Workspace

BaseImage = Annotated[
    str | None,
    typer.Option(
        "--base-image",
        metavar="REF",
        help="What the image stands on: a name, or the file of a saved image.",
        show_default="python:3.11-slim-bookworm",
    ),
]
Save = Annotated[
    bool, typer.Option("--save", help="Keep the image's archive, for 'docker load', in image/.")
]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the noun ``workspace``."""
    command(app, "lock", "fx workspace lock")(lock)
    command(
        app,
        "dockerize",
        "fx workspace dockerize --save",
        "fx workspace dockerize --base-image python:3.11-slim@sha256:...",
    )(dockerize)


def lock(
    python: Annotated[
        str,
        typer.Option("--python", metavar="3.N", help="The image's Python.", show_default="ours"),
    ] = "",
    workspace: WorkspaceDir = Path(),
    as_json: Json = False,
) -> None:
    """Lock requirements.txt: exact versions, each wheel by its SHA-256, in requirements.lock.

    pip resolves them for Python on x86-64 Linux (Debian 12 or later), and from wheels alone. The
    wheels then lie in image/. The lock is part of the contract: sign it anew afterwards. An index
    that requirements.txt names (--extra-index-url) stands in it too.
    """
    import sys

    from fedclave import plan as plans
    from fedclave.workspace import layout, output
    from fedclave.workspace.images import lock as locks

    opened = layout.open_(workspace)
    plan = plans.load(opened.plan)
    version = python or f"{sys.version_info.major}.{sys.version_info.minor}"
    if not version.startswith("3.") or not version[2:].isdigit():
        raise UserError(f"--python {version!r} is not a version of Python. Write 3.11, say")
    console.note("Resolving requirements.txt with pip ...")
    extras = ("attest",) if plan.attestation is not None else ()
    made = locks.make(opened.requirements, version, opened.image, extras)
    with output.new_file(opened.lock) as path:
        path.write_text(locks.text_of(made), encoding="utf-8")
    console.answer(
        {
            "lock": opened.lock.absolute(),
            "python": made.python,
            "wheels": {pin.name: pin.version for pin in made.pins},
            "indexes": made.indexes,
            "for_gpus": made.for_gpus,
        },
        [
            f"{opened.lock} names {console.count(len(made.pins), 'wheel')}, each by its SHA-256.",
            *_of_gpus(made.for_gpus),
            *console.steps("fx plan sign", "fx workspace dockerize"),
        ],
        as_json,
    )


def _of_gpus(names: tuple[str, ...]) -> list[str]:
    if not names:
        return []
    return [
        "",
        f"No CPU can use {console.count(len(names), 'wheel')} of these: {', '.join(names)}.",
        "Without a GPU, and in every enclave, take builds for CPUs: name their index in",
        "requirements.txt, and lock again. For PyTorch:",
        "  --extra-index-url https://download.pytorch.org/whl/cpu",
    ]


def dockerize(
    base_image: BaseImage = None,
    save: Save = False,
    workspace: WorkspaceDir = Path(),
    as_json: Json = False,
) -> None:
    """Make a container image of the workspace: small, and the same wherever it is made.

    It holds what the contract and requirements.lock name, and this fedclave; no keys, no data,
    nothing of cert/. docker, podman or buildah brings the base image and takes the finished one;
    none of them builds it. Its one date is SOURCE_DATE_EPOCH, or 1980.
    """
    from fedclave.workspace import layout
    from fedclave.workspace.images import deployment, engines, image

    opened = layout.open_(workspace)
    contract = require_contract(opened)
    engine = engines.find()
    base = base_image or image.DEFAULT_BASE
    if engine is None and not Path(base).exists():
        _write_context(opened, contract, base, as_json)
        return
    target = opened.image / f"{image.tag(contract.federation)}.tar"
    made = build(opened, contract, base, engine, target)
    kept = save or engine is None
    if engine is not None:
        engines.load(engine, target)
    if not kept:
        target.unlink()
    run = deployment.Deployment(
        image=made.name, kind=deployment.Kind.CONTAINER, digest=f"sha256:{made.written.digest}"
    )
    how, starts = deployed(run, opened, engine)
    value = {**facts(made, target if kept else None, engine), **how}
    lines = [f"{made.name} is made." if engine is None else f"{engine.name} has {made.name}.", ""]
    console.answer(value, [*lines, *console.rows(_shown(value)), *starts], as_json)


def require_contract(workspace: "Workspace") -> "Contract":
    """The contract whose files an image holds, signed, and held to every file here."""
    from fedclave import plan as plans
    from fedclave.trust import signing
    from fedclave.workspace import agreement

    plan = plans.load(workspace.plan)
    author = agreement.pinned(workspace, agreement.AUTHOR)
    if author is None and workspace.author.is_file():
        author = signing.parse_public(workspace.author.read_bytes(), str(workspace.author))
    if author is None:
        raise UserError(
            f"the contract of {workspace.root} is not signed, so nothing says what belongs into the"
            " image. Sign it: fx plan sign"
        )
    return agreement.offered(workspace, plan, author).contract


def build(
    workspace: "Workspace", contract: "Contract", base: str, engine: "Engine | None", target: Path
) -> "Made":
    """The image's archive, made at ``target``."""
    from fedclave.workspace.images import image

    found = wheels(workspace)
    console.note(f"Reading the base image {base} ...")
    with image.opened_base(base, engine, workspace.image) as opened:
        console.note("Compiling modules and writing layers ...")
        parts = image.contents(workspace, contract, opened, found)
        return image.write(contract, opened, found, parts, target, epoch())


def wheels(workspace: "Workspace") -> "tuple[Wheel, ...]":
    """The wheels of the workspace's lock, on this machine."""
    from fedclave.workspace import output
    from fedclave.workspace.images import lock as locks

    pinned = locks.read(workspace.lock)
    with output.blamed_on(workspace.image):
        workspace.image.mkdir(parents=True, exist_ok=True)
    console.note("Gathering the wheels ...")
    return locks.gather(pinned, workspace.image, workspace.lock)


def epoch() -> int:
    """The date in images: SOURCE_DATE_EPOCH (reproducible-builds.org), or 1980-01-01."""
    from fedclave.workspace.images import image

    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return image.EPOCH
    if not text.isascii() or not text.isdigit() or not 0 <= int(text) < 2**33:
        raise UserError(f"SOURCE_DATE_EPOCH is {text!r:.40}, not seconds since 1970. Unset it")
    return int(text)


def facts(made: "Made", archive: Path | None, engine: "Engine | None") -> dict[str, Any]:
    """What is said of an image with ``--json``."""
    return {
        "image": made.name,
        "digest": f"sha256:{made.written.digest}",
        "id": f"sha256:{made.written.id}",
        "base": made.base,
        "base_id": f"sha256:{made.base_id}",
        "files": made.files.files,
        "bytes": made.files.bytes,
        "wheels": {
            "before": {"files": made.before.files, "bytes": made.before.bytes},
            "after": {"files": made.after.files, "bytes": made.after.bytes},
        },
        "archive": archive and archive.absolute(),
        "engine": engine and engine.name,
    }


def _shown(facts: Mapping[str, Any]) -> dict[str, object]:
    before, after = facts["wheels"]["before"], facts["wheels"]["after"]
    shown: dict[str, object] = {name: facts[name] for name in ("image", "digest", "id", "base")}
    shown["added"] = f"{facts['files']} files, {_mb(facts['bytes'])}"
    shown["wheels"] = (
        f"{before['files']} files, {_mb(before['bytes'])}; needed at run time:"
        f" {after['files']}, {_mb(after['bytes'])}"
    )
    if facts["archive"]:
        shown["archive"] = facts["archive"]
    return shown


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def deployed(
    made: "Deployment", workspace: "Workspace", engine: "Engine | None"
) -> tuple[dict[str, Any], list[str]]:
    """How a finished image is started, for ``--json`` and for people; writes ``image/deploy``."""
    from fedclave.workspace.images import deploy, deploy_run, deployment

    folder = workspace.image / "deploy"
    deploy.write(folder, made)
    tool: deploy_run.Tool = "podman" if engine and engine.name == "podman" else "docker"
    said = [*deploy.lines(made, tool), "", f"With compose or Kubernetes: {folder / made.kind}"]
    told = {
        "deploy": (folder / made.kind).absolute(),
        "run": {role: deploy_run.line(made, role, tool) for role in deployment.ROLES},
    }
    return told, said


def _write_context(workspace: "Workspace", contract: "Contract", base: str, as_json: bool) -> None:
    from fedclave.workspace.images import context, deployment, image

    folder = workspace.image / "context"
    files = context.write(workspace, contract, base, wheels(workspace), folder, epoch())
    name = image.named(contract)
    at = shlex.quote(str(folder))
    command = f"docker build -f {at}/Containerfile -t {name} {at}"
    run = deployment.Deployment(image=name, kind=deployment.Kind.CONTAINER)
    how, starts = deployed(run, workspace, None)
    console.answer(
        {"image": None, "context": folder.absolute(), "files": files, "command": command, **how},
        [
            f"Neither docker, podman nor buildah is here: {folder} has all that one needs to build"
            " the image elsewhere.",
            *console.steps(command),
            *starts,
        ],
        as_json,
    )
