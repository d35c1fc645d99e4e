# SPDX-License-Identifier: Apache-2.0
"""``fx invite``: one token that lets one party join, once."""

import asyncio
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from fedclave.cli import ca, console, options, signals
from fedclave.cli.options import (
    AllowSimulated,
    JsonLines,
    PassphraseFile,
    WorkspaceDir,
    command,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from fedclave.trust.names import Identity, Role
    from fedclave.trust.tokens import Token
    from fedclave.workspace.layout import Workspace


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    command(app, "invite", "fx invite alice", "fx invite alice --out alice.token --no-wait")(invite)


def invite(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the party is called.")],
    role: Annotated[
        str, typer.Option("--role", metavar="ROLE", help="collaborator or aggregator.")
    ] = "collaborator",
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="HOST:PORT",
            help="Where the party finds the CA's service; port 0 is any free one.",
            show_default="the plan's host, its port + 1",
            callback=options.address,
        ),
    ] = None,
    expires: Annotated[
        timedelta,
        typer.Option(
            "--expires",
            metavar="TIME",
            help="How long the token is good.",
            parser=options.duration,
            show_default="24h",
        ),
    ] = timedelta(hours=24),
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write the token to a file.")
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Even if NAME has a valid certificate: keep both."),
    ] = False,
    wait: Annotated[
        bool,
        typer.Option(
            "--wait/--no-wait", help="Answer the token until it is used; or only make it."
        ),
    ] = True,
    allow_simulated: AllowSimulated = False,
    workspace: WorkspaceDir = Path(),
    passphrase_file: PassphraseFile = None,
    as_json: JsonLines = False,
) -> None:
    """Make a join token for a party and answer it until it is used.

    Whoever holds the token can join in the party's place: send it by a way that only the party
    reads. It works once. A newer token for the same name replaces it. Ctrl-C ends the waiting, not
    the token: fx ca serve answers all that are open. The party becomes a member (plan/cols.yaml).

    If NAME holds a certificate that is still valid, revoke it first (fx ca revoke NAME), or say
    --force: then the old one stays good until it ends, and both speak for NAME.
    """
    from fedclave.cli import exchange
    from fedclave.workspace import layout, output

    _check(name, role)
    opened = layout.open_(workspace)
    exchange.require_ca(opened)
    if out is not None:
        output.check(out)
    _check_held(opened, name, force)
    offer = Offer(
        workspace=opened,
        name=name,
        role=role,
        address=address or ca.default_address(opened),
        life=expires,
        allow_simulated=allow_simulated,
    )
    say = partial(_show, out=out, waits=wait, as_json=as_json)
    if not wait:
        if console.supplied(passphrase_file) is not None:  # not needed here, but it must be right
            exchange.open_authority(opened, passphrase_file)
        say(offer.mint())
        return
    work = _answer(offer, passphrase_file, say)
    signals.run(work, "The token stays valid until it expires; 'fx ca serve' answers it")
    if as_json:
        console.emit({"event": "joined", "name": name, "role": role})
    else:
        print(f"{name} has joined.")


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What is offered to whom, and where the CA's service is to be found."""

    workspace: "Workspace"
    name: str
    role: str
    address: str
    life: timedelta
    allow_simulated: bool = False

    def mint(self) -> "Token":
        """A new token."""
        from fedclave.plan import load
        from fedclave.trust.adopt import root_sha256
        from fedclave.trust.gate import Anchors
        from fedclave.trust.names import Identity
        from fedclave.trust.tokens import Register

        cert = self.workspace.cert
        anchors = Anchors.read(cert)
        return Register(cert / "ca").mint(
            Identity(federation=anchors.federation, role=cast("Role", self.role), name=self.name),
            root=root_sha256(anchors),
            authority=self.address,
            aggregator=load(self.workspace.plan).network.address,
            now=datetime.now(UTC),
            life=self.life,
        )


async def _answer(
    offer: Offer, passphrase_file: Path | None, say: "Callable[[Token], None]"
) -> None:
    """Listen, mint, say it, and return when the party has joined."""
    from fedclave.errors import Unavailable

    host = offer.address.rpartition(":")[0]
    used = asyncio.Event()

    def joined(identity: "Identity") -> None:
        ca.enter(offer.workspace, identity)
        if (identity.role, identity.name) == (offer.role, offer.name):
            used.set()

    try:
        listen = ca.interfaces(offer.address)
        service = await ca.open_service(
            offer.workspace,
            passphrase_file,
            listen,
            joined,
            allow_simulated=offer.allow_simulated,
        )
    except Unavailable as error:
        raise Unavailable(
            f"{error}. If 'fx ca serve' runs there, it answers tokens too: use --no-wait"
        ) from error
    try:
        say(replace(offer, address=f"{host}:{service.port}").mint())
        await used.wait()
    finally:
        await service.stop(5.0)


def _check(name: str, role: str) -> None:
    from fedclave.errors import UserError
    from fedclave.trust.pki import check_party

    if role not in ("collaborator", "aggregator"):
        raise UserError(f"role {role!r} cannot be invited. Use collaborator or aggregator")
    if role == "aggregator" and name != "aggregator":
        raise UserError("the one aggregator of a federation is called 'aggregator'. Invite that")
    if role == "collaborator" and name == "aggregator":
        raise UserError("'aggregator' is the aggregator's name. Invite it with --role aggregator")
    check_party(cast("Role", role), name)


def _check_held(workspace: "Workspace", name: str, force: bool) -> None:
    """A token lets somebody take part under a name; is it somebody's already?"""
    from fedclave.errors import UserError
    from fedclave.trust import pki

    if not (held := pki.valid(workspace.cert, name, datetime.now(UTC))):
        return
    until = console.when(max(leaf.not_valid_after_utc for leaf in held))
    holds = f"{name} holds a certificate that is good until {until}"
    if not force:
        raise UserError(
            f"{holds}, and whoever uses a new token speaks for {name} as well. If that one is lost"
            f" or wrong, revoke it first: 'fx ca revoke {name}'. To have both, say --force"
        )
    console.note(
        f"warning: {holds}; it stays good beside the new one. To end it: fx ca revoke {name}"
    )


def _show(token: "Token", *, out: Path | None, waits: bool, as_json: bool) -> None:
    from fedclave.workspace import output

    value: dict[str, Any] = {
        "event": "invited",
        "name": token.name,
        "role": token.role,
        "address": token.authority,
        "expires": token.expires,
        "token": str(token),
        "file": out.absolute() if out else None,
    }
    if out is not None:
        with output.new_file(out, 0o600) as path:
            path.write_text(f"{token}\n", encoding="utf-8")
    send = f"Send {out} to {token.name}. It is" if out is not None else f"For {token.name},"
    shown = out.name if out is not None else str(token)
    answers = f"Answering on {token.authority}" if waits else "'fx ca serve' must run to answer it"
    console.answer(
        value,
        [
            f"{send} good until {console.when(token.expires)}, and works once:",
            "",
            f"  fx join {shown}",
            "",
            f"{answers}." + (" Ctrl-C ends the waiting." if waits else ""),
        ],
        as_json,
    )
