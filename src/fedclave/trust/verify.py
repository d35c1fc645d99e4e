# SPDX-License-Identifier: Apache-2.0
"""A quote is genuine when two verifiers that share no code say so, and say the same.

    1  The quote parses, and has its PCK chain.                         ATT-MALFORMED, ...
    2  One of the trusted roots is behind it; the local store has
       collateral for its kind of platform. Nothing comes from a peer.  ATT-COLLATERAL-MISSING, ...
    3  Our own checks accept it (``sgx_verify``).                       the code of the step
    4  dcap-qvl accepts it, apart from us (``dcap``, ``dcap_within``).  ATT-DISAGREE
    5  Both found the same TCB status and the same advisories.          ATT-DISAGREE

Ours come first, so that a refusal has their codes, and dcap-qvl never sees what they refuse; what
it is too lax about does not count, since it can only refuse. Whether status, measurement and age
are good enough is for the policy to say: a verified quote alone admits nobody.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from fedclave.errors import Code, Refused
from fedclave.trust import pck, quotes, sgx_verify
from fedclave.trust.collateral import Collateral
from fedclave.trust.collateral_store import Store
from fedclave.trust.sgx_verify import Appraisal
from fedclave.trust.tcb import Status


class SecondJudge(Protocol):
    """A verifier that shares no code with ours: ``DcapJudge``, or ``Within`` an enclave."""

    def judge(
        self, raw_quote: bytes, collateral: bytes, root_der: bytes, now: datetime
    ) -> tuple[str, tuple[str, ...]]:
        """TCB status and advisories, or ``Refused``."""
        ...


@dataclass(frozen=True, kw_only=True)
class Verifier:
    """Verifies quotes by the collateral in a store, under the roots that the store trusts."""

    store: Store
    second: SecondJudge

    def verify(self, raw_quote: bytes, now: datetime) -> Appraisal:
        """What a genuine quote says, or ``Refused``. It blocks for milliseconds: not for the loop.

        ``UserError`` and ``Unavailable`` are about this machine (see ``dcap``), not the peer.
        """
        quote = quotes.parse(raw_quote)  # 1
        sgx_verify.check_supported(quote)
        root_der = pck.choose_root(quote.chain, self.store.roots)  # 2
        platform = pck.platform(quote.chain, root_der)
        collateral = self.store.find(
            tee=quote.tee,
            fmspc=platform.extension.fmspc,
            ca=platform.ca.kind,
            root_der=root_der,
            now=now,
        )
        return verify(raw_quote, collateral, root_der, now, self.second)  # 3, 4, 5


def verify(
    raw_quote: bytes, collateral: Collateral, root_der: bytes, now: datetime, second: SecondJudge
) -> Appraisal:
    """Steps 1 and 3 to 5, by given collateral under a given root."""
    quote = quotes.parse(raw_quote)
    ours = sgx_verify.judge(quote, collateral, root_der, now)
    status, advisories = second.judge(raw_quote, collateral.raw, root_der, now)
    if _is_same(ours.status, status) and set(advisories) == set(ours.advisories):
        return ours
    raise Refused(
        Code.ATT_DISAGREE,
        f"fedclave's own checks find {ours.status} ({_list(ours.advisories)}), the second verifier"
        f" (dcap-qvl) {status} ({_list(advisories)}). Nobody is admitted on the word of one alone:"
        " keep the quote and the collateral, and report both",
    )


def _is_same(ours: Status, theirs: str) -> bool:
    return ours.value == theirs


def _list(advisories: tuple[str, ...]) -> str:
    return ", ".join(sorted(advisories))[:300] or "no advisories"
