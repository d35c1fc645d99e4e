# SPDX-License-Identifier: Apache-2.0
"""``fx ca``: the federation's CA, in the workspace that holds cert/ca."""

import asyncio
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedclave.cli import console, signals
from fedclave.cli.options import (
    AllowSimulated,
    Json,
    JsonLines,
    PassphraseFile,
    WorkspaceDir,
    command,
    listen_at,
    noun,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fedclave.transport.grpc.authority import Enrolment
    from fedclave.trust.gate import Anchors
    from fedclave.trust.names import Identity
    from fedclave.workspace.layout import Workspace

app = noun("ca", "Run the federation's CA: renew, revoke, show, answer join tokens.")


@command(app, "init", "fx ca init", "FX_CA_PASSPHRASE=... fx ca init --json")
def init(
    workspace: WorkspaceDir = Path(),
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Make the federation's CA in cert/ca, encrypted under a passphrase.

    The same as fx workspace certify.
    """
    make(workspace, passphrase_file, as_json)


def make(workspace: Path, passphrase_file: Path | None, as_json: bool) -> None:
    """Make the CA of a workspace's federation."""
    from fedclave import plan
    from fedclave.errors import UserError
    from fedclave.trust import keys, pki
    from fedclave.workspace import layout

    opened = layout.open_(workspace)
    federation = plan.load(opened.plan).name
    if pki.has_ca(opened.cert):
        raise UserError(f"{opened.cert / 'ca'} holds a CA already. See it with 'fx ca show'")
    secret = console.passphrase(passphrase_file, new=True)
    authority = pki.Authority.create(opened.cert, federation, secret, datetime.now(UTC))
    root = keys.fingerprint(authority.anchors.root)
    until = authority.anchors.issuing.not_valid_after_utc
    console.answer(
        {"federation": federation, "root": root, "ca": opened.cert / "ca", "until": until},
        [
            f"The CA of {federation!r} is in {opened.cert / 'ca'}. Keep a copy of that folder, and"
            " the passphrase apart from it.",
            *console.rows({"root": root, **_ends(authority.anchors)}),
            *console.steps(
                "fx aggregator generate-cert-request && fx aggregator certify",
                "fx invite NAME        for each party",
            ),
        ],
        as_json,
    )


def _ends(anchors: "Anchors") -> dict[str, Any]:
    """Until when the CA's two certificates are good."""
    return {
        "root good until": anchors.root.not_valid_after_utc,
        "CA good until": anchors.issuing.not_valid_after_utc,
    }


@command(app, "show", "fx ca show")
def show(workspace: WorkspaceDir = Path(), as_json: Json = False) -> None:
    """Show the root's fingerprint, who holds which certificate, and open join tokens.

    Of each party its latest certificate, and how many came before; --json lists all of them. In a
    party's workspace: the CA that this party trusts. Needs no passphrase.
    """
    from fedclave.trust import keys, pki
    from fedclave.trust.gate import Anchors
    from fedclave.trust.tokens import Register
    from fedclave.workspace import layout

    cert, now = layout.open_(workspace).cert, datetime.now(UTC)
    anchors = Anchors.read(cert)
    issued = [_row(leaf, revoked, now) for leaf, revoked in pki.issued(cert)]
    pending: list[dict[str, Any]] = [
        {"name": one.name, "role": one.role, "expires": one.expires}
        for one in (Register(cert / "ca").pending(now) if (cert / "ca").is_dir() else [])
    ]
    value = {
        "federation": anchors.federation,
        "root": keys.fingerprint(anchors.root),
        "until": anchors.issuing.not_valid_after_utc,
        "issued": issued,
        "tokens": pending,
    }
    lines = console.rows(
        {
            "federation": anchors.federation,
            "root": value["root"],
            **_ends(anchors),
        }
    )
    table = [*_latest(issued), *((row, row["expires"], "invited") for row in pending)]
    if table:
        lines += ["", f"{'name':24}{'role':14}{'until':22}state"]
    lines += [
        f"{row['name']:24}{row['role']:14}{console.when(until):22}{state}"
        for row, until, state in table
    ]
    console.answer(value, lines, as_json)


@command(app, "renew", "fx ca renew alice", "fx ca renew")
def renew(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Whose certificate. Without a name: the CA's own."),
    ] = None,
    allow_simulated: AllowSimulated = False,
    workspace: WorkspaceDir = Path(),
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Renew a party's certificate, or prolong the CA.

    Where the CA lies: certifies the party's key for another 7 days and writes the file to send it
    (in place at once, if the party's key is in this workspace). At a party that joined by a token:
    gets a new key certified by the CA's service. Running parties take the new one by themselves.
    Who must prove what it runs makes a new request (generate-cert-request), or renews at the party.
    """
    from fedclave.cli import exchange
    from fedclave.errors import UserError
    from fedclave.trust import pki
    from fedclave.workspace import layout

    opened = layout.open_(workspace)
    has_ca = pki.has_ca(opened.cert)
    if name is None and not has_ca:
        raise UserError(f"there is no CA in {opened.cert}. Name the party: fx ca renew NAME")
    if name is None:
        value = _prolong(opened, passphrase_file)
    elif has_ca:
        value = _certify_again(opened, name, passphrase_file)
    else:
        value = _renew_at_service(opened, name, allow_simulated=allow_simulated)
    lines = console.rows({k: v for k, v in value.items() if v is not None})
    if name is None:
        until = console.when(value["until"])
        lines = [f"The CA is good until {until}. Parties get that with their next renewal."]
    if name is not None and value["response"] is not None:
        subject = exchange.Subject(workspace=opened, role=value["role"], name=name)
        lines += exchange.onward(subject, value["response"])
    console.answer(value, lines, as_json)


@command(app, "revoke", "fx ca revoke alice")
def revoke(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose certificates.")],
    workspace: WorkspaceDir = Path(),
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Revoke a party's certificates and open join tokens; take it off the list of members.

    Running servers read cert/crl.pem again at the next call; one in another workspace gets it from
    the CA's service within minutes, or from you.
    """
    from fedclave.cli import exchange
    from fedclave.trust import pki
    from fedclave.trust.tokens import Register
    from fedclave.workspace import layout, members

    opened = layout.open_(workspace)
    authority, now = exchange.open_authority(opened, passphrase_file), datetime.now(UTC)
    tokens = Register(opened.cert / "ca").withdraw(name, now)
    number = 0
    if not tokens or pki.valid(opened.cert, name, now):
        number = authority.revoke(name, now)
    was_member = name in members.members(opened)
    if was_member:
        members.remove_member(opened, name)
    console.answer(
        {
            "name": name,
            "revoked": number,
            "tokens": tokens,
            "removed": was_member,
            "crl": opened.cert / "crl.pem",
        },
        [
            f"{name}: {console.count(number, 'certificate')} revoked,"
            f" {console.count(tokens, 'open token')} withdrawn"
            + (", no member any more." if was_member else ".")
        ],
        as_json,
    )


@command(app, "serve", "fx ca serve --listen 0.0.0.0:8444")
def serve(
    listen: Annotated[str | None, listen_at("the plan's port + 1")] = None,
    allow_simulated: AllowSimulated = False,
    workspace: WorkspaceDir = Path(),
    passphrase_file: PassphraseFile = None,
    as_json: JsonLines = False,
) -> None:
    """Answer join tokens and renewals until it is stopped (Ctrl-C, SIGTERM)."""
    from fedclave.workspace import layout

    opened = layout.open_(workspace)
    say = console.emit if as_json else _tell

    async def work() -> None:
        service = await open_service(
            opened,
            passphrase_file,
            listen,
            _joined(opened, say),
            allow_simulated=allow_simulated,
        )
        host = (listen or default_address(opened)).rpartition(":")[0]
        say({"event": "listening", "address": f"{host}:{service.port}"})
        try:
            await service.wait()
        finally:
            await service.stop()

    signals.run(work(), "Tokens stay valid until they expire")


async def open_service(
    workspace: "Workspace",
    passphrase_file: Path | None,
    listen: str | None,
    joined: "Callable[[Identity], None]",
    *,
    allow_simulated: bool,
) -> "Enrolment":
    """The enrolment service of a workspace's CA, listening."""
    from fedclave.cli import exchange
    from fedclave.transport.grpc.authority import serve_enrolment
    from fedclave.trust.tokens import Register

    authority = await asyncio.to_thread(
        exchange.open_authority, workspace, passphrase_file, allow_simulated=allow_simulated
    )
    return await serve_enrolment(
        authority,
        Register(workspace.cert / "ca"),
        listen or interfaces(default_address(workspace)),
        clock=lambda: datetime.now(UTC),
        joined=joined,
        trouble=console.note,
    )


def default_address(workspace: "Workspace") -> str:
    """Where the enrolment service is found by default: the aggregator's host, the next port."""
    from fedclave.plan import load

    host, _, port = load(workspace.plan).network.address.rpartition(":")
    return f"{host}:{int(port) + 1 if int(port) < 65535 else 65534}"


def interfaces(where: str) -> str:
    """Where to listen in order to be found at an address: all interfaces, unless it is loopback.

    >>> interfaces("fl.example.org:8444"), interfaces("localhost:8444")
    ('0.0.0.0:8444', 'localhost:8444')
    """
    host, _, port = where.rpartition(":")
    return where if host in ("localhost", "127.0.0.1", "[::1]") else f"0.0.0.0:{port}"


def enter(workspace: "Workspace", identity: "Identity") -> None:
    """A collaborator that the CA certified becomes a member."""
    from fedclave.workspace import members

    if identity.role == "collaborator":
        members.add_member(workspace, identity.name)


def _joined(
    workspace: "Workspace", say: "Callable[[dict[str, Any]], None]"
) -> "Callable[[Identity], None]":
    def joined(identity: "Identity") -> None:
        enter(workspace, identity)
        say({"event": "joined", "name": identity.name, "role": identity.role})

    return joined


def _tell(event: dict[str, Any]) -> None:
    if event["event"] == "listening":
        print(f"answering on {event['address']}; Ctrl-C ends it", flush=True)
    else:
        print(f"{event['name']} has joined as {event['role']}", flush=True)


def _row(leaf: Any, revoked: datetime | None, now: datetime) -> dict[str, Any]:
    from fedclave.trust import keys
    from fedclave.trust.names import Identity

    identity, until = Identity.of(leaf), leaf.not_valid_after_utc
    state = "revoked" if revoked else "expired" if now > until else "valid"
    return {
        "name": identity.name,
        "role": identity.role,
        "until": until,
        "state": state,
        "fingerprint": keys.fingerprint(leaf),
    }


def _latest(
    issued: list[dict[str, Any]],
) -> "Iterator[tuple[dict[str, Any], datetime, str]]":
    """A row for each party: its latest certificate, and what became of the earlier ones."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in issued:
        groups.setdefault((row["name"], row["role"]), []).append(row)
    for *earlier, last in groups.values():
        states = Counter(row["state"] for row in earlier)
        before = ", ".join(f"{number} {state}" for state, number in states.items())
        yield last, last["until"], last["state"] + (f" (earlier: {before})" if before else "")


def _prolong(workspace: "Workspace", passphrase_file: Path | None) -> dict[str, Any]:
    from fedclave.trust import pki

    secret = console.passphrase(passphrase_file)
    authority = pki.Authority.open(workspace.cert, secret)
    authority.recertify(secret, datetime.now(UTC))
    return {"name": None, "until": authority.anchors.issuing.not_valid_after_utc, "response": None}


def _certify_again(
    workspace: "Workspace", name: str, passphrase_file: Path | None
) -> dict[str, Any]:
    from fedclave.cli import exchange
    from fedclave.trust.names import Identity

    now = datetime.now(UTC)
    authority = exchange.open_authority(workspace, passphrase_file)
    leaf = authority.renew(name, now)
    response = exchange.deliver(authority, leaf, workspace, now)
    return {
        "name": name,
        "role": Identity.of(leaf).role,
        "until": leaf.not_valid_after_utc,
        "response": response,
    }


def _renew_at_service(
    workspace: "Workspace", name: str, *, allow_simulated: bool
) -> dict[str, Any]:
    from fedclave.cli import attesting, proving, upkeep
    from fedclave.cli.party import Party
    from fedclave.errors import UserError
    from fedclave.plan import load
    from fedclave.transport.grpc import enrol
    from fedclave.trust.credentials import Credentials
    from fedclave.trust.names import Identity

    known = upkeep.contacts(workspace.cert, name)
    if known is None:
        raise UserError(
            f"{name!r} did not join by a token here, so the CA's service is not known. Ask the CA's"
            f" operator to run 'fx ca renew {name}'"
        )
    role = Identity.of(Credentials.read(workspace.cert, name).leaf).role
    plan = load(workspace.plan)
    attesting.run_from_source(plan, role, allow_simulated=allow_simulated)
    party = Party(workspace=workspace, plan=plan, name=name, clock=lambda: datetime.now(UTC))
    with proving.prover(party, role, allow_simulated=allow_simulated) as prove:
        fresh = signals.run(
            enrol.renew(known.authority, workspace.cert, name, now=party.clock(), prove=prove)
        )
    return {"name": name, "until": fresh.leaf.not_valid_after_utc, "response": None}
