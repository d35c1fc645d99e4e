# SPDX-License-Identifier: Apache-2.0
"""``fx attest``: look at evidence, and verify it offline."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedclave.cli import console, lint, options, sigstruct, tee
from fedclave.cli.options import AllowSimulated, Json, WorkspaceDir, command, noun
from fedclave.cli.policy import policy_app

if TYPE_CHECKING:
    from fedclave.trust.collateral_store import Store
    from fedclave.trust.quotes import Quote
    from fedclave.trust.sgx_verify import Appraisal

app = noun("attest", "Show and verify evidence of what a party runs.")
collateral_app = noun("collateral", "Keep what Intel signs about kinds of platforms.")
app.add_typer(collateral_app)
app.add_typer(policy_app)
tee.add_to(app)
lint.add_to(app)

Root = Annotated[
    Path | None,
    typer.Option(
        "--root",
        metavar="DER",
        help="Trust this root certificate, and it alone.",
        show_default="Intel's SGX Root CA",
    ),
]
QuoteFile = Annotated[Path, typer.Argument(metavar="QUOTE", help="A file that holds a quote.")]


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
    lines += ["", "NOT VERIFIED. Verify it with 'fx attest verify QUOTE --collateral FILE'."]
    console.answer(value, lines, as_json)


@command(
    app,
    "verify",
    "fx attest verify quote.bin",
    "fx attest verify quote.bin --collateral c.json --at 2025-08-16T12:00:00Z --json",
)
def verify(
    quote: QuoteFile,
    collateral: Annotated[
        Path | None,
        typer.Option(
            "--collateral",
            metavar="FILE",
            help="Collateral for its platform.",
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
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="TIME", help="Judge as at this time.", show_default="now"),
    ] = None,
    workspace: WorkspaceDir = Path(),
    as_json: Json = False,
) -> None:
    """Verify a quote by collateral, offline, with two verifiers that must agree.

    Says that the quote is genuine and how its platform stands. Whether that code may take part is
    for a policy to say (--policy). Exit code 3 and a code ATT-... if it is not genuine.
    """
    from fedclave.trust import collateral as collaterals
    from fedclave.trust import quotes
    from fedclave.trust import verify as verifying
    from fedclave.trust.dcap import DcapJudge

    raw, now = _read(quote), _time(at)
    with DcapJudge() as second:
        if collateral is None:
            verifier = verifying.Verifier(store=_store(workspace, root), second=second)
            appraisal = verifier.verify(raw, now)
        else:
            given = collaterals.parse(_read(collateral))
            appraisal = verifying.verify(raw, given, _root(root), now, second)
    admitted = _judged(policy, role, appraisal, now, allow_simulated) if policy else {}
    named = "Intel SGX Root CA" if root is None else f"{root} (not Intel's)"
    parsed = quotes.parse(raw)
    value = {"verified": True, **_claims(parsed), **_standing(appraisal, now), "root": named}
    value |= admitted
    lines = [
        f"GENUINE at {console.when(now)}: the platform is {appraisal.status}.",
        "",
        *console.rows({name: item for name, item in value.items() if name != "verified"}),
        "",
        "The policy admits it. A run also asks whether it was made for its own channel."
        if admitted
        else "Compare mr_enclave (or mr_td) with what you expect to run: a genuine quote alone says"
        " nothing about which code is good.",
    ]
    console.answer(value, lines, as_json)


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
    from fedclave.trust import roots

    store, now = _store(workspace, root), datetime.now(UTC)
    added = [(path, store.add(_read(path), now)) for path in files]
    if root is not None:
        roots.keep(store.folder, _read(root))
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
def check(root: Root = None, workspace: WorkspaceDir = Path(), as_json: Json = False) -> None:
    """Say which of the imported collateral has expired, or will within a week.

    Of every root that is known here; with --root, of that one alone.
    """
    from dataclasses import replace

    from fedclave.trust import roots

    store = _store(workspace, root)
    if root is None:
        store = replace(store, roots=roots.known(store.folder))
    warnings = store.warnings(datetime.now(UTC))
    good = f"all collateral in {store.folder} is good for a week or more"
    console.answer({"folder": store.folder, "warnings": warnings}, warnings or [good], as_json)


def _evidence(raw: bytes) -> dict[str, Any]:
    """What a quote says; or a certificate, with whether its quote is about its key."""
    import ssl

    from fedclave.errors import Refused
    from fedclave.trust import quotes, ratls

    text = raw.lstrip().startswith(b"-----BEGIN CERTIFICATE")
    if not text and raw[:1] != b"\x30":
        return _claims(quotes.parse(raw))
    der = ssl.PEM_cert_to_DER_cert(raw.decode("ascii", "replace").strip()) if text else raw
    found = ratls.read(der)
    try:
        ratls.bound(found)
        bound = "yes"
    except Refused as error:
        bound = f"NO: {error.message}"
    form = "Gramine's own (legacy)" if found.claims is None else "Interoperable RA-TLS"
    return {"form": form, "bound to the key": bound, **_claims(quotes.parse(found.quote))}


def _store(workspace: Path, root: Path | None) -> "Store":
    from fedclave.trust.collateral_store import Store
    from fedclave.workspace import layout

    cert = layout.open_(workspace).cert
    return Store(folder=cert / "collateral", roots=(_root(root),))


def _root(root: Path | None) -> bytes:
    from fedclave.trust import pck

    return pck.INTEL_ROOT if root is None else _read(root)


def _claims(quote: "Quote") -> dict[str, Any]:
    from fedclave.trust.quotes import SgxReport

    body = quote.body
    value: dict[str, Any] = {"tee": quote.tee, "version": quote.version, "debug": body.debug}
    if isinstance(body, SgxReport):
        value |= {
            "mr_enclave": body.mr_enclave.hex(),
            "mr_signer": body.mr_signer.hex(),
            "isv_prod_id": body.isv_prod_id,
            "isv_svn": body.isv_svn,
            "attributes": f"{body.flags:#018x}",
            "xfrm": f"{body.xfrm:#018x}",
        }
    else:
        value |= {
            "mr_td": body.mr_td.hex(),
            **{f"rt_mr{number}": one.hex() for number, one in enumerate(body.rt_mr)},
            "mr_config_id": body.mr_config_id.hex(),
            "attributes": f"{body.td_attributes:#018x}",
            "xfam": f"{body.xfam:#018x}",
        }
    simulated = quote.header.user_data.startswith(b"SIMULATED")
    return value | {"report_data": body.report_data.hex(), "simulated": simulated}


def _judged(
    path: Path, role: str, appraisal: "Appraisal", now: datetime, allow_simulated: bool
) -> dict[str, Any]:
    """What a policy says of it; ``Refused`` if it does not admit it."""
    from fedclave.trust import judgement
    from fedclave.trust import policy as policies

    if role not in ("aggregator", "collaborator"):
        raise typer.BadParameter(f"{role!r} is neither role.", param_hint="'--role'")
    rules = policies.load(path)
    verdict = judgement.appraise(
        rules,
        role,  # type: ignore[arg-type]  # one of the two
        role,
        appraisal,
        key="",
        now=now,
        allow_simulated=allow_simulated,
    )
    return {"verdict": verdict.word.value, "policy": rules.label, "note": verdict.note}


def _standing(appraisal: "Appraisal", now: datetime) -> dict[str, Any]:
    return {
        "tcb_status": str(appraisal.status),
        "tcb_date": f"{appraisal.tcb_date:%Y-%m-%d}",
        "advisories": ", ".join(appraisal.advisories) or "none",
        "fmspc": appraisal.platform.fmspc.hex(),
        "evaluation": appraisal.evaluation,
        "collateral_age_days": (now - appraisal.issued).days,
        "collateral_until": console.when(appraisal.expires),
        "collateral_sha256": appraisal.collateral,
        "evidence_sha256": appraisal.evidence,
        "root_sha256": appraisal.root_hash,
    }


def _read(path: Path) -> bytes:
    from fedclave.trust import files

    return files.read(path, "Name a file that is there")


def _time(text: str | None) -> datetime:
    if text is None:
        return datetime.now(UTC)
    try:
        given = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r} is no time. Write for example 2025-08-16T12:00:00Z.", param_hint="'--at'"
        ) from error
    return given if given.tzinfo is not None else given.replace(tzinfo=UTC)
