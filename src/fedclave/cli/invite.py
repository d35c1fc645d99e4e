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
from fedclave.cli.options import JsonLines, PassphraseFile, WorkspaceDir, command, duration

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
        str, typer.Option("--expires", metavar="TIME", help="How long the token is good.")
    ] = "24h",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write the token to a file.")
    ] = None,
    wait: Annotated[
        bool,
        typer.Option(
            "--wait/--no-wait", help="Answer the token until it is used; or only make it."
        ),
    ] = True,
    workspace: WorkspaceDir = Path(),
    passphrase_file: PassphraseFile = None,
    as_json: JsonLines = False,
) -> None:
    """Make a join token for a party and answer it until it is used.

    Whoever holds the token can join in the party's place: send it by a way that only the party
    reads. It works once. A newer token for the same name replaces it. Ctrl-C ends the waiting, not
    the token: fx ca serve answers all that are open. The party becomes a member (plan/cols.yaml).
    """
    from fedclave.workspace import layout

    _check(name, role)
    opened = layout.open_(workspace)
    offer = Offer(
        workspace=opened,
        name=name,
        role=role,
        address=address or ca.default_address(opened),
        life=duration(expires),
    )
    say = partial(_show, out=out, waits=wait, as_json=as_json)
    if not wait:
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

    def mint(self) -> "Token":
        """A new token."""
        from fedclave.errors import UserError
        from fedclave.plan import load
        from fedclave.trust.adopt import root_sha256
        from fedclave.trust.gate import Anchors
        from fedclave.trust.names import Identity
        from fedclave.trust.tokens import Register

        cert = self.workspace.cert
        if not (cert / "ca" / "issuing.pem").exists():
            raise UserError(f"there is no CA in {cert}. Make one: fx workspace certify")
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
        service = await ca.open_service(offer.workspace, passphrase_file, listen, joined)
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

    if role not in ("collaborator", "aggregator"):
        raise UserError(f"role {role!r} cannot be invited. Use collaborator or aggregator")
    if role == "aggregator" and name != "aggregator":
        raise UserError("the one aggregator of a federation is called 'aggregator'. Invite that")


def _show(token: "Token", *, out: Path | None, waits: bool, as_json: bool) -> None:
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
        out.touch(mode=0o600)
        out.chmod(0o600)
        out.write_text(f"{token}\n", encoding="utf-8")
    shown = str(out) if out is not None else str(token)
    answers = f"Answering on {token.authority}" if waits else "'fx ca serve' must run to answer it"
    console.answer(
        value,
        [
            f"For {token.name}, good until {token.expires:%Y-%m-%d %H:%M} UTC, works once:",
            "",
            f"  fx join {shown}",
            "",
            f"{answers}." + (" Ctrl-C ends the waiting." if waits else ""),
        ],
        as_json,
    )
