# SPDX-License-Identifier: Apache-2.0
"""``fx model release`` and ``fx data release``: the owner's side, and what it prints."""

from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from fedclave.cli import console, releasing, signals
from fedclave.cli.releasing import Released, Sealer
from fedclave.errors import UserError
from fedclave.plan import Plan, load
from fedclave.trust import release, signing
from fedclave.trust.judgement import plainly
from fedclave.trust.policy import Purpose
from fedclave.workspace import agreement, layout
from fedclave.workspace.layout import Workspace


def model(
    folder: Path,
    address: str,
    key: Path | None,
    passphrase: Path | None,
    allow_simulated: bool,
    as_json: bool,
) -> None:
    """Release the initial model to the aggregator."""
    workspace = layout.open_(folder)
    plan = load(workspace.plan)
    seal = releasing.seal_initial(workspace, plan)
    given = key or workspace.cert / f"{agreement.AUTHOR}.key"
    _release(
        workspace,
        plan,
        ("initial-model", "aggregator", given, passphrase),
        address,
        seal,
        allow_simulated,
        as_json,
    )


def data(
    folder: Path,
    name: str,
    file: Path,
    address: str,
    key: Path | None,
    passphrase: Path | None,
    data_key: Path | None,
    allow_simulated: bool,
    as_json: bool,
) -> None:
    """Release the key of sealed data to a collaborator."""
    workspace = layout.open_(folder)
    plan = load(workspace.plan)
    pair = release.load(data_key or data_key_path(workspace))
    seal = releasing.seal_data_key(pair, file, name)
    given = key or workspace.cert / f"{agreement.OWNER}.key"
    _release(
        workspace,
        plan,
        ("data-key", name, given, passphrase),
        address,
        seal,
        allow_simulated,
        as_json,
    )


def data_key_path(workspace: Workspace) -> Path:
    """Where the key lies that this party's data is sealed to."""
    return workspace.cert / "data.key"


def _release(
    workspace: Workspace,
    plan: Plan,
    what: tuple[Purpose, str, Path, Path | None],
    address: str,
    seal: Sealer,
    allow_simulated: bool,
    as_json: bool,
) -> None:
    purpose, name, path, passphrase = what
    if plan.attestation is None:
        raise UserError(f"{workspace.plan} has no attestation section: nobody proves anything")
    signer = signing.load(path, console.key_passphrase(passphrase))
    with ExitStack() as stack:
        to = releasing.releaser(
            workspace,
            plan,
            purpose,
            name,
            signer,
            stack,
            allow_simulated=allow_simulated,
            now=lambda: datetime.now(UTC),
        )
        released = signals.run(releasing.release_to(workspace, plan, to, address, seal))
    console.answer(asdict(released), _lines(released), as_json)


def _lines(released: Released) -> list[str]:
    return [
        f"The {plainly(released.purpose)} is at {released.name}, which is {released.word}, and"
        " opened there.",
        "",
        *console.rows(
            {
                "runs": released.measurement,
                "released": released.object,
                "transcript": released.transcript,
            }
        ),
        *console.steps("fx audit verify logs/releases --key cert/log.pub"),
    ]
