# SPDX-License-Identifier: Apache-2.0
"""Our own judgement of a quote by collateral, under a root: SGX (version 3) and TDX (4 and 5).

    1  A kind of quote that is verified here.                           ATT-UNSUPPORTED
    2  Its PCK certificate leads to the root.                           ATT-CHAIN
    3  The collateral's signatures lead there too; it is valid now.     ATT-COLLATERAL...
    4  The PCK certificate and its CA are valid now, and not revoked.   ATT-CHAIN, ATT-REVOKED
    5  The collateral is about this TEE, CA, kind of platform and PCE.  ATT-PLATFORM, ATT-PCE-ID
    6  The PCK key signed the quoting enclave's report, which names the
       attestation key, which signed the quote.                         ATT-SIGNATURE
    7  The quoting enclave is the one of the QE identity.               ATT-QE
    8  Platform, TDX module and quoting enclave reach known levels,
       of which none is revoked.                                        ATT-TCB, ATT-REVOKED
    9  No debug enclave or TD, nor one that others may change.          ATT-DEBUG, ATT-ATTRIBUTES

The order is that of Intel's ECDSA quote library API (4.1.2.4), but for the signatures of collateral
and quote, which are all verified before anything that they cover decides. What is left to a policy
stands in the ``Appraisal``: measurements, statuses, advisories, the platform and its settings.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedclave.errors import Code, Refused
from fedclave.trust import pck, tcb, tdx
from fedclave.trust.collateral import Collateral, Vouched, check_current, vouch
from fedclave.trust.pckext import PckExtension
from fedclave.trust.quotes import Quote, SgxReport, TdReport
from fedclave.trust.tcb import Status

PCK_CHAIN = 5
"""Type of certification data: the PCK certificate, its CA and the root, in PEM."""


@dataclass(frozen=True, kw_only=True)
class Appraisal:
    """What a genuine quote says, and how its platform stands. Only ``judge`` makes one."""

    tee: tcb.Tee
    body: SgxReport | TdReport
    evidence: str
    """SHA-256 (hex) of what the attestation key signed: a quote's other bytes can be changed."""
    status: Status
    advisories: tuple[str, ...]
    tcb_date: datetime
    """The date of the platform's TCB level: updates of after it are not all there."""
    behind_since: datetime
    """The earliest date of the levels (platform, TDX module, quoting enclave) that ``status`` comes
    from: a grace counts from it."""
    evaluation: int
    platform: PckExtension
    ca: pck.CaKind
    root_key_id: str
    root_hash: str
    """SHA-256 (hex) of the root's SubjectPublicKeyInfo: what a policy names a root by."""
    collateral: str
    """SHA-256 (hex) of the collateral."""
    issued: datetime
    """When the oldest of TCB info, QE identity and the platform's revocation list was issued. What
    a platform brings itself makes none of them younger."""
    newest: datetime
    """When the newest part of the collateral and the chain was issued: no clock is before it."""
    expires: datetime
    """When the first part of them ends: a session must not last longer."""


def judge(quote: Quote, collateral: Collateral, root_der: bytes, now: datetime) -> Appraisal:
    """Judge a quote, or refuse it with the code of the step that failed.

    ``root_der`` is the only root trusted. ``now`` is aware.
    """
    check_supported(quote)  # 1
    platform = pck.platform(quote.chain, root_der)  # 2
    vouched = vouch(collateral.raw, root_der)  # 3
    check_current(vouched, now)
    _check_platform(platform, vouched, now)  # 4
    _check_about(quote, platform, vouched)  # 5
    _check_signatures(quote, platform.leaf.key)  # 6
    enclave = _quoting_enclave(quote.qe_report, vouched.collateral.qe_identity)  # 7
    status, levels = _levels(quote, platform.extension, vouched.collateral.tcb_info, enclave)  # 8
    _check_body(quote.body)  # 9
    spki = platform.root.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    periods = [(one.begins, one.ends) for one in vouched.periods if not one.is_list]
    periods += [(one.begins, one.ends) for one in (platform.leaf, platform.ca)]
    return Appraisal(
        tee=quote.tee,
        body=quote.body,
        evidence=hashlib.sha256(quote.signed).hexdigest(),
        status=status,
        advisories=tuple(dict.fromkeys(name for level in levels for name in level.advisories)),
        tcb_date=levels[0].date,
        behind_since=tcb.behind_since(status, levels),
        evaluation=vouched.collateral.evaluation,
        platform=platform.extension,
        ca=platform.ca.kind,
        root_key_id=pck.key_id(platform.root.key),
        root_hash=hashlib.sha256(spki).hexdigest(),
        collateral=vouched.collateral.digest,
        issued=vouched.issued,
        newest=max(begins for begins, _ in periods),
        expires=min(vouched.expires, *(ends for _, ends in periods)),
    )


