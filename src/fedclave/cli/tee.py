# SPDX-License-Identifier: Apache-2.0
"""``fx attest measure`` and ``fx attest simulate``: what a TEE would measure, and one to try."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from fedclave.cli import console
from fedclave.cli.options import Json, WorkspaceDir, command
from fedclave.errors import UserError


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    command(
        app,
        "measure",
        "fx attest measure",
        "fx attest measure --base-image base.tar --gramine gramine_1.9_amd64.deb --image e.tar",
        "fx attest measure --compare quote.bin",
        "fx attest measure --manifest aggregator.manifest.sgx --libpal libpal.so --compare a.sig",
    )(measure)
    command(app, "simulate", "fx attest simulate")(simulate)


def measure(
    simulated: Annotated[
        bool,
        typer.Option("--simulated", help="Measure as the simulated TEE does, enclaves or not."),
    ] = False,
    base_image: Annotated[
        str,
        typer.Option(
            "--base-image", metavar="REF", help="Make the base's files again too, from this."
        ),
    ] = "",
    gramine: Annotated[
        Path | None,
        typer.Option(
            "--gramine", metavar="PATH", help="Gramine's package, or its folder, likewise."
        ),
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option("--image", metavar="FILE", help="A saved image that must hold just this."),
    ] = None,
    compare: Annotated[
        list[Path] | None,
        typer.Option(
            "--compare", metavar="FILE", help="A .sig, or a quote, that must say the same. Repeat."
        ),
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(
            "--manifest", metavar="FILE", help="Measure the enclave of any Gramine manifest."
        ),
    ] = None,
    libpal: Annotated[
        Path | None,
        typer.Option("--libpal", metavar="FILE", help="With --manifest: Gramine's sgx/libpal.so."),
    ] = None,
    release: Annotated[
        str, typer.Option("--release", metavar="VERSION", help="With --manifest: of Gramine.")
    ] = "1.9",
    workspace: WorkspaceDir = Path(),
    as_json: Json = False,
) -> None:
    """Compute what the roles' enclaves measure, from this workspace; or what a simulated TEE would.

    Where the workspace came with a recipe of enclaves (plan/enclave.json, by 'fx workspace
    graminize'), every file that follows from the contract and the lock is made again and compared,
    then MRENCLAVE is computed as SGX does: without SGX, Docker or Gramine's tools. What is only
    believed is told; --base-image and --gramine make that again as well. Without a recipe, or with
    --simulated, it measures this fedclave and this workspace as the simulated TEE does. Exit code 3
    if anything differs; the first file that does is named.
    """
    if manifest is not None:
        from fedclave.cli import enclave

        if base_image or gramine or image or simulated:
            raise UserError(
                "--manifest measures what the manifest says, and takes --libpal, --release and"
                " --compare alone. Leave the others out"
            )
        enclave.measure(manifest, libpal, release, compare or [], as_json)
        return
    from fedclave.workspace import layout

    if not simulated and layout.open_(workspace).recipe.is_file():
        from fedclave.cli import recipe

        inputs = recipe.Given(base_image=base_image, gramine=gramine, image=image)
        recipe.measure(workspace, inputs, compare or [], as_json)
        return
    if base_image or gramine or image or compare:
        raise UserError(
            f"{workspace.absolute()} has no plan/enclave.json, so there is no enclave to make"
            " again. Get the workspace from who made its enclaves (fx workspace graminize)"
        )
    from fedclave.plan import load
    from fedclave.trust import measure as measuring
    from fedclave.workspace import agreement

    opened = layout.open_(workspace)
    contract = agreement.close(opened, load(opened.plan)).measured_id
    found = measuring.measure_code(opened.src, contract)
    digest = found.digest.hex()
    console.answer(
        {"mr_enclave": digest, "contract": contract, "files": dict(found.files)},
        [
            *console.rows({"mr_enclave": digest, "of": f"{len(found.files)} files"}),
            "",
            "In plan/attestation.yaml:",
            "  roles:",
            "    aggregator:",
            "      measurements:",
            f"        - {{mr_enclave: {digest}}}",
        ],
        as_json,
    )


def simulate(workspace: WorkspaceDir = Path(), as_json: Json = False) -> None:
    """Make a simulated TEE, to try attestation on any machine. It protects nobody.

    Makes a root and a platform of this workspace's own in cert/simulated, and the collateral that
    the others import. Counts only where the policy names the root and --allow-simulated is given.
    Where it was made before, says its root again, and makes collateral for another 30 days.
    """
    import shlex

    from fedclave.cli import attesting
    from fedclave.plan import load
    from fedclave.trust import roots
    from fedclave.trust.collateral_store import Store
    from fedclave.trust.simulated import SimulatedPlatform
    from fedclave.workspace import layout, output

    opened, now = layout.open_(workspace), datetime.now(UTC)
    folder = attesting.simulated(opened)
    if (folder / "authority" / "root.pem").exists():
        platform = SimulatedPlatform.open(folder)
    else:
        platform = SimulatedPlatform.create(folder, load(opened.plan).name, now)
    collateral = platform.collateral(now)
    kept = opened.cert / "collateral"
    Store(folder=kept, roots=(platform.root,)).add(collateral, now)
    roots.keep(kept, platform.root)
    sent = {
        opened.own / "simulated-collateral.json": collateral,
        opened.own / "simulated-root.der": platform.root,
    }
    for path, data in sent.items():
        with output.new_file(path) as temporary:
            temporary.write_bytes(data)
    named = f"{roots.SIMULATED}{platform.root_hash}"
    first, second = (shlex.quote(path.name) for path in sent)
    console.answer(
        {"root": named, "folder": folder, "files": list(sent)},
        [
            "SIMULATED: a TEE that protects nobody, in the forms of one that does.",
            *console.rows({"root": named, "folder": folder}),
            "",
            "The policy names the root by the SHA-256 of its public key (SPKI), not of its file.",
            *console.steps(
                "write the root into plan/attestation.yaml: roots: [...]",
                f"send {first} and {second} to the parties, who run:",
                f"  fx attest collateral import {first} --root {second}",
                "start each side with --allow-simulated",
            ),
        ],
        as_json,
    )
