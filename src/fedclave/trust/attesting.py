# SPDX-License-Identifier: Apache-2.0
"""``fl-attest/1``: two ends of a TLS channel prove to each other what they run, or say they cannot.

    member      -> aggregator   challenge: nonce, contract, policy, the aggregator's TLS key; how
                                large the aggregator's log was when the member last saw it
    member      <- aggregator   evidence over both nonces, both keys and the head of its log; the
                                aggregator's nonce; the proof that this log only grew (``heads``)
    member      -> aggregator   evidence likewise
    member      <- aggregator   how the member stands, and until when

The side that connected is shown nothing of the run before it has verified the other, and the other
way round. Role, both nonces and both TLS keys are in the claims, and the hash of the claims in the
quote (``claims``): evidence that is old, of another channel, or one's own thrown back, proves
nothing. What is here blocks for milliseconds and does no I/O but to ask for a quote; the messages
are ``transport.grpc.attest``'s.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedclave.errors import Code, Refused
from fedclave.trust import claims, gate, ratls
from fedclave.trust.claims import Claims, Expected
from fedclave.trust.gate import Standing
from fedclave.trust.names import Role
from fedclave.trust.policy_file import SignedPolicy
from fedclave.trust.release import KeyPair
from fedclave.trust.verify import Verifier

VERSIONS = (1,)
NONCE = 32  # bytes
MAX_EVIDENCE = 2**16  # bytes; a quote with its claims has about 5000


class Attester(Protocol):
    """Where quotes come from: ``sgx.SgxAttester``, ``quoting.SimulatedAttester``."""

    def evidence(self, report_data: bytes) -> bytes:
        """A quote over 64 bytes of report data. ``Unavailable`` if there is none now."""
        ...


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What the two sides have in common: it stands in the claims of both."""

    federation: str
    contract: str  # id
    policy: SignedPolicy
    required: frozenset[Role]
    """The roles that must prove themselves."""

    def check(self, contract: str, policy: str) -> None:
        """Raise ``Refused`` unless the peer holds the same contract and the same policy."""
        if contract != self.contract:
            raise Refused(
                Code.ATT_CONTRACT,
                f"the peer is in contract {contract[:12]!r}, this side in {self.contract[:12]}."
                " Compare 'fx plan show --contract' on both sides: each file has its digest there",
            )
        if policy != self.policy.digest:
            raise Refused(
                Code.ATT_POLICY_VERSION,
                f"the peer follows policy {policy[:12]!r}, this side {self.policy.digest[:12]}"
                f" (version {self.policy.policy.version}). Give the newer one to both sides"
                " ('fx attest policy show')",
            )


@dataclass(frozen=True, kw_only=True)
class Channel:
    """One TLS channel as one side sees it: SHA-256 of each end's public key."""

    own: bytes
    peer: bytes


@dataclass(frozen=True, kw_only=True)
class Nonces:
    """The two challenges as one side sees them: what it must answer, and what it asked."""

    given: bytes
    asked: bytes


@dataclass(frozen=True, kw_only=True)
class Side:
    """One party: proves itself by its attester, if it has one, and judges the other."""

    terms: Terms
    role: Role
    name: str
    attester: Attester | None
    verifier: Verifier
    allow_simulated: bool
    pair: KeyPair = field(repr=False)
    """Secrets for this process are sealed to it (``releasing``)."""
    now: Callable[[], datetime]

    def prove(self, channel: Channel, nonces: Nonces, head: bytes = b"") -> bytes:
        """Evidence for the other end; empty if this side has no TEE.

        ``head`` is the newest one of the aggregator's log, with its key (``heads.show``).
        """
        if self.attester is None:
            return b""
        said = claims.encode(
            Claims(
                role=self.role,
                name=self.name,
                federation=self.terms.federation,
                contract=self.terms.contract,
                policy=self.terms.policy.digest,
                key=channel.own,
                peer=channel.peer,
                nonce=nonces.given,
                own_nonce=nonces.asked,
                time=self.now(),
                hpke_key=self.pair.public,
                checkpoint=head,
            )
        )
        return ratls.encode(self.attester.evidence(claims.report_data(said)), said)

    def judge(
        self, evidence: bytes, role: Role, name: str, channel: Channel, nonces: Nonces
    ) -> Standing:
        """How the other end stands. ``Refused``: it must prove itself, and did not."""
        if not evidence:
            return gate.spare(
                role,
                name,
                channel.peer,
                required=self.terms.required,
                policy=self.terms.policy,
                now=self.now(),
            )
        if len(evidence) > MAX_EVIDENCE:
            raise Refused(
                Code.ATT_MALFORMED, f"evidence of {len(evidence)} bytes, over {MAX_EVIDENCE}"
            )
        expected = Expected(
            role=role,
            name=name,
            federation=self.terms.federation,
            contract=self.terms.contract,
            policy=self.terms.policy.digest,
            key=channel.peer,
            peer=channel.own,
            nonce=nonces.asked,
            own_nonce=nonces.given,
        )
        return gate.vouch(
            evidence,
            expected=expected,
            verifier=self.verifier,
            policy=self.terms.policy,
            allow_simulated=self.allow_simulated,
            now=self.now(),
        )


def key_hash(leaf: x509.Certificate) -> bytes:
    """SHA-256 of a certificate's SubjectPublicKeyInfo (DER): how claims name a TLS key."""
    der = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).digest()
