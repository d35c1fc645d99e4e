# SPDX-License-Identifier: Apache-2.0
"""A party's side of a certificate with evidence: its TEE speaks of the key that was made in it.

Neither the owner's acceptance nor a certificate is needed for it: a request comes before both.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric import ec

from fedclave.cli import attesting
from fedclave.cli.party import Party
from fedclave.errors import UserError
from fedclave.plan import Plan
from fedclave.trust import certifying, claims, ratls, requested
from fedclave.trust.attesting import Attester, Side
from fedclave.trust.certifying import Prove
from fedclave.trust.contract import Contract
from fedclave.trust.names import Role
from fedclave.trust.policy_values import ALL
from fedclave.trust.requested import Requested
from fedclave.workspace import agreement
from fedclave.workspace.layout import Workspace


@contextmanager
def prover(party: Party, role: Role, *, allow_simulated: bool) -> Iterator[Prove]:
    """How this party proves that its TEE made a key; without evidence where none is asked for.

    ``UserError``: contract, policy or TEE are missing.
    """
    workspace, plan = party.workspace, party.plan
    if role not in attesting.required(plan):
        yield certifying.unproved
        return
    with ExitStack() as stack:
        if not attesting.has_tee(workspace, allow_simulated=allow_simulated) and _is_excused(
            party, role, party.clock()
        ):
            yield certifying.unproved
            return
        contract = _contract(workspace, plan)
        yield _proving(
            party,
            role,
            attesting.attester(
                stack, workspace, role, contract.measured_id, allow_simulated=allow_simulated
            ),
        )


def of_side(party: Party, side: Side | None) -> Prove:
    """The same, of a party that takes part in a run."""
    if side is None or side.attester is None:
        return certifying.unproved
    return _proving(party, side.role, side.attester)


def _proving(party: Party, role: Role, attester: Attester) -> Prove:
    def prove(key: ec.EllipticCurvePublicKey, challenge: bytes) -> bytes:
        workspace, plan, now = party.workspace, party.plan, party.clock()
        said = requested.encode(
            Requested(
                role=role,
                name=party.name,
                federation=plan.name,
                contract=_contract(workspace, plan).id,
                policy=attesting.current_policy(workspace, plan, now).digest,
                key=certifying.key_hash(key),
                nonce=challenge,
                time=now,
            )
        )
        return ratls.encode(attester.evidence(claims.report_data(said)), said)

    return prove


def _contract(workspace: Workspace, plan: Plan) -> Contract:
    """The contract as it lies here; whoever reads the evidence knows which one it should be."""
    found = agreement.find(workspace)
    if found is None:
        raise UserError(
            f"{workspace.plan} wants evidence in the certificate request, which names the contract,"
            f" and there is no {workspace.contract}. Have it signed ('fx plan sign'), or import the"
            " archive that the author exported after that; then make the request"
        )
    return found.contract


def _is_excused(party: Party, role: Role, now: datetime) -> bool:
    """Whether the policy names this party among those that need no evidence."""
    if role != "collaborator":
        return False
    policy = attesting.current_policy(party.workspace, party.plan, now).policy
    excused = policy.roles.collaborator.unattested.members
    return party.name in excused or ALL in excused
