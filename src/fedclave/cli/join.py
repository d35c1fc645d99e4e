# SPDX-License-Identifier: Apache-2.0
"""``fx join``: a party takes its place in a federation."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedclave.cli import console, signals
from fedclave.cli.options import AllowSimulated, Json, WorkspaceDir, command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedclave.trust.credentials import Credentials
    from fedclave.trust.tokens import Token
    from fedclave.workspace.layout import Workspace


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    command(app, "join", "fx join fxj1.eyJ...", "fx join alice.token -d data/alice.npz")(join)


def join(
    token: Annotated[
        str,
        typer.Argument(metavar="TOKEN", help="The token, its file, or - to read it from stdin."),
    ],
    data: Annotated[
        Path | None, typer.Option("--data", "-d", metavar="PATH", help="This party's data.")
    ] = None,
    allow_simulated: AllowSimulated = False,
    workspace: WorkspaceDir = Path(),
    as_json: Json = False,
) -> None:
    """Join a federation with a token of fx invite.

    Makes the party's key, which stays here, and has the CA certify it. The token carries the CA's
    fingerprint, so nothing is sent to anybody else. Run again if the connection was lost. Where the
    plan wants this party to prove what it runs, its TEE makes the key, and the CA judges that.
    """
    from fedclave.cli import attesting, exchange
    from fedclave.cli.collaborator import note_data
    from fedclave.plan import load
    from fedclave.trust import keys, tokens
    from fedclave.trust.gate import Anchors
    from fedclave.workspace import layout

    opened, now = layout.open_(workspace), datetime.now(UTC)
    plan = load(opened.plan)
    for role in attesting.required(plan):  # before stdin is read, so whichever it will be
        attesting.run_from_source(plan, role, allow_simulated=allow_simulated)
    parsed = tokens.parse(_text(token), now)
    check(opened, parsed)
    path = None if data is None else note_data(opened, parsed.name, data)
    again = "Run it again: a token that was not used stays good"
    made = signals.run(take(opened, parsed, now, allow_simulated=allow_simulated), again)
    subject = exchange.Subject(workspace=opened, role=parsed.role, name=parsed.name)
    until, root = made.leaf.not_valid_after_utc, keys.fingerprint(Anchors.read(opened.cert).root)
    console.answer(
        {
            "federation": parsed.federation,
            "role": parsed.role,
            "name": parsed.name,
            "aggregator": parsed.aggregator,
            "root": root,
            "until": until,
            "data": path,
        },
        [
            f"{parsed.name} is in {parsed.federation!r} as {parsed.role}.",
            *console.rows({"certificate": f"good until {console.when(until)}", "root": root}),
            *console.steps(*subject.starting),
        ],
        as_json,
    )


async def take(
    workspace: "Workspace",
    token: "Token",
    now: datetime,
    *,
    hosts: "Sequence[str]" = (),
    allow_simulated: bool,
) -> "Credentials":
    """Take a token's place: certificate, chain, and where the CA and the aggregator are found.

    ``hosts`` are where an aggregator listens; none: the plan's.
    """
    from fedclave.cli import proving, upkeep
    from fedclave.cli.party import Party
    from fedclave.errors import Unavailable
    from fedclave.plan import load
    from fedclave.transport.grpc import enrol

    plan = load(workspace.plan)
    if token.role == "aggregator":
        hosts = hosts or (plan.network.address.rpartition(":")[0].strip("[]"),)
    party = Party(workspace=workspace, plan=plan, name=token.name, clock=lambda: now)
    try:
        with proving.prover(party, token.role, allow_simulated=allow_simulated) as prove:
            made = await enrol.join(token, workspace.cert, now=now, hosts=hosts, prove=prove)
            known = upkeep.Contacts(authority=token.authority, aggregator=token.aggregator)
            known.write(workspace.cert, token.name)
            return made
    except Unavailable as error:
        raise Unavailable(
            f"{error}. The CA's operator answers tokens there with 'fx invite' or 'fx ca serve'."
            " A token that was not used stays good until it expires"
        ) from error


def _text(given: str) -> str:
    from fedclave.errors import UserError
    from fedclave.trust import tokens

    if given.lstrip().startswith(tokens.PREFIX):
        return given
    try:
        return sys.stdin.read() if given == "-" else Path(given).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # ValueError: what it holds is no text
        reason = getattr(error, "strerror", None) or "it is not text"
        raise UserError(
            f"{given[:80]!r} is neither a join token ({tokens.PREFIX}...) nor a file with one"
            f" ({reason})"
        ) from error


def check(workspace: "Workspace", token: "Token") -> None:
    """Raise ``UserError`` unless a token is for this workspace's federation.

    ``Refused``: it is of another CA than the one that is measured with the workspace.
    """
    from fedclave.errors import Code, Refused, UserError
    from fedclave.plan import load
    from fedclave.trust.adopt import sha256_of
    from fedclave.trust.anchors import read_root

    name = load(workspace.plan).name
    if name != token.federation:
        raise UserError(
            f"the token is for federation {token.federation!r}, this workspace's plan is of"
            f" {name!r}. Run it in the workspace that was made from that federation's archive"
        )
    if (path := workspace.measured_root) is not None:
        own = sha256_of(read_root(path))
        if own != token.root:
            raise Refused(
                Code.FOREIGN_CERTIFICATE,
                f"the token is of the CA with the root {token.root[:16]}, and {path}, which is"
                f" measured with the code, has {own[:16]}: nothing was sent to it. Get"
                " a token of this federation's own CA ('fx invite NAME')",
            )
