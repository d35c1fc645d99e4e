# SPDX-License-Identifier: Apache-2.0
"""Evidence in a file verified offline, with all that was established if it is refused.

    1  A certificate (RA-TLS) brings a quote.                     ATT-MALFORMED
    2  The quote parses; it is about the certificate's own key.   ATT-MALFORMED, ATT-KEY-BINDING
    3  Its platform's certificates lead to the root.              ATT-UNSUPPORTED, ATT-CHAIN
    4  There is collateral, signed under the root.                ATT-COLLATERAL...
    5  It is genuine (``verify``).                                the code of the step
    6  The root is Intel's, or a simulated TEE is borne with.     ATT-SIMULATED
    7  A policy admits it, if one is given.                       the code of the rule

Whether a TEE is simulated, its root says, and nothing else: the host writes a quote's header.
A quote has no date, and nobody asked for this one: it may be a copy of an old one. Only a run,
which gives its own challenge, excludes that.
"""

import hashlib
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime

from fedclave.errors import Code, Refused
from fedclave.trust import claims, collateral, judgement, pck, quotes, ratls, roots, verify
from fedclave.trust.collateral import Collateral, Vouched
from fedclave.trust.collateral_store import Store
from fedclave.trust.judgement import Verdict
from fedclave.trust.names import Role
from fedclave.trust.policy import Policy
from fedclave.trust.policy_values import intel_root_hash
from fedclave.trust.quotes import Quote
from fedclave.trust.ratls import RaTls
from fedclave.trust.sgx_verify import Appraisal, check_supported
from fedclave.trust.verify import SecondJudge

_PEM = re.compile(
    rb"\s*-----BEGIN CERTIFICATE-----\s([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----", re.ASCII
)


@dataclass(frozen=True, kw_only=True)
class Basis:
    """What evidence is judged by."""

    root_der: bytes
    """The only root that is trusted."""
    collateral: bytes | Store
    """A file's bytes, or what was imported."""
    second: SecondJudge
    now: datetime
    policy: Policy | None = None
    role: Role = "aggregator"
    allow_simulated: bool = False


@dataclass(frozen=True, kw_only=True)
class Found:
    """What was established before a step refused; without ``refused`` all of it."""

    certificate: RaTls | None = None
    """None: it is a bare quote."""
    nonce: bytes | None = None
    """The challenge that the evidence in a certificate answers, if it names one."""
    bound: bool = False
    """Whether the evidence is about the certificate's own key."""
    quote: Quote | None = None
    """Its content is proved by ``appraisal`` alone."""
    platform: pck.Platform | None = None
    collateral: Collateral | None = None
    """As it was read; ``vouched`` if it is signed as it should be."""
    vouched: Vouched | None = None
    appraisal: Appraisal | None = None
    simulated: bool | None = None
    """Whether another root than Intel's is behind the platform; None: neither is."""
    verdict: Verdict | None = None
    """The policy's."""
    refused: Refused | None = None

    @property
    def word(self) -> str:
        """The result in a word: ``VERIFIED`` is by a policy, ``GENUINE`` without one."""
        if self.refused is not None:
            return "REFUSED"
        if self.simulated:
            return judgement.Word.SIMULATED.value
        return "GENUINE" if self.verdict is None else self.verdict.word.value


def examine(raw: bytes, by: Basis) -> Found:
    """Judge a quote, or a certificate that carries one (DER, PEM). Refusals are in the result.

    ``UserError`` and ``Unavailable`` are about this machine (see ``dcap``), not the evidence.
    """
    found = _beforehand(by)
    try:
        found = _read(found, raw)  # 1
        found, quote = _parsed(found, raw)  # 2
        found = _bound(found)
        found, platform = _platform(found, quote, by)  # 3
        found, parts = _collateral(found, quote, platform, by)  # 4
        found = replace(found, vouched=collateral.vouch(parts.raw, by.root_der))
        raw_quote = raw if found.certificate is None else found.certificate.quote
        appraisal = verify.verify(raw_quote, parts, by.root_der, by.now, by.second)  # 5
        found = replace(found, appraisal=appraisal)
        if found.simulated and not by.allow_simulated:  # 6
            raise _simulated(appraisal)
        return replace(found, verdict=_judged(found, appraisal, by))  # 7
    except Refused as refused:
        return replace(found, refused=refused)


def certificate(raw: bytes) -> bytes | None:
    """The certificate in a file, DER; None: it is none. In PEM the first one counts, the leaf.

    ``Refused`` (ATT_MALFORMED): it begins as one in PEM form does, and is none.
    """
    if raw[:1] == b"\x30":  # a SEQUENCE; a quote begins with its version
        return raw
    if not raw.lstrip().startswith(b"-----BEGIN CERTIFICATE"):
        return None
    match = _PEM.match(raw)
    der = b"" if match is None else pck.decode(match[1])
    if not der:
        raise Refused(
            Code.ATT_MALFORMED,
            "this begins as a certificate in PEM form, and has no base64 up to its last line. Ask"
            " the peer for its certificate again",
        )
    return der


def _beforehand(by: Basis) -> Found:
    """What can be said of a file of collateral, whatever the evidence. Step 4 refuses a bad one."""
    found = Found()
    if isinstance(by.collateral, bytes):
        with suppress(Refused):
            found = replace(found, collateral=collateral.parse(by.collateral))
            found = replace(found, vouched=collateral.vouch(by.collateral, by.root_der))
    return found


def _read(found: Found, raw: bytes) -> Found:
    der = certificate(raw)
    return found if der is None else replace(found, certificate=ratls.read(der))


def _parsed(found: Found, raw: bytes) -> tuple[Found, Quote]:
    quote = quotes.parse(raw if found.certificate is None else found.certificate.quote)
    return replace(found, quote=quote), quote


def _bound(found: Found) -> Found:
    if found.certificate is None:
        return found
    ratls.bound(found.certificate)
    said = found.certificate.claims
    nonce = None if said is None else claims.binding(said).nonce
    return replace(found, bound=True, nonce=nonce)


def _platform(found: Found, quote: Quote, by: Basis) -> tuple[Found, pck.Platform]:
    check_supported(quote)
    platform = pck.platform(quote.chain, by.root_der)
    simulated = roots.spki_hash(by.root_der) != intel_root_hash()
    return replace(found, platform=platform, simulated=simulated), platform


def _collateral(
    found: Found, quote: Quote, platform: pck.Platform, by: Basis
) -> tuple[Found, Collateral]:
    if isinstance(by.collateral, bytes):
        parts = collateral.parse(by.collateral)
    else:
        parts = by.collateral.held(
            tee=quote.tee,
            fmspc=platform.extension.fmspc,
            ca=platform.ca.kind,
            root_der=by.root_der,
        ).collateral
    return replace(found, collateral=parts), parts


def _simulated(appraisal: Appraisal) -> Refused:
    return Refused(
        Code.ATT_SIMULATED,
        f"the quote is whole, but under the root {appraisal.root_hash[:16]}..., which is not"
        " Intel's: a simulated TEE, which protects nobody. Ask for evidence of real hardware; for a"
        " trial, give --allow-simulated",
    )


def _judged(found: Found, appraisal: Appraisal, by: Basis) -> Verdict | None:
    if by.policy is None:
        return None
    spki = b"" if found.certificate is None else found.certificate.spki
    return judgement.appraise(
        by.policy,
        by.role,
        by.role,
        appraisal,
        key=hashlib.sha256(spki).hexdigest() if spki else "",
        now=by.now,
        allow_simulated=by.allow_simulated,
    )
