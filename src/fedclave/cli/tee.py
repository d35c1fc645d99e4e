# SPDX-License-Identifier: Apache-2.0
"""``fx attest measure`` and ``fx attest simulate``: what a TEE would measure, and one to try."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from fedclave.cli import console
from fedclave.cli.options import Json, WorkspaceDir, command


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    command(
        app,
        "measure",
        "fx attest measure",
        "fx attest measure --manifest aggregator.manifest.sgx --libpal libpal.so --compare a.sig",
    )(measure)
    command(app, "simulate", "fx attest simulate")(simulate)


def measure(
    manifest: Annotated[
        Path | None,
        typer.Option(
            "--manifest", metavar="FILE", help="Measure the enclave of this Gramine manifest."
        ),
    ] = None,
    libpal: Annotated[
        Path | None,
        typer.Option("--libpal", metavar="FILE", help="With --manifest: Gramine's sgx/libpal.so."),
    ] = None,
    gramine: Annotated[
        str, typer.Option("--gramine", metavar="VERSION", help="With --manifest: its release.")
    ] = "1.9",
    compare: Annotated[
        list[Path] | None,
        typer.Option(
            "--compare", metavar="FILE", help="A .sig, or a quote, that must say the same. Repeat."
        ),
    ] = None,
    workspace: WorkspaceDir = Path(),
    as_json: Json = False,
) -> None:
    """Measure this fedclave and this workspace, as the simulated TEE would; or a real enclave.

    What it prints belongs into the policy (plan/attestation.yaml), under the roles that run it. The
    simulated TEE measures every file of the installed fedclave, of src, and of the contract but for
    the policy. With --manifest, MRENCLAVE is computed as SGX does, without SGX or Gramine's tools:
    it covers the whole text of the final manifest, which names every trusted file by its hash.
    """
    if manifest is not None:
        from fedclave.cli import enclave

        enclave.measure(manifest, libpal, gramine, compare or [], as_json)
        return
    from fedclave.plan import load
    from fedclave.trust import measure as measuring
    from fedclave.workspace import agreement, layout

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