def check_supported(quote: Quote) -> None:
    """Step 1: the quote has the chain of its PCK certificate in it; ``parse`` saw to the rest."""
    if quote.certification_type != PCK_CHAIN:
        raise Refused(
            Code.ATT_UNSUPPORTED,
            f"the quote has certification data of type {quote.certification_type}; expected the"
            f" PCK certificate chain ({PCK_CHAIN}). Give the platform's quote provider library its"
            " PCK certificate (a PCCS, or the local cache), so that it puts it into the quotes",
        )


def _check_platform(platform: pck.Platform, vouched: Vouched, now: datetime) -> None:
    for one in (platform.leaf, platform.ca, platform.root):
        pck.check_dates(one, now)
    ca, listed = platform.ca, vouched.pck_ca
    if ca.parsed.subject != listed.parsed.subject or ca.key != listed.key:
        raise Refused(
            Code.ATT_PLATFORM,
            f"the collateral has the revocation list of {listed.name!r}, but {ca.name!r} issued the"
            " PCK certificate, so nobody knows whether it is revoked. Import the collateral of"
            f" this platform (FMSPC {platform.extension.fmspc.hex()}, CA {ca.kind})",
        )
    for one, crl in ((ca, vouched.root_crl), (platform.leaf, vouched.pck_crl)):
        if crl.revokes(one):
            raise Refused(
                Code.ATT_REVOKED,
                f"the certificate {one.name!r} (serial {one.serial:x}) is revoked by its issuer:"
                " keys of this platform are known to others. Do not use this machine",
            )


def _check_about(quote: Quote, platform: pck.Platform, vouched: Vouched) -> None:
    found, known = platform.extension, vouched.collateral.tcb_info
    if quote.tee != known.tee or found.fmspc != known.fmspc:
        raise Refused(
            Code.ATT_PLATFORM,
            f"the quote is of {quote.tee.upper()} on a platform with FMSPC {found.fmspc.hex()}, the"
            f" collateral about {known.tee.upper()} on FMSPC {known.fmspc.hex()}. Import the"
            " collateral of this platform ('fx attest collateral import')",
        )
    if found.pce_id != known.pce_id:
        raise Refused(
            Code.ATT_PCE_ID,
            f"the PCK certificate is by the provisioning enclave {found.pce_id.hex()}, the"
            f" collateral about {known.pce_id.hex()}. Import the collateral of this platform; if it"
            " was Intel's, ask who made this PCK certificate",
        )


def _check_signatures(quote: Quote, pck_key: ec.EllipticCurvePublicKey) -> None:
    if not pck.is_signature(pck_key, quote.qe_signature, quote.qe_report_raw):
        raise _signature("the platform's PCK key did not sign the report of the quoting enclave")
    named = hashlib.sha256(quote.attestation_key + quote.qe_auth).digest()
    if quote.qe_report.report_data != named + bytes(32):
        raise _signature("the quoting enclave's report does not name the attestation key")
    x, y = (int.from_bytes(quote.attestation_key[n : n + 32], "big") for n in (0, 32))
    try:
        key = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    except ValueError as error:
        raise _signature("the attestation key is not a point on P-256") from error
    if not pck.is_signature(key, quote.signature, quote.signed):
        raise _signature("the attestation key did not sign header and report")


