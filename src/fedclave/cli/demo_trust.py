# SPDX-License-Identifier: Apache-2.0
"""What the parties of ``fx demo`` agree on and prove: contract, policy, and a simulated TEE.

Each step is what people would do with ``fx``, in the same order and through the same code: the
policy's signer makes a key, the author closes and signs the contract, each owner of data accepts
it, everybody imports the collateral of the platform that the aggregator runs on.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

from fedclave.plan import Plan
from fedclave.trust import measure, policy_file, roots, signing
from fedclave.trust.collateral_store import Store
from fedclave.trust.simulated import SimulatedPlatform
from fedclave.workspace import agreement
from fedclave.workspace.layout import Workspace

DAYS = 30  # for which the demo's policy is valid

_POLICY = """# What must run at the other end. The signer named in plan.yaml vouches for this text.
schema: 1
name: {name}-policy
version: 1
valid: {{from: {since:%Y-%m-%d}, until: {until:%Y-%m-%d}}}
roots: ["{root}"]                # SIMULATED: protects nobody
roles:
  aggregator:
    measurements:
      - {{mr_enclave: {measurement}, note: "the code of this demo"}}
  collaborator:
    measurements:
      - {{mr_enclave: {measurement}, note: "the code of this demo"}}
"""


def demand(plan: Path, signer: Path, *, both: bool = False) -> None:
    """Have a plan demand that the aggregator proves what it runs, or both sides; makes the key of
    the policy's signer.
    """
    who = "aggregator, collaborators" if both else "aggregator"
    key = signing.generate()
    signing.save(signer, key)
    named = policy_file.format_key(key.public_key())
    with plan.open("a", encoding="utf-8") as file:
        file.write(f'\nattestation: {{required: [{who}], signers: ["{named}"]}}\n')


def platform(aggregator: Workspace, plan: Plan, now: datetime) -> SimulatedPlatform:
    """What the aggregator runs on."""
    made = SimulatedPlatform.create(aggregator.cert / "simulated", plan.name, now)
    learn(aggregator, made, made.collateral(now), now)
    return made


def settle(
    aggregator: Workspace, plan: Plan, on: SimulatedPlatform, signer: Path, now: datetime
) -> None:
    """The policy on what the aggregator must run, and on what, and the author's signature."""
    contract = agreement.close(aggregator, plan).measured_id
    text = _POLICY.format(
        name=plan.name,
        since=now - timedelta(days=1),
        until=now + timedelta(days=DAYS),
        root=f"{roots.SIMULATED}{on.root_hash}",
        measurement=measure.measure_code(aggregator.src, contract).digest.hex(),
    )
    aggregator.attestation.write_text(text, encoding="utf-8")
    policy_file.sign(
        aggregator.attestation, aggregator.attestation_signatures, signing.load(signer)
    )
    author = signing.generate()
    signing.save(aggregator.cert / f"{agreement.AUTHOR}.key", author)
    agreement.sign(aggregator, plan, author)


def learn(workspace: Workspace, about: SimulatedPlatform, collateral: bytes, now: datetime) -> None:
    """Import what is to be known about a platform."""
    folder = workspace.cert / "collateral"
    Store(folder=folder, roots=(about.root,)).add(collateral, now)
    roots.keep(folder, about.root)


def accept(
    parties: Mapping[str, Workspace], plan: Plan, on: SimulatedPlatform, now: datetime
) -> None:
    """Each party knows the platform, and the owner of its data accepts the contract."""
    collateral = on.collateral(now)
    for name, workspace in parties.items():
        learn(workspace, on, collateral, now)
        author = signing.parse_public(workspace.author.read_bytes(), str(workspace.author))
        owner = signing.generate()
        signing.save(workspace.cert / f"{agreement.OWNER}.key", owner)
        signed = agreement.offered(workspace, plan, author)
        agreement.accept(workspace, signed, name, author=author, owner=owner)
