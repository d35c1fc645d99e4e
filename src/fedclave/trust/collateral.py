# SPDX-License-Identifier: Apache-2.0
"""Collateral: what Intel signs about a kind of platform, which a quote is judged by.

TCB info, QE identity and two revocation lists, with the chains of who signed them, in the JSON form
of DCAP's ``sgx_ql_qve_collateral_t`` (nine keys; CRLs and signatures in hex; the signed texts as
they were signed). It never comes from the peer: someone who trusts Intel's PCS imports it.

    parse          it has its form. Proves nothing
    vouch          every signature in it leads to a root, by certificates of the right role
    check_current  everything in it is valid now: not expired, and not of the future

``vouch`` depends on the bytes alone and is remembered; ``check_current`` is asked every time.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache

from fedclave.errors import Code, Refused
from fedclave.trust import foreign, pck, tcb

MAX_BYTES = 512 * 1024  # real collateral has up to 25 KB
IMPORT = "Import fresh collateral ('fx attest collateral import')"

_KEYS = {
    "pck_crl_issuer_chain",
    "root_ca_crl",
    "pck_crl",
    "tcb_info_issuer_chain",
    "tcb_info",
    "tcb_info_signature",
    "qe_identity_issuer_chain",
    "qe_identity",
    "qe_identity_signature",
}


@dataclass(frozen=True, kw_only=True)
class Signed:
    """A text, its signature (r then s, 64 bytes) and the PEM chain of its signer."""

    text: str
    signature: bytes
    chain: str


@dataclass(frozen=True, kw_only=True)
class Collateral:
    """Collateral as it was read. Nothing in it has been verified: see ``vouch``."""

    raw: bytes
    tcb_info: tcb.TcbInfo
    qe_identity: tcb.QeIdentity
    signed_tcb_info: Signed
    signed_qe_identity: Signed
    root_crl: bytes
    pck_crl: bytes
    pck_crl_chain: str

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of its bytes: which collateral a verdict was based on."""
        return hashlib.sha256(self.raw).hexdigest()

    @property
    def evaluation(self) -> int:
        """The TCB evaluation data number: the older of the two texts counts."""
        return min(self.tcb_info.evaluation, self.qe_identity.evaluation)


@dataclass(frozen=True, kw_only=True)
class Period:
    """From when until when a part of the collateral is valid.

    A revocation list that is newer than a moment knows more about it, not less: ``is_list``.
    """

    what: str
    begins: datetime
    ends: datetime
    is_list: bool = False


@dataclass(frozen=True, kw_only=True)
class Vouched:
    """Collateral whose every signature leads to ``root``. ``vouch`` and ``genuine`` make one."""

    collateral: Collateral
    root: pck.Certificate
    pck_ca: pck.Certificate
    signers: tuple[pck.Certificate, ...]
    root_crl: pck.Crl
    pck_crl: pck.Crl

    @property
    def periods(self) -> tuple[Period, ...]:
        """Of the four parts, then of the certificates behind them."""
        tcb_info, qe_identity = self.collateral.tcb_info, self.collateral.qe_identity
        parts = [
            Period(what="TCB info", begins=tcb_info.issued, ends=tcb_info.next_update),
            Period(what="QE identity", begins=qe_identity.issued, ends=qe_identity.next_update),
        ]
        for crl in (self.root_crl, self.pck_crl):
            what = f"revocation list of {crl.name!r}"
            parts.append(Period(what=what, begins=crl.begins, ends=crl.ends, is_list=True))
        for one in (*self.signers, self.pck_ca, self.root):
            parts.append(Period(what=f"certificate {one.name!r}", begins=one.begins, ends=one.ends))
        return tuple(parts)

    @property
    def expires(self) -> datetime:
        """When the first part of it ends."""
        return min(one.ends for one in self.periods)

    @property
    def issued(self) -> datetime:
        """When the oldest of TCB info, QE identity and the platform's list was issued."""
        parts = (self.collateral.tcb_info.issued, self.collateral.qe_identity.issued)
        return min(*parts, self.pck_crl.begins)

    def expires_in(self, now: datetime) -> timedelta:
        """How long all of it is good still; negative when a part has expired."""
        return self.expires - now


def parse(raw: bytes) -> Collateral:
    """Collateral from its JSON bytes. ``Refused`` (``ATT-COLLATERAL``) on anything else.

    No key but the nine: dcap-qvl reads a ``pck_certificate_chain`` too, in the quote's place.
    """
    if len(raw) > MAX_BYTES:
        raise _damaged(f"has {len(raw)} bytes; at most {MAX_BYTES} are read")
    try:
        document = foreign.Object.read(raw.decode(), "the collateral")
    except UnicodeDecodeError as error:
        raise _damaged("is not UTF-8") from error
    if document.value.keys() != _KEYS:
        odd = ", ".join(map(repr, sorted(document.value.keys() ^ _KEYS)))[:200]
        document.fail(f"lacks a key or has one too many ({odd})")
    tcb_info, qe_identity = _signed(document, "tcb_info"), _signed(document, "qe_identity")
    return Collateral(
        raw=raw,
        tcb_info=tcb.tcb_info(tcb_info.text),
        qe_identity=tcb.qe_identity(qe_identity.text),
        signed_tcb_info=tcb_info,
        signed_qe_identity=qe_identity,
        root_crl=document.hex("root_ca_crl"),
        pck_crl=document.hex("pck_crl"),
        pck_crl_chain=document.text("pck_crl_issuer_chain"),
    )


