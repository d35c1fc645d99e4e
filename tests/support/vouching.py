# SPDX-License-Identifier: Apache-2.0
"""The gate with all that stands behind it, and an enclave whose quotes are genuine.

A simulated platform, its collateral in a store, both verifiers, and a policy that admits ``CODE``.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.support.evidence import EXPECTED, said
from tests.support.policies import CODE, DAY, NOW, made
from tests.support.trust import root

from fedclave.errors import Code, Refused
from fedclave.trust import claims, dcap, gate, ratls
from fedclave.trust.claims import Expected
from fedclave.trust.collateral_store import Store
from fedclave.trust.gate import Standing
from fedclave.trust.names import Role
from fedclave.trust.policy import Policy
from fedclave.trust.policy_file import SignedPolicy
from fedclave.trust.quoting import QuotingEnclave
from fedclave.trust.simulated import SimulatedPlatform
from fedclave.trust.verify import SecondJudge, Verifier


class Door:
    """``gate.vouch`` as a party has it, and a platform that it trusts."""

    def __init__(self, folder: Path, second: SecondJudge) -> None:
        born = NOW - DAY
        self.platform = SimulatedPlatform.create(folder / "platform", "digits", born)
        self.enclave = QuotingEnclave(self.platform.quoting)
        store = Store(folder=folder / "collateral", roots=(self.platform.root,))
        store.add(self.platform.collateral(born), NOW)
        self.verifier = Verifier(store=store, second=second)
        self.policy = self.rules()

    def rules(self, **parts: Any) -> SignedPolicy:
        """A policy under this platform's root, with these parts in place of the base's."""
        policy: Policy = made(root(self.platform), **parts)
        return SignedPolicy(policy=policy, digest=policy.digest, signed_by=())

    def about(self, told: bytes, code: bytes = CODE) -> bytes:
        """Evidence: the enclave says these bytes, whatever they are."""
        return ratls.encode(self.enclave.quote(code, claims.report_data(told)), told)

    def evidence(self, **changes: object) -> bytes:
        """Evidence for this channel, but for what the claims have changed."""
        return self.about(said(**changes))

    def about_role(self, role: Role) -> tuple[bytes, Expected]:
        """Evidence for this channel of a peer in this role, and that it is expected there."""
        return self.evidence(role=role), replace(EXPECTED, role=role)

    def vouch(
        self,
        evidence: bytes,
        expected: Expected = EXPECTED,
        *,
        policy: SignedPolicy | None = None,
        allow_simulated: bool = True,
        now: datetime = NOW,
    ) -> Standing:
        """What the gate decides."""
        return gate.vouch(
            evidence,
            expected=expected,
            verifier=self.verifier,
            policy=policy or self.policy,
            allow_simulated=allow_simulated,
            now=now,
        )

    def verdict(self, evidence: bytes, expected: Expected = EXPECTED, **others: Any) -> Code | None:
        """With which code the gate refuses; None: it admits."""
        try:
            self.vouch(evidence, expected, **others)
        except Refused as refused:
            return refused.code
        return None


@contextmanager
def opened(folder: Path) -> Iterator[Door]:
    """A door whose second verifier is dcap-qvl, in its process."""
    with dcap.DcapJudge() as second:
        yield Door(folder, second)
