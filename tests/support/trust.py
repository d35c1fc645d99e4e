# SPDX-License-Identifier: Apache-2.0
"""Contract, policy and simulated TEE of a test's federation, whose parties share one folder."""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedclave.cli import demo_trust
from fedclave.plan import load
from fedclave.trust import measure, policy_file, roots, signing
from fedclave.trust import policy as policies
from fedclave.trust.simulated import SimulatedPlatform
from fedclave.workspace import agreement
from fedclave.workspace.layout import Workspace

AGE = timedelta(days=100)
"""Of the platform: it is older than the federation, so that there is old collateral about it."""


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
    folder: Path,
    signer: Ed25519PrivateKey,
    now: datetime,
    rules: dict[str, Any],
    unattested: dict[str, Any],
) -> SimulatedPlatform:
    """The platform that all run on, the policy with these parts, and the contract."""
    workspace = Workspace(folder)
    plan = load(workspace.plan)
    platform = SimulatedPlatform.create(workspace.cert / "simulated", plan.name, now - AGE)
    demo_trust.learn(workspace, platform, platform.collateral(now), now)
    code = {"measurements": [{"mr_enclave": measured(workspace).hex()}]}
    excusing = {"aggregator": code, "collaborator": {**code, "unattested": unattested}}
    roles = {"roles": excusing} if unattested else {}
    policy(workspace, signer, now, {"roots": [root(platform)], **roles, **rules})
    author = signing.generate()
    signing.save(workspace.cert / "author.key", author)
    agreement.sign(workspace, plan, author)
    return platform


def policy(
    workspace: Workspace, signer: Ed25519PrivateKey, now: datetime, rules: dict[str, Any]
) -> str:
    """Write and sign a policy that allows this code, with these parts; returns its digest."""
    code = {"measurements": [{"mr_enclave": measured(workspace).hex()}]}
    value = {
        "schema": 1,
        "name": "kit-policy",
        "version": 1,
        "valid": {
            "from": f"{now - timedelta(days=2):%Y-%m-%d}",
            "until": f"{now + timedelta(days=30):%Y-%m-%d}",
        },
        "roles": {"aggregator": code, "collaborator": code},
        "release": {"initial_model": "attested", "data_key": "attested"},
    }
    workspace.attestation.write_text(json.dumps({**value, **rules}, indent=1))
    made = policy_file.sign(workspace.attestation, workspace.attestation_signatures, signer)
    return made.policy.digest


def follow(
    workspace: Workspace, signer: Ed25519PrivateKey, now: datetime, rules: dict[str, Any]
) -> str:
    """Put the next version of a workspace's policy in place, with these parts changed."""
    old = policies.load(workspace.attestation)
    value = old.model_dump(mode="json", by_alias=True, exclude_unset=True)
    step = {"version": old.version + 1, "previous": old.digest}
    return policy(workspace, signer, now, {**value, **step, **rules})


def root(platform: SimulatedPlatform) -> str:
    """How a policy names the root of a platform."""
    return f"{roots.SIMULATED}{platform.root_hash}"


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
