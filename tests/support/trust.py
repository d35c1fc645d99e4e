# SPDX-License-Identifier: Apache-2.0
"""Contract, policy and simulated TEE of a test's federation, whose parties share one folder."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedclave.cli import demo_trust
from fedclave.plan import load
from fedclave.trust import measure, policy_file, roots, signing
from fedclave.trust.simulated import SimulatedPlatform
from fedclave.workspace import agreement
from fedclave.workspace.layout import Workspace

POLICY = """schema: 1
name: kit-policy
version: {version}
{previous}
valid: {{from: {since:%Y-%m-%d}, until: {until:%Y-%m-%d}}}
roots: ["{root}"]
roles:
  aggregator: {{measurements: [{{mr_enclave: {measurement}}}]}}
  collaborator: {{measurements: [{{mr_enclave: {measurement}}}]}}
freshness: {freshness}
release: {{initial_model: attested, data_key: attested}}
"""


def demand(plan: Path, proving: Sequence[str], sealed: Sequence[str] = ()) -> Ed25519PrivateKey:
    """Have the plan demand that these prove what they run; returns the policy signer's key."""
    key = Ed25519PrivateKey.generate()
    named = policy_file.format_key(key.public_key())
    with plan.open("a") as file:
        file.write(
            f'attestation: {{required: [{", ".join(proving)}], signers: ["{named}"],'
            f" sealed: [{', '.join(sealed)}]}}\n"
        )
    return key


def settle(
    folder: Path, signer: Ed25519PrivateKey, freshness: str, now: datetime
) -> SimulatedPlatform:
    """The platform that all run on, the policy, and the contract."""
    workspace = Workspace(folder)
    plan = load(workspace.plan)
    platform = demo_trust.platform(workspace, plan, now)
    policy(workspace, signer, platform, now, freshness=freshness)
    author = signing.generate()
    signing.save(workspace.cert / "author.key", author)
    agreement.sign(workspace, plan, author)
    return platform


def policy(
    workspace: Workspace,
    signer: Ed25519PrivateKey,
    platform: SimulatedPlatform,
    now: datetime,
    *,
    version: int = 1,
    previous: str = "",
    freshness: str = "{}",
) -> None:
    """Write and sign a policy that allows this code."""
    text = POLICY.format(
        version=version,
        previous=previous and f"previous: {previous}",
        since=now - timedelta(days=2),
        until=now + timedelta(days=30),
        root=f"{roots.SIMULATED}{platform.root_hash}",
        measurement=measured(workspace).hex(),
        freshness=freshness,
    )
    workspace.attestation.write_text(text)
    policy_file.sign(workspace.attestation, workspace.attestation_signatures, signer)


def measured(workspace: Workspace) -> bytes:
    """The measurement of this code under the workspace's contract."""
    contract = agreement.close(workspace, load(workspace.plan)).measured_id
    return measure.measure_code(workspace.src, contract).digest


def accept(folder: Path, members: Sequence[str]) -> None:
    """The owner of the data accepts the contract for each of them."""
    workspace = Workspace(folder)
    plan = load(workspace.plan)
    author = signing.load(workspace.cert / "author.key").public_key()
    owner = signing.generate()
    signing.save(workspace.cert / "owner.key", owner)
    signed = agreement.offered(workspace, plan, author)
    for name in members:
        agreement.accept(workspace, signed, name, author=author, owner=owner)