def _signature(problem: str) -> Refused:
    return Refused(
        Code.ATT_SIGNATURE,
        f"{problem}: the quote was changed, or put together from parts. Ask the peer for a new"
        " quote; if it happens again, somebody is tampering with it",
    )


def _quoting_enclave(report: SgxReport, known: tcb.QeIdentity) -> tcb.EnclaveLevel:
    """The level of the quoting enclave (4.1.2.9). ``vouch`` saw that it is one for this TEE."""
    attributes = report.flags.to_bytes(8, "little") + report.xfrm.to_bytes(8, "little")
    rules = (
        ("debug", report.debug, False),
        ("MRSIGNER", report.mr_signer.hex(), known.mr_signer.hex()),
        ("product id", report.isv_prod_id, known.isv_prod_id),
        (
            "MISCSELECT",
            report.misc_select & known.misc_select_mask,
            known.misc_select & known.misc_select_mask,
        ),
        (
            "attributes",
            _masked(attributes, known.attributes_mask),
            _masked(known.attributes, known.attributes_mask),
        ),
    )
    for what, found, expected in rules:
        if found != expected:
            raise Refused(
                Code.ATT_QE,
                f"the quoting enclave has {what} {found}; its maker vouches for {expected}. Install"
                " Intel's quoting enclave on this platform; no other may speak for it",
            )
    level = tcb.match_enclave(known.levels, report.isv_svn)
    if level is None:
        raise Refused(
            Code.ATT_QE,
            f"the quoting enclave has security version {report.isv_svn}, below every one that is"
            f" known (from {known.levels[-1].isv_svn} on). Update the platform's DCAP packages",
        )
    return level


def _levels(
    quote: Quote, found: PckExtension, known: tcb.TcbInfo, enclave: tcb.EnclaveLevel
) -> tuple[Status, list[tcb.Level]]:
    """The merged status, and the levels that it comes from: platform, TDX module, enclave."""
    body = quote.body
    tee_tcb_svn = body.tee_tcb_svn if isinstance(body, TdReport) else None
    level = tcb.match_platform(known.levels, found.components, found.pce_svn, tee_tcb_svn)
    if level is None:
        svns = f"components {found.components.hex()}, PCE {found.pce_svn}"
        if tee_tcb_svn is not None:
            svns += f", TDX {tee_tcb_svn.hex()}"
        raise Refused(
            Code.ATT_TCB,
            f"the platform's security versions ({svns}) are below every known level. Update its"
            " BIOS and microcode, and have its PCK certificate issued again",
        )
    status: Status = level.status
    levels: list[tcb.Level] = [level, enclave]
    if isinstance(body, TdReport):
        module = tdx.module_level(body, known)
        # The platform reaches this level at least: ``level`` asks for more.
        sgx = tcb.match_platform(known.levels, found.components, found.pce_svn, None) or level
        status = tdx.status(
            body,
            known,
            sgx=sgx.status,
            platform=level.status,
            module=module,
            enclave=enclave.status,
        )
        levels = [one for one in (level, module, enclave) if one is not None]
        if Status.REVOKED in tdx.running(body, known, found.components, found.pce_svn):
            status = Status.REVOKED
    status = tcb.merge(status, enclave.status)
    if status is Status.REVOKED:
        raise Refused(
            Code.ATT_REVOKED,
            "the TCB level of the platform, its TDX module or its quoting enclave is revoked: what"
            " it keeps secret is not secret any more. Update the platform's firmware and DCAP"
            " packages, or use another machine",
        )
    return status, levels


def _check_body(body: SgxReport | TdReport) -> None:
    if isinstance(body, TdReport):
        tdx.check_td(body)
    elif body.debug:
        raise Refused(
            Code.ATT_DEBUG,
            "a debug enclave: its host reads its memory. Build it without debug"
            " ('sgx.debug = false' in Gramine's manifest), and sign it again",
        )


def _masked(data: bytes, mask: bytes) -> str:
    return bytes(a & b for a, b in zip(data, mask, strict=True)).hex()
