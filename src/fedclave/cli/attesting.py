# SPDX-License-Identifier: Apache-2.0
"""What a party needs to attest, put together from its workspace: contract, policy, TEE, collateral.

plan/contract.dsse.json, cert/NAME.acceptance.dsse.json   workspace.agreement
plan/attestation.yaml, plan/attestation.dsse.json         trust.policy_file
cert/collateral/                                          trust.collateral_store, trust.roots
/dev/attestation, or cert/simulated/platform/             where quotes come from
"""

import asyncio
import os
import secrets
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from fedclave.cli import vigil
from fedclave.errors import FedclaveError, Refused, Unavailable, UserError
from fedclave.plan import Plan
from fedclave.transport.grpc.attest import Usher
from fedclave.trust import attesting, cbor, measure, policy_file, release, roots, sgx
from fedclave.trust.attesting import NONCE, Attester, Channel, Nonces, Side, Terms
from fedclave.trust.collateral_store import Reminder, Store
from fedclave.trust.credentials import Credentials
from fedclave.trust.dcap import DcapJudge
from fedclave.trust.dcap_within import Within
from fedclave.trust.gate import Standing
from fedclave.trust.heads import Shown
from fedclave.trust.names import Role
from fedclave.trust.policy_file import SignedPolicy
from fedclave.trust.quoting import QuotingService, SimulatedAttester
from fedclave.trust.sessions import Sessions
from fedclave.trust.verify import Verifier
from fedclave.workspace import agreement
from fedclave.workspace.layout import Workspace

if TYPE_CHECKING:
    from fedclave.cli.party import Party

Tell = Callable[..., None]
"""``tell(event, **fields)``: where what happens is recorded."""

ROLES: dict[str, Role] = {"aggregator": "aggregator", "collaborators": "collaborator"}
"""What a plan's ``attestation.required`` calls the roles."""


def required(plan: Plan) -> frozenset[Role]:
    """The roles that must prove what they run."""
    wanted = plan.attestation
    return frozenset(ROLES[name] for name in wanted.required) if wanted else frozenset()


def run_from_source(plan: Plan, role: Role, *, allow_simulated: bool) -> None:
    """Start this process again without compiled files, if a simulated TEE is to measure it."""
    proves = role in required(plan) and allow_simulated and not sgx.DEVICE.exists()
    if proves and sys.pycache_prefix != os.devnull:
        command = [
            sys.executable,
            *measure.FROM_SOURCE,
            "-I" if sys.flags.isolated else "-P",
            "-m",
            "fedclave.cli.main",
            *sys.argv[1:],
        ]
        sys.stdout.flush()
        os.execv(sys.executable, command)  # noqa: S606 - this very command, measured


@contextmanager
def side(party: "Party", role: Role, *, allow_simulated: bool) -> Iterator[Side | None]:
    """A party's part in ``fl-attest/1``; None where the plan knows no attestation.

    ``UserError``, ``Refused``: contract, policy or TEE are not what the plan asks for.
    """
    workspace, plan, now = party.workspace, party.plan, party.clock()
    signed = agreement.load(workspace, plan, party.name if role == "collaborator" else None)
    if plan.attestation is None:
        yield None
        return
    if signed is None:
        raise UserError(
            f"{workspace.plan} asks for attestation, and the contract is missing. Run 'fx plan"
            " sign', or import the archive that the author exported after signing"
        )
    cbor.load()
    policy = current_policy(workspace, plan, now)
    must = required(plan)
    with ExitStack() as stack:
        own: Attester | None = None
        if role in must:
            own = attester(
                stack,
                workspace,
                role,
                signed.contract.measured_id,
                allow_simulated=allow_simulated,
            )
        yield Side(
            terms=Terms(federation=plan.name, contract=signed.id, policy=policy, required=must),
            role=role,
            name=party.name,
            attester=own,
            verifier=Verifier(
                store=store(workspace, policy),
                second=Within() if party.inside else stack.enter_context(DcapJudge()),
            ),
            allow_simulated=allow_simulated,
            pair=release.generate(),
            now=party.clock,
        )


def current_policy(workspace: Workspace, plan: Plan, now: datetime) -> SignedPolicy:
    """The policy of a workspace, signed by those whom the plan names."""
    if plan.attestation is None:
        raise UserError(f"{workspace.plan} has no attestation section, so no policy applies")
    return policy_file.load(
        workspace.attestation,
        workspace.attestation_signatures,
        signers=plan.attestation.signers,
        threshold=plan.attestation.threshold,
        pins=workspace.cert / "policies",
        now=now,
    )


def store(workspace: Workspace, policy: SignedPolicy) -> Store:
    """The imported collateral, under the roots that the policy names."""
    folder = workspace.cert / "collateral"
    return Store(folder=folder, roots=roots.named(folder, policy.policy.roots))


def simulated(workspace: Workspace) -> Path:
    """Where a workspace's simulated TEE lies."""
    return workspace.cert / "simulated"


def has_tee(workspace: Workspace, *, allow_simulated: bool) -> bool:
    """Whether there is a TEE here, or a simulated one that counts."""
    return sgx.DEVICE.exists() or (allow_simulated and (simulated(workspace) / "platform").is_dir())