@lru_cache(maxsize=64)
def vouch(raw: bytes, root_der: bytes) -> Vouched:
    """Verify everything in collateral that does not depend on the time.

    1  It is ``genuine``.
    2  The root's CRL revokes neither the signers nor the PCK CA.
    """
    vouched = genuine(raw, root_der)  # 1
    for one in (*vouched.signers, vouched.pck_ca):  # 2
        if vouched.root_crl.revokes(one):
            raise Refused(
                Code.ATT_REVOKED if one is vouched.pck_ca else Code.ATT_COLLATERAL_SIGNER,
                f"the root's revocation list names the certificate {one.name!r} (serial"
                f" {one.serial:x}). Trust nothing that it signed; {_lower(IMPORT)} if its maker has"
                " issued another",
            )
    return vouched


def genuine(raw: bytes, root_der: bytes) -> Vouched:
    """Collateral as it was made, though it may revoke its own makers: use it by ``vouch`` alone.

    1  TCB info and QE identity are of one TEE, and a TCB Signing certificate that the root itself
       issued signed each: a PCK certificate, which a platform holds the key of, may not.
    2  The root signed the root's CRL, the PCK CA the other one.
    """
    collateral, root = parse(raw), pck.root(root_der)
    if collateral.tcb_info.tee != collateral.qe_identity.tee:  # 1
        raise _damaged(
            f"has TCB info for {collateral.tcb_info.tee.upper()} and a QE identity for"
            f" {collateral.qe_identity.tee.upper()}"
        )
    signers = (
        _signer(collateral.signed_tcb_info, root, "TCB info"),
        _signer(collateral.signed_qe_identity, root, "QE identity"),
    )
    what, code = "the issuer of the PCK revocation list", Code.ATT_COLLATERAL  # 2
    block = pck.split(collateral.pck_crl_chain.encode("ascii", "replace"), what, code)[0]
    pck_ca = pck.certificate(pck.decode(block), pck.Role.PCK_CA, what, code)
    pck.check_issued(pck_ca, root, what, code)
    root_crl = pck.crl(collateral.root_crl, root, "the root's revocation list", code)
    pck_crl = pck.crl(collateral.pck_crl, pck_ca, "the PCK revocation list", code)
    return Vouched(
        collateral=collateral,
        root=root,
        pck_ca=pck_ca,
        signers=signers,
        root_crl=root_crl,
        pck_crl=pck_crl,
    )


def check_current(vouched: Vouched, now: datetime) -> None:
    """Every part is valid now. One of the future means a wrong clock, which hides revocations;
    only a revocation list may be newer (RFC 5280 6.3.3 asks for its ``nextUpdate`` alone).
    """
    for one in vouched.periods:
        if now > one.ends:
            raise Refused(
                Code.ATT_COLLATERAL_EXPIRED,
                f"the {one.what} was valid until {one.ends:%Y-%m-%d %H:%M} UTC,"
                f" {_ago(now, one.ends)} ago (here it is {now:%Y-%m-%d %H:%M}). {IMPORT}",
            )
    for one in vouched.periods:
        if now < one.begins and not one.is_list:
            raise Refused(
                Code.ATT_COLLATERAL_FUTURE,
                f"the {one.what} is valid from {one.begins:%Y-%m-%d %H:%M} UTC on, and here it is"
                f" {now:%Y-%m-%d %H:%M}. Set this machine's clock, or, if it is right, find out who"
                " made this collateral",
            )


def _signed(document: foreign.Object, name: str) -> Signed:
    return Signed(
        text=document.text(name),
        signature=document.hex(f"{name}_signature", 64),
        chain=document.text(f"{name}_issuer_chain"),
    )


def _signer(signed: Signed, root: pck.Certificate, what: str) -> pck.Certificate:
    """The certificate that signed a text, which must be one for that, from the root itself."""
    name, code = f"the signer of the {what}", Code.ATT_COLLATERAL_SIGNER
    chain = signed.chain.encode("ascii", "replace")
    block = pck.split(chain, f"the chain of {name}", Code.ATT_COLLATERAL)[0]
    found = pck.certificate(pck.decode(block), pck.Role.TCB_SIGNING, name, code)
    pck.check_issued(found, root, name, code)
    try:
        data = signed.text.encode()
    except UnicodeEncodeError as error:
        raise _damaged(f"has {what} that is not UTF-8") from error
    if not pck.is_signature(found.key, signed.signature, data):
        raise _damaged(f"has {what} whose signature is not of {found.name!r}: it was changed")
    return found


def _damaged(problem: str) -> Refused:
    return Refused(
        Code.ATT_COLLATERAL,
        f"the collateral {problem}. Get it from Intel's PCS (API 4) again, and import it",
    )


def _ago(now: datetime, then: datetime) -> str:
    days, rest = divmod(now - then, timedelta(days=1))
    return f"{days} day{'s' * (days > 1)}" if days else f"{rest // timedelta(minutes=1)} minutes"


def _lower(text: str) -> str:
    return text[0].lower() + text[1:]
