# SPDX-License-Identifier: Apache-2.0
"""``fx attest``: look at evidence, and verify it offline."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedclave.cli import console
from fedclave.cli.options import Json, WorkspaceDir, command, noun

if TYPE_CHECKING:
    from fedclave.trust.collateral_store import Store
    from fedclave.trust.quotes import Quote
    from fedclave.trust.sgx_verify import Appraisal

app = noun("attest", "Show and verify evidence of what a party runs.")
collateral_app = noun("collateral", "Keep what Intel signs about kinds of platforms.")
app.add_typer(collateral_app)

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


@command(app, "show", "fx attest show quote.bin")
def show(quote: QuoteFile, as_json: Json = False) -> None:
    """Show what a quote says. Verifies nothing: anybody can write such bytes.

    SGX quotes of version 3, TDX quotes of versions 4 and 5.
    """
    from fedclave.trust import quotes

    parsed = quotes.parse(_read(quote))
    value = {"verified": False, **_claims(parsed)}
    lines = console.rows({name: item for name, item in value.items() if name != "verified"})
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
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="TIME", help="Judge as at this time.", show_default="now"),
    ] = None,
    workspace: WorkspaceDir = Path(),
    as_json: Json = False,
) -> None:
    """Verify a quote by collateral, offline, with two verifiers that must agree.

    Says that the quote is genuine and how its platform stands. Whether that code may take part is
    for a policy to say. Exit code 3 and a code ATT-... if it is not genuine.
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
    named = "Intel SGX Root CA" if root is None else f"{root} (not Intel's)"
    parsed = quotes.parse(raw)
    value = {"verified": True, **_claims(parsed), **_standing(appraisal, now), "root": named}
    lines = [
        f"GENUINE at {console.when(now)}: the platform is {appraisal.status}.",
        "",
        *console.rows({name: item for name, item in value.items() if name != "verified"}),
        "",
        "Compare mr_enclave (or mr_td) with what you expect to run: a genuine quote alone says"
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
    store, now = _store(workspace, root), datetime.now(UTC)
    added = [(path, store.add(_read(path), now)) for path in files]
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
    """Say which of the imported collateral has expired, or will within a week."""
    store = _store(workspace, root)
    warnings = store.warnings(datetime.now(UTC))
    good = f"all collateral in {store.folder} is good for a week or more"
    console.answer({"folder": store.folder, "warnings": warnings}, warnings or [good], as_json)


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
