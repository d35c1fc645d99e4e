# SPDX-License-Identifier: Apache-2.0
"""``fl-release/1``: a secret goes to a process that has proved what it runs, and to nobody else.

    releaser -> party   challenge: purpose, party, contract, policy, nonce, time; signed
    releaser <- party   certificate, nonce; evidence over both nonces, the certificate's key, the
                        releaser's key, and a key to seal to
    releaser -> party   the secret, sealed to that key for contract, policy, transcript and purpose
    releaser <- party   that it opened

The initial model goes so to the aggregator, from the author of the contract; the key of sealed data
to a collaborator, from the owner of the data. Both are known to the party before, by the Ed25519
keys that it pinned when it accepted the contract, and nobody else is answered. The transcript is
the SHA-256 of challenge and evidence: a sealed secret of one release opens in no other, and not
after a restart, as each process has its own key.

Nothing here needs a confidential channel: what is not sealed is no secret. Who sits in between can
end a release, and learns contract, policy and evidence.
"""

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Lock
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding

from fedclave import canonical
from fedclave.errors import Bug, Code, Refused
from fedclave.trust import dsse, gate, judgement, release
from fedclave.trust.attesting import NONCE, Channel, Nonces, Side, Terms, key_hash
from fedclave.trust.claims import Expected
from fedclave.trust.gate import Anchors, Standing
from fedclave.trust.judgement import RECEIVES
from fedclave.trust.policy import Purpose
from fedclave.trust.release import Context
from fedclave.trust.signing import key_id
from fedclave.trust.verify import Verifier

CHALLENGE_TYPE = "application/vnd.fedclave.release-challenge.v1+json"
MAX_CHALLENGE = 4096  # bytes of its envelope
MAX_OFFER = 2**17  # bytes of certificate and evidence
MAX_REMEMBERED = 4096  # challenges


