# SPDX-License-Identifier: Apache-2.0
"""Attestation policies and real appraisals of simulated enclaves, for tests."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import yaml

from fedclave.trust import collateral, policy, quotes, sgx_verify
from fedclave.trust.policy import Policy
from fedclave.trust.quoting import QuotingEnclave
from fedclave.trust.sgx_verify import Appraisal
from fedclave.trust.simulated import HEALTHY, Faults, SimulatedPlatform

NOW = datetime(2031, 5, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
CODE = b"\xab" * 32
"""The measurement of the code that all agreed on."""
KEY = "7e" * 32
"""The hash of a peer's TLS key."""

ROLE: dict[str, Any] = {"measurements": [{"mr_enclave": CODE.hex(), "note": "release 1.4.0"}]}
BASE: dict[str, Any] = {
    "schema": 1,
    "name": "digits",
    "version": 1,
    "valid": {"from": "2031-01-01", "until": "2031-12-31"},
    "roots": ["intel"],
    "roles": {"aggregator": ROLE, "collaborator": ROLE},
}


def written(*roots: str, **parts: Any) -> str:
    """A policy's text: the base, other roots if any are given, and these parts in place of its."""
    value = BASE | ({"roots": list(roots)} if roots else {}) | parts
    # What stands twice in a value would become an alias in YAML.
    return yaml.safe_dump(json.loads(json.dumps(value)), sort_keys=False)


def made(*roots: str, **parts: Any) -> Policy:
    """The policy of that text."""
    return policy.parse(written(*roots, **parts))


def appraised(
    platform: SimulatedPlatform,
    *,
    code: bytes = CODE,
    faults: Faults = HEALTHY,
    issued: datetime = NOW,
    debug: bool = False,
) -> Appraisal:
    """What our verifier finds in a quote about this code, by collateral with these faults."""
    quote = QuotingEnclave(platform.quoting, debug=debug).quote(code, bytes(64))
    parts = collateral.parse(platform.collateral(issued, faults))
    return sgx_verify.judge(quotes.parse(quote), parts, platform.root, NOW)
