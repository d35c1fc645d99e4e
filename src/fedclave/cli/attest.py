# SPDX-License-Identifier: Apache-2.0
"""``fx attest``: look at evidence, and verify it offline."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedclave.cli import console, examining, lint, options, sigstruct, tee
from fedclave.cli.collateral import Root, collateral_app, root_der, store_of
from fedclave.cli.options import AllowSimulated, Json, WorkspaceDir, command, noun
from fedclave.cli.policy import policy_app

if TYPE_CHECKING:
    from fedclave.trust.collateral_store import Store
    from fedclave.trust.quotes import Quote

app = noun("attest", "Show and verify evidence of what a party runs.")
app.add_typer(collateral_app)
app.add_typer(policy_app)
tee.add_to(app)
lint.add_to(app)


@command(
    app,
    "show",
    "fx attest show quote.bin",
    "fx attest show enclave.pem",
    "fx attest show aggregator.sig",
    "fx attest show localhost:8443 -n alice",
)
def show(
    what: Annotated[
        str, typer.Argument(metavar="QUOTE|CERT|SIG|HOST:PORT", help="What shows the evidence.")
    ],
    name: Annotated[
        str | None,
        typer.Option("--name", "-n", metavar="NAME", help="With HOST:PORT: the party that asks."),
    ] = None,
    allow_simulated: AllowSimulated = False,
    workspace: WorkspaceDir = Path(),
    as_json: Json = False,
) -> None:
    """Show what a quote, a certificate (RA-TLS), a SIGSTRUCT or a running aggregator says.

    A file is no proof: anybody can write a quote, or sign code with a key of his own. An aggregator
    is asked as a collaborator asks it (fl-attest/1), and verified by this workspace's policy.
    """
    path = Path(what)
    if not path.exists() and options.is_address(what):
        if name is None:
            raise typer.BadParameter("Say which party asks: --name NAME.", param_hint="'--name'")
        from fedclave.cli import connecting

        facts = connecting.asked(workspace, name, what, allow_simulated=allow_simulated)
        word = f"{facts['word']}: {what} proves that it runs this, to {name}, now."
        lines = [word, "", *console.rows(dict(facts))]
        if facts["word"] == "SIMULATED":
            lines += ["", "SIMULATED: a TEE that protects nobody. Whoever runs it can lie."]
        console.answer(facts, lines, as_json)
        return
    raw = _read(path)
    if sigstruct.is_one(raw):
        sigstruct.show(raw, as_json)
        return
    value = {"verified": False, **_evidence(raw)}
    lines = console.rows({key: item for key, item in value.items() if key != "verified"})
    lines += ["", f"NOT VERIFIED. Verify it: fx attest verify {what} --collateral FILE"]
    console.answer(value, lines, as_json)


@command(
    app,
    "verify",
    "fx attest verify quote.bin --collateral sgx-00606a.json",
    "fx attest verify enclave.pem --policy attestation.yaml --role collaborator",
    "fx attest verify quote.bin --collateral c.json --now 2025-08-16T12:00:00Z --json",
)
def verify(
    evidence: Annotated[
        Path,
        typer.Argument(metavar="QUOTE|CERT", help="A quote, or a certificate that carries one."),
    ],
    collateral: Annotated[
        Path | None,
        typer.Option(
            "--collateral",
            metavar="FILE",
            help="Collateral for its platform; needs no workspace.",
            show_default="what was imported",
        ),
    ] = None,
    root: Root = None,
    policy: Annotated[
        Path | None,
        typer.Option(
            "--policy", metavar="FILE", help="Also judge by this policy (its text, unsigned)."
        ),
    ] = None,
    role: Annotated[
        str,
        typer.Option("--role", metavar="ROLE", help="With --policy: aggregator or collaborator."),
    ] = "aggregator",
    allow_simulated: AllowSimulated = False,
    now: Annotated[
        str | None,
        typer.Option(
            "--now",
            metavar="TIME",
            help="Judge as at this time: ISO 8601 (UTC if it names no zone), or Unix seconds.",
            show_default="this machine's clock",
        ),
    ] = None,
    workspace: WorkspaceDir = Path(),
    as_json: Json = False,
) -> None:
    """Verify a quote by collateral, offline, with two verifiers that must agree.

    Of a certificate (RA-TLS) also that its evidence is about its own key. Says whether it is
    genuine and how its platform stands; whether that code may take part is for a policy to say
    (--policy). What is refused is told as fully, with a code ATT-... and exit code 3.
    """
    from fedclave.errors import Refused
    from fedclave.trust import policy as policies
    from fedclave.trust.dcap import DcapJudge
    from fedclave.trust.examine import Basis, examine

    if role not in ("aggregator", "collaborator"):
        raise typer.BadParameter(f"{role!r} is neither role.", param_hint="'--role'")
    raw, time = _read(evidence), _time(now)
    with DcapJudge() as second:
        by = Basis(
            root_der=root_der(root),
            collateral=_imported(workspace, root) if collateral is None else _read(collateral),
            second=second,
            now=time,
            policy=None if policy is None else policies.load(policy),
            role=role,  # type: ignore[arg-type]  # one of the two
            allow_simulated=allow_simulated,
        )
        found = examine(raw, by)
    names = examining.Names(evidence=evidence, collateral=collateral, root=root)
    console.answer(examining.facts(found, by, names), examining.lines(found, by, names), as_json)
    if found.refused is not None:
        raise typer.Exit(Refused.exit_code)


def _imported(workspace: Path, root: Path | None) -> "Store":
    from fedclave.errors import UserError

    try:
        return store_of(workspace, root)
    except UserError as error:
        raise UserError(f"{error}. Or name a file of collateral with --collateral.") from error


def _evidence(raw: bytes) -> dict[str, Any]:
    """What a quote says; or a certificate, with whether its quote is about its key."""
    from fedclave.errors import Refused
    from fedclave.trust import examine, quotes, ratls

    der = examine.certificate(raw)
    if der is None:
        return _quote(quotes.parse(raw))
    found = ratls.read(der)
    try:
        ratls.bound(found)
        bound = "yes"
    except Refused as error:
        bound = f"NO: {error.message}"
    return {
        "form": examining.form(found),
        "bound_to_key": bound,
        **_quote(quotes.parse(found.quote)),
    }


def _quote(quote: "Quote") -> dict[str, Any]:
    """Its content, and which root it claims. Whoever wrote it may have lied in both."""
    from fedclave.errors import Refused
    from fedclave.trust import pck

    try:
        pck.platform(quote.chain, pck.INTEL_ROOT)
        root = f"{examining.INTEL}, it says"
    except Refused:
        root = "not Intel's: simulated, incomplete or forged"
    return {**examining.claims(quote), "root": root}


def _read(path: Path) -> bytes:
    from fedclave.trust import files

    return files.read(path, "Name a file that is there")


def _time(text: str | None) -> datetime:
    """A moment, aware, in UTC. Nine digits and more are Unix seconds: eight are a date."""
    if text is None:
        return datetime.now(UTC)
    try:
        if re.fullmatch(r"[0-9]{9,11}", text):
            return datetime.fromtimestamp(int(text), UTC)
        given = datetime.fromisoformat(text)
        return (given if given.tzinfo else given.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(
            f"{text!r} is no time. Write for example 2025-08-16T12:00:00Z, or Unix seconds.",
            param_hint="'--now'",
        ) from error