@dataclass(frozen=True, kw_only=True)
class Challenge:
    """What a releaser asks of a party before it gives it something."""

    purpose: Purpose
    name: str
    """The party."""
    contract: str
    policy: str
    nonce: bytes
    time: datetime

    @property
    def encoded(self) -> bytes:
        """Canonical bytes."""
        return canonical.encode(
            {
                "purpose": self.purpose,
                "name": self.name,
                "contract": self.contract,
                "policy": self.policy,
                "nonce": self.nonce.hex(),
                "time": f"{self.time.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
            }
        )

    @classmethod
    def parse(cls, payload: bytes) -> Self:
        """Raises ``Refused`` (MALFORMED) for all that ``encoded`` does not make."""
        fields = canonical.decode(payload)
        try:
            if not isinstance(fields, dict) or fields.get("purpose") not in RECEIVES:
                raise ValueError("it asks for nothing that is released")
            if not all(isinstance(one, str) for one in fields.values()):
                raise ValueError("it has something else than texts")
            made = cls(
                purpose=fields["purpose"],
                name=fields["name"],
                contract=fields["contract"],
                policy=fields["policy"],
                nonce=bytes.fromhex(fields["nonce"]),
                time=datetime.fromisoformat(fields["time"]).astimezone(UTC),
            )
            if made.encoded != payload or len(made.nonce) != NONCE:
                raise ValueError("it is not in its one form")
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise Refused(Code.MALFORMED, f"not a challenge of a release: {error}") from error
        return made


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What a party answers."""

    certificate: bytes  # PEM
    evidence: bytes
    nonce: bytes


@dataclass(frozen=True, kw_only=True)
class Grant:
    """A party that may have the secret. Only ``Releaser.judge`` makes one."""

    standing: Standing
    key: bytes = field(repr=False)
    """To seal to."""
    context: Context

    @property
    def key_digest(self) -> str:
        """SHA-256 (hex) of that key, as the log has it."""
        return release.digest_of(self.key)


@dataclass(frozen=True, kw_only=True)
class Releaser:
    """The side that holds a secret for one party."""

    key: Ed25519PrivateKey
    purpose: Purpose
    name: str
    terms: Terms
    verifier: Verifier
    anchors: Anchors
    allow_simulated: bool
    now: Callable[[], datetime]

    def challenge(self) -> tuple[Challenge, bytes]:
        """A new challenge, and its envelope."""
        made = Challenge(
            purpose=self.purpose,
            name=self.name,
            contract=self.terms.contract,
            policy=self.terms.policy.digest,
            nonce=secrets.token_bytes(NONCE),
            time=self.now(),
        )
        return made, dsse.encode(dsse.sign(CHALLENGE_TYPE, made.encoded, self.key))

    def judge(self, challenge: Challenge, envelope: bytes, offer: Offer) -> Grant:
        """Whom the secret may be sealed to. ``Refused``: not to this party, or not now."""
        if len(offer.certificate) + len(offer.evidence) > MAX_OFFER or len(offer.nonce) != NONCE:
            raise Refused(Code.ATT_MALFORMED, "the party's answer is not an offer of fl-release/1")
        role = RECEIVES[self.purpose]
        member = gate.admit(
            offer.certificate,
            anchors=self.anchors,
            role=role,
            now=self.now(),
            members={self.name} if role == "collaborator" else None,
        )
        if not offer.evidence:
            raise Refused(
                Code.ATT_REQUIRED,
                f"the {role} shows no evidence of what it runs. Nothing is released to it; have it"
                " started in its TEE",
            )
        expected = Expected(
            role=role,
            name=member.name,
            federation=self.terms.federation,
            contract=challenge.contract,
            policy=challenge.policy,
            key=key_hash(x509.load_pem_x509_certificate(offer.certificate)),
            peer=bytes.fromhex(key_id(self.key.public_key())),
            nonce=challenge.nonce,
            own_nonce=offer.nonce,
        )
        standing = gate.vouch(
            offer.evidence,
            expected=expected,
            verifier=self.verifier,
            policy=self.terms.policy,
            allow_simulated=self.allow_simulated,
            now=self.now(),
        )
        if standing.claims is None:
            raise Bug("evidence was vouched for, and it has no claims")
        grant = Grant(
            standing=standing,
            key=standing.claims.hpke_key,
            context=_context(challenge, envelope, offer.evidence),
        )
        self.check(grant)
        return grant

    def check(self, grant: Grant) -> None:
        """Raise ``Refused`` unless the secret may still go: at the moment when it goes."""
        policy = self.terms.policy.policy
        judgement.check_release(policy, grant.standing.verdict, self.purpose, self.now())


class Receiver:
    """The side that waits for a secret."""

    def __init__(
        self,
        *,
        side: Side,
        purpose: Purpose,
        releaser: Ed25519PublicKey,
        leaf: Callable[[], x509.Certificate],
    ) -> None:
        """``releaser`` is the one whose challenges are answered; ``leaf`` is this party's."""
        self.pair = side.pair
        self.purpose: Purpose = purpose
        self._side = side
        self._releaser = releaser
        self._leaf = leaf
        self._seen: set[bytes] = set()
        self._lock = Lock()  # calls may come from several threads

    def offer(self, envelope: bytes) -> tuple[Offer, Context]:
        """The answer to a challenge, and what the secret will be sealed for.

        ``Refused``: BAD_SIGNATURE, MALFORMED; ATT_NONCE for one that is old, or was answered
        before; ATT_ROLE, ATT_CONTRACT, ATT_POLICY_VERSION for one about something else.
        """
        if len(envelope) > MAX_CHALLENGE:
            raise Refused(Code.MALFORMED, f"a challenge of more than {MAX_CHALLENGE} bytes")
        challenge = Challenge.parse(
            dsse.verified(dsse.decode(envelope), CHALLENGE_TYPE, [self._releaser])
        )
        side = self._side
        if (challenge.purpose, challenge.name) != (self.purpose, side.name):
            raise Refused(
                Code.ATT_ROLE,
                f"this is {side.role} {side.name}, which waits for its"
                f" {judgement.plainly(self.purpose)}; the challenge is about the"
                f" {judgement.plainly(challenge.purpose)} of {challenge.name!r:.80}",
            )
        side.terms.check(challenge.contract, challenge.policy)
        judgement.check_time(side.terms.policy.policy, challenge.time, side.now())
        with self._lock:
            known = challenge.nonce in self._seen or len(self._seen) >= MAX_REMEMBERED
            if not known:
                self._seen.add(challenge.nonce)
        if known:
            raise Refused(
                Code.ATT_NONCE,
                "this challenge was answered before, or too many were. Run the release anew; if"
                " that does not help, start the party again",
            )
        leaf = self._leaf()
        channel = Channel(own=key_hash(leaf), peer=bytes.fromhex(key_id(self._releaser)))
        nonces = Nonces(given=challenge.nonce, asked=secrets.token_bytes(NONCE))
        evidence = side.prove(channel, nonces)
        offer = Offer(
            certificate=leaf.public_bytes(Encoding.PEM), evidence=evidence, nonce=nonces.asked
        )
        return offer, _context(challenge, envelope, evidence)


def _context(challenge: Challenge, envelope: bytes, evidence: bytes) -> Context:
    said = b"fl-release/1\0" + len(envelope).to_bytes(4, "big") + envelope + evidence
    return Context(
        contract=challenge.contract,
        policy=challenge.policy,
        transcript=hashlib.sha256(said).hexdigest(),
        purpose=f"{challenge.purpose}:{challenge.name}",
    )
