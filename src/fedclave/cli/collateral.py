# SPDX-License-Identifier: Apache-2.0
"""``fx attest collateral``: keep what Intel signs about kinds of platforms, and look after it."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedclave.cli import console
from fedclave.cli.options import Json, WorkspaceDir, command, noun
from fedclave.errors import Refused, UserError

if TYPE_CHECKING:
    from fedclave.trust.collateral import Collateral
    from fedclave.trust.collateral_store import Store

collateral_app = noun("collateral", "Keep what Intel signs about kinds of platforms.")

Root = Annotated[
    Path | None,
    typer.Option(
        "--root",
        metavar="DER",
        help="Trust this root certificate, and it alone.",
        show_default="Intel's SGX Root CA",
    ),
]


@command(collateral_app, "import", "fx attest collateral import sgx-00606a.json")
def import_(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Files of collateral.")],
    root: Root = None,
    workspace: WorkspaceDir = Path(),
    as_json: Json = False,
) -> None:
    """Keep collateral for verifying. It must be signed, valid now, and not older than what is here.

    Get it from Intel, or a cache of Intel's service; never from the party that you verify.
    """
    store, now = store_of(workspace, root), datetime.now(UTC)
    added: list[tuple[Path, Collateral]] = []
    for path in files:
        added.append((path, _added(store, path, now, after=len(added))))
    value = [
        {"file": path, "tee": one.tcb_info.tee, "fmspc": one.tcb_info.fmspc.hex(),
         "evaluation": one.evaluation, "until": one.tcb_info.next_update.isoformat()}
        for path, one in added
    ]  # fmt: skip
    lines = [
        f"{path}: {one.tcb_info.tee} platforms {one.tcb_info.fmspc.hex()}, until"
        f" {console.when(one.tcb_info.next_update)}"
        for path, one in added
    ]
    console.answer({"imported": value, "folder": store.folder}, lines, as_json)


@command(collateral_app, "check", "fx attest collateral check")
def check(
    root: Annotated[
        Path | None,
        typer.Option(
            "--root",
            metavar="DER",
            help="Look at what is under this root certificate alone.",
            show_default="Intel's, and every root that was imported with",
        ),
    ] = None,
    workspace: WorkspaceDir = Path(),
    as_json: Json = False,
) -> None:
    """Say which of the imported collateral has expired, or will within a week.

    Exit code 3 if some has expired or cannot be used: nobody on such a platform is admitted.
    """
    from dataclasses import replace

    from fedclave.trust import collateral_store, roots

    store = store_of(workspace, root)
    if root is None:
        store = replace(store, roots=roots.known(store.folder))
    found = store.forecast(datetime.now(UTC))
    warnings = [one.text for one in found]
    files = store.files()
    strange = [path.name for path, under in files.items() if under is None] if root is None else []
    warnings += [
        f"{name}: its root is not known here. Import it again with its --root, or remove it"
        for name in strange
    ]
    checked = sum(under is not None for under in files.values())
    unusable = len(strange) + sum(one.reason != collateral_store.SOON for one in found)
    value = {
        "folder": store.folder, "checked": checked, "unusable": unusable, "warnings": warnings
    }  # fmt: skip
    lines = warnings or [
        f"all collateral in {store.folder} is good for a week or more"
        f" ({console.count(checked, 'file')})"
        if checked
        else f"none imported: {store.folder} has no collateral"
        f"{'' if root is None else ' under this root'}, so nobody's quote can be verified by it."
        " Import some: fx attest collateral import FILE"
    ]
    console.answer(value, lines, as_json)
    if unusable:
        raise typer.Exit(Refused.exit_code)


def store_of(workspace: Path, root: Path | None) -> "Store":
    """The collateral that a workspace has imported, under one root."""
    from fedclave.trust.collateral_store import Store
    from fedclave.workspace import layout

    cert = layout.open_(workspace).cert
    return Store(folder=cert / "collateral", roots=(root_der(root),))


def root_der(root: Path | None) -> bytes:
    """The root certificate in a file, DER; by default Intel's. ``UserError``: it is none."""
    from fedclave.trust import files, pck, roots

    if root is None:
        return pck.INTEL_ROOT
    der = files.read(root, "Name a root certificate (DER)")
    try:
        roots.spki_hash(der)
    except UserError as error:
        raise UserError(f"{root}: {error}") from error
    return der


def _added(store: "Store", path: Path, now: datetime, *, after: int) -> "Collateral":
    """The collateral in a file, imported, and the root kept that it is under."""
    from fedclave.trust import files, roots

    raw = files.read(path, "Name a file that is there")
    try:
        added = store.add(raw, now)
    except Refused as refused:
        before = f" ({console.count(after, 'file')} before it imported)" if after else ""
        raise Refused(refused.code, f"{path}{before}: {refused.message}") from refused
    (root,) = store.roots
    roots.keep(store.folder, root)
    return added