def attester(
    stack: ExitStack,
    workspace: Workspace,
    role: Role,
    measured_id: str,
    *,
    allow_simulated: bool,
) -> Attester:
    """Where this process gets its quotes from; a simulated TEE speaks of this code and contract.

    ``UserError``: there is no TEE here.
    """
    if sgx.DEVICE.exists():
        return sgx.SgxAttester()
    platform = simulated(workspace) / "platform"
    if not has_tee(workspace, allow_simulated=allow_simulated):
        raise UserError(
            f"the plan wants the {role} to prove what it runs, and there is no TEE here"
            f" ({sgx.DEVICE} is missing). Start it in an enclave (gramine-sgx); or, to try it"
            " where nothing needs protection: 'fx attest simulate', and --allow-simulated"
        )
    measure.check_interpreter()
    measured = measure.measure_code(workspace.src, measured_id)
    service = stack.enter_context(QuotingService.start(platform))
    return SimulatedAttester(service.socket, measured.digest)


async def rehearsed(party: "Party", own: Side) -> Standing:
    """How this party stands by its own policy: better known before others refuse it."""
    leaf = Credentials.read(party.workspace.cert, party.name).leaf
    return await asyncio.to_thread(_rehearsed, own, attesting.key_hash(leaf))


def usher(party: "Party", own: Side, log: Callable[[int], Shown]) -> Usher:
    """The aggregator's part in ``Attest``; ``log`` shows its log's head (``Log.shown``)."""
    cert = party.workspace.cert
    return Usher(own, Sessions(), lambda: Credentials.read(cert, party.name).leaf, log)


def _rehearsed(own: Side, key: bytes) -> Standing:
    channel = Channel(own=key, peer=key)
    nonces = Nonces(given=secrets.token_bytes(NONCE), asked=secrets.token_bytes(NONCE))
    mirrored = Nonces(given=nonces.asked, asked=nonces.given)
    try:
        return own.judge(own.prove(channel, nonces), own.role, own.name, channel, mirrored)
    except Refused as refused:
        raise Refused(
            refused.code, f"the members would refuse this {own.role}: {refused.message}"
        ) from refused


@asynccontextmanager
async def reconsidered(
    party: "Party", usher: Usher | None, cut: Callable[[str], None], tell: Tell
) -> AsyncIterator[None]:
    """Sessions are looked at again while they last: policy and collateral may change.

    ``cut`` ends the connection of a member whose session has ended; ``tell`` hears of both.
    """
    if usher is None:
        yield
        return
    async with vigil.beside(_reconsider(party, usher, cut, tell)):
        yield


async def _reconsider(party: "Party", usher: Usher, cut: Callable[[str], None], tell: Tell) -> None:
    troubles, reminder, due = Troubles(party), Reminder(), False
    async for changed in vigil.looks(party.workspace):
        if not (due := due or changed):
            continue
        usher.side, error = followed(party, usher.side, tell)
        troubles.note("policy", error)
        try:  # whatever became of the policy: a revocation must not wait for it
            for name, refused in (await asyncio.to_thread(usher.reconsider)).items():
                tell("session_ended", member=name, code=str(refused.code), message=refused.message)
                cut(name)
        except FedclaveError as error:  # of this machine; who attests anew is not let in either
            troubles.note("collateral", error)
        except OSError as failed:
            troubles.note("collateral", unreadable(failed))
        else:
            troubles.note("collateral", None)
            await remind(party, reminder, usher.side)
            due = error is not None  # what could not be done is tried at the next look


async def remind(party: "Party", reminder: Reminder, own: Side) -> None:
    """Tell of collateral that will soon expire: then nobody on such a platform is admitted."""
    for text in await asyncio.to_thread(reminder.due, own.verifier.store, own.now()):
        party.tell("policy_trouble", message=text)


def unreadable(error: OSError) -> Unavailable:
    """What keeps us from a file that we need, in our words."""
    return Unavailable(f"{error.filename}: {error.strerror}. Check the path, its owner, the disk")


class Troubles:
    """What keeps a party from looking again: each is told once, until it changes."""

    def __init__(self, party: "Party") -> None:
        self._party = party
        self._said: dict[str, str] = {}

    def note(self, what: str, error: FedclaveError | None) -> None:
        """Tell of an error, if it is not the last one of its kind; None: there is none."""
        message = "" if error is None else str(error)
        if message and message != self._said.get(what):
            self._party.tell("policy_trouble", message=message)
        self._said[what] = message


def followed(party: "Party", own: Side, tell: Tell) -> tuple[Side, FedclaveError | None]:
    """A side by the policy that lies in the workspace now; or as it was, and what is wrong there.

    So the next version, once it is in place and signed, is in force without a new start.
    """
    try:
        policy = current_policy(party.workspace, party.plan, party.clock())
        if policy.digest == own.terms.policy.digest:
            return own, None
        verifier = replace(own.verifier, store=store(party.workspace, policy))
    except (UserError, Refused, Unavailable) as error:
        return own, error
    except OSError as error:
        return own, unreadable(error)
    signers = list(policy.signed_by)
    tell("policy", version=policy.policy.version, digest=policy.digest, signers=signers)
    return replace(own, terms=replace(own.terms, policy=policy), verifier=verifier), None
