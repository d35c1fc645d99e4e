# SPDX-License-Identifier: Apache-2.0
"""The CA's side of a certificate with evidence: what must lie where the CA is, and the gate.

A key is judged by the plan, the contract, the policy and the collateral in the CA's workspace, as
they are at that moment: a service that runs for weeks follows each of them.
"""

from dataclasses import dataclass
from datetime import datetime

from fedclave.cli import attesting
from fedclave.errors import Code, Refused, UserError
from fedclave.plan import load
from fedclave.trust import gate
from fedclave.trust.certifying import Wanted
from fedclave.trust.dcap import DcapJudge
from fedclave.trust.gate import Terms
from fedclave.trust.verify import Verifier
from fedclave.workspace import agreement
from fedclave.workspace.layout import Workspace


@dataclass(frozen=True, kw_only=True)
class Vouching:
    """Asks the gate about each key that a CA is to certify; a ``certifying.Vouch``."""

    workspace: Workspace
    allow_simulated: bool

    def __call__(self, wanted: Wanted, now: datetime) -> None:
        """Raise ``Refused`` unless the key may be certified.

        ``UserError``: something is missing here that it takes to judge evidence.
        """
        plan = load(self.workspace.plan)
        required, role = attesting.required(plan), wanted.identity.role
        if plan.attestation is None:
            if wanted.evidence:
                raise Refused(
                    Code.BAD_REQUEST,
                    f"the certificate request carries evidence, and {self.workspace.plan} has no"
                    " attestation section to judge it by. Use one plan on both sides",
                )
            return
        if role not in required and not wanted.evidence:
            return
        try:
            signed = agreement.load(self.workspace, plan, None)
            if signed is None:
                raise UserError(f"there is no {self.workspace.contract}")
            policy = attesting.current_policy(self.workspace, plan, now)
            store = attesting.store(self.workspace, policy)
        except UserError as error:
            raise UserError(
                f"{self.workspace.plan} wants the {role} to prove what it runs, and the CA judges"
                " that by the signed contract, the policy and the collateral in its workspace:"
                f" {error}"
            ) from error
        with DcapJudge() as second:
            terms = Terms(
                contract=signed.id,
                policy=policy,
                required=required,
                verifier=Verifier(store=store, second=second),
                allow_simulated=self.allow_simulated,
            )
            try:
                gate.certify(wanted, terms=terms, now=now)
            except Refused as refused:
                raise Refused(
                    refused.code,
                    f"{role} {wanted.identity.name!r} is not certified: {refused.message}",
                ) from refused
