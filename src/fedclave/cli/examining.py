# SPDX-License-Identifier: Apache-2.0
"""What was found in evidence, in words: for a security officer, whatever the result is.

What a step could not establish, because an earlier one refused, is ``not established``, and null in
JSON. Of bytes that are no quote, nothing is said that only a quote says.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedclave.cli import console

if TYPE_CHECKING:
    from fedclave.trust.examine import Basis, Found
    from fedclave.trust.quotes import Quote
    from fedclave.trust.ratls import RaTls

INTEL = "Intel SGX Root CA"
_UNKNOWN = "not established"


@dataclass(frozen=True, kw_only=True)
class Names:
    """What the user called the things that evidence is judged by."""

    evidence: Path
    collateral: Path | None
    """None: the workspace's own."""
    root: Path | None
    """None: Intel's."""


def facts(found: "Found", by: "Basis", names: Names) -> dict[str, Any]:
    """The result as one object: verdict, then what the evidence says, its platform, the basis."""
    refused = found.refused
    return {
        "verified": refused is None,
        "word": found.word,
        "code": None if refused is None else str(refused.code),
        "reason": None if refused is None else refused.message,
        "at": by.now,
        "evidence": str(names.evidence),
        **_says(found),
        **_platform(found),
        **_basis(found, by, names),
    }


def lines(found: "Found", by: "Basis", names: Names) -> Iterator[str]:
    """The same for people."""
    yield from _headline(found, by)
    proved = found.appraisal is not None
    for title, rows in (
        ("What it says" if proved else "What it says (NOT PROVED)", _says(found)),
        ("Its platform", _platform(found)),
        ("Judged by", _basis(found, by, names)),
    ):
        yield from ("", title)
        shown = {name: _UNKNOWN if item is None else item for name, item in rows.items()}
        yield from (f"  {row}" for row in console.rows(shown) or ["nothing that can be read"])
    yield from ("", _advice(found, by))


def claims(quote: "Quote") -> dict[str, Any]:
    """What a quote says of what runs."""
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
    return value | {"report_data": body.report_data.hex()}


def form(certificate: "RaTls") -> str:
    """How a certificate carries its evidence."""
    return "Gramine's own (legacy)" if certificate.legacy else "Interoperable RA-TLS"


def _headline(found: "Found", by: "Basis") -> Iterator[str]:
    at = console.when(by.now)
    if found.refused is not None:
        yield f"REFUSED at {at}: {found.refused.code}"
        yield f"{found.refused.message}."
    elif found.appraisal is not None:
        platform = f"the platform is {found.appraisal.status}"
        if found.simulated:
            yield (
                f"SIMULATED: at {at} it is whole, under a root that is not Intel's; it protects"
                " nobody."
            )
            yield f"Whoever has that root's key can lie. By its collateral {platform}."
        else:
            yield f"{found.word} at {at}: {platform}."


def _says(found: "Found") -> dict[str, Any]:
    value: dict[str, Any] = {}
    if found.certificate is not None:
        value = {"form": form(found.certificate), "bound_to_key": "yes" if found.bound else None}
        value["nonce"] = "none" if found.nonce is None else found.nonce.hex()
    if found.quote is not None:
        value |= claims(found.quote)
    return value


def _platform(found: "Found") -> dict[str, Any]:
    known, platform = found.appraisal, found.platform
    return {
        "tcb_status": None if known is None else str(known.status),
        "tcb_date": None if known is None else f"{known.tcb_date:%Y-%m-%d}",
        "advisories": None if known is None else ", ".join(known.advisories) or "none",
        "fmspc": None if platform is None else platform.extension.fmspc.hex(),
        "pck_ca": None if platform is None else platform.ca.kind,
        "simulated": found.simulated,
    }


def _basis(found: "Found", by: "Basis", names: Names) -> dict[str, Any]:
    import hashlib

    from fedclave.trust import pck, roots

    vouched, known = found.vouched, found.appraisal
    issued: datetime | None = None if vouched is None else vouched.issued
    ends = known.expires if known is not None else None if vouched is None else vouched.expires
    imported = "imported into this workspace"
    root = roots.spki_hash(by.root_der)
    is_intel = root == roots.spki_hash(pck.INTEL_ROOT)
    return {
        "collateral": imported if names.collateral is None else str(names.collateral),
        "collateral_sha256": None if found.collateral is None else found.collateral.digest,
        "evaluation": None if vouched is None else vouched.collateral.evaluation,
        "collateral_issued": issued,
        "collateral_age_days": None if issued is None else (by.now - issued).days,
        "collateral_until": ends,
        "root": INTEL if is_intel else f"{names.root} (not Intel's)",
        "root_sha256": root,
        "evidence_sha256": None
        if found.quote is None
        else hashlib.sha256(found.quote.signed).hexdigest(),
        "policy": "none given" if by.policy is None else by.policy.label,
        "note": (found.verdict and found.verdict.note) or "none",
    }


def _advice(found: "Found", by: "Basis") -> str:
    if found.refused is not None:
        return "Do not rely on it. The code says who must act: see the reference of errors."
    if by.policy is not None:
        return "The policy admits it. A run also asks whether it was made for its own channel."
    return (
        "Compare mr_enclave (or mr_td) with what you expect to run: a genuine quote alone says"
        " nothing about which code is good."
    )
