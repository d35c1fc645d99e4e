# SPDX-License-Identifier: Apache-2.0
"""The one door: ``admit`` alone decides who a certificate is, and whether it may come in.

    1  There is a certificate, and it parses.                     no-certificate, malformed
    2  This federation's issuing CA signed it.                    foreign-certificate
    3  It, the issuing CA and the root are valid now.             certificate-expired,
                                                                  certificate-not-yet-valid
    4  A good, fresh revocation list does not name it.            certificate-revoked,
                                                                  revocation-unknown
    5  It has one identity, in the expected role, and the key
       usages of that role alone.                                 wrong-role
    6  Its identity is of this federation.                        wrong-federation
    7  Its name is on the list of members.                        unknown-member

``accept`` decides in the same way what is run: whether a contract is one that this party agreed to.

    1  An author that this party trusts signed it.                bad-signature
    2  It parses.                                                 malformed
    3  It is of this federation.                                  wrong-federation
    4  It is of the plan at hand.                                 wrong-plan
    5  The owner of this site has accepted this very contract
       for this party.                                            bad-signature, wrong-contract

``vouch`` decides in the same way what runs at the other end: whether evidence is good enough.

    1  It is a quote with claims, and both parse.                 ATT-MALFORMED, ATT-UNSUPPORTED
    2  The quote is about these very claims.                      ATT-KEY-BINDING
    3  The claims are about this channel, this challenge, this
       run, and the role that is expected at the other end.       ATT-KEY-BINDING, ATT-NONCE, ...
    4  The quote is genuine, as two verifiers find (``verify``).  ATT-SIGNATURE, ATT-CHAIN, ...
    5  The policy that both sides hold is content with it
       (``judgement``).                                           ATT-MRENCLAVE, ATT-TCB-STATUS, ...

``certify`` decides in the same way whose key the CA may sign:

    1  It shows evidence; or its role needs none, or the policy
       excuses the member.                                       ATT-REQUIRED
    2  It is a quote with claims, and both parse.                ATT-MALFORMED, ATT-UNSUPPORTED
    3  The quote is about these very claims.                     ATT-KEY-BINDING
    4  The claims are about the request's own key and identity,
       the CA's contract and policy.                             ATT-KEY-BINDING, ATT-ROLE, ...
    5  It answers the challenge of the service; in a file, it
       is not older than a certificate may be.                   ATT-NONCE
    6  The quote is genuine, as two verifiers find.              ATT-SIGNATURE, ATT-CHAIN, ...
    7  The policy is content with it.                            ATT-MRENCLAVE, ...

``spare`` lets a peer in that shows no evidence, where plan or policy say so; ``reconsider`` takes
step 5 again, of a session that is open, by a policy or by collateral that has changed since.

The chain has one fixed shape, root -> issuing CA -> leaf; ``Anchors.read`` verifies the first link
once, so there is no path to build. Every step fails closed: an empty list of members admits nobody.
The proof of possession of the certificate's key is TLS's, and precedes this.
"""

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedclave.errors import Bug, Code, Refused
from fedclave.trust import (
    certifying,
    claims,
    crl,
    dsse,
    judgement,
    keys,
    leafs,
    quotes,
    ratls,
    requested,
)
from fedclave.trust import contract as contracts
from fedclave.trust.anchors import Anchors as Anchors
from fedclave.trust.certifying import Wanted
from fedclave.trust.claims import Claims, Expected
from fedclave.trust.contract import ACCEPTANCE_TYPE, CONTRACT_TYPE, Acceptance, Contract
from fedclave.trust.dsse import Envelope
from fedclave.trust.judgement import Verdict
from fedclave.trust.names import SERVERS, Role
from fedclave.trust.policy_file import SignedPolicy
from fedclave.trust.verify import Verifier


@dataclass(frozen=True, kw_only=True)
class Member:
    """A party that the gate let in. Only ``admit`` makes one."""

    name: str
    role: Role
    federation: str
    fingerprint: str
    not_after: datetime


def admit(
    leaf: bytes | x509.Certificate,
    *,
    anchors: Anchors,
    role: Role,
    now: datetime,
    members: Collection[str] | None,
) -> Member:
    """The member that a certificate (PEM, DER or parsed) speaks for, or ``Refused``.

    ``role`` is the one that the caller expects at the other end. ``members`` may be None for the
    roles of which a federation has one; collaborators are always looked up.
    """
    if members is None and role not in SERVERS:
        raise Bug("collaborators are admitted by a list of members; None was given")
    certificate = _issued(leaf, anchors)  # 1, 2
    for one in (certificate, anchors.issuing, anchors.root):  # 3
        leafs.check_time(one, now)
    serial = certificate.serial_number
    if crl.is_revoked(serial, path=anchors.crl, issuer=anchors.issuing, now=now):  # 4
        raise Refused(
            Code.CERTIFICATE_REVOKED,
            f"the CA has revoked the certificate of {leafs.subject(certificate)}. Its owner must be"
            " invited again ('fx invite NAME')",
        )
    identity = leafs.identity(certificate, role)  # 5
    if identity.federation != anchors.federation:  # 6
        raise Refused(
            Code.WRONG_FEDERATION,
            f"the certificate is for federation {identity.federation!r}, this one is"
            f" {anchors.federation!r}",
        )
    if members is not None and identity.name not in members:  # 7
        raise Refused(
            Code.UNKNOWN_MEMBER,
            f"{identity.name!r} holds a good certificate, but is not on the list of members."
            " Add the name to plan/cols.yaml at the aggregator if it should take part",
        )
    return Member(
        name=identity.name,
        role=identity.role,
        federation=identity.federation,
        fingerprint=keys.fingerprint(certificate),
        not_after=certificate.not_valid_after_utc,
    )


@dataclass(frozen=True, kw_only=True)
class SignedContract:
    """A contract that the gate accepted. Only ``accept`` and ``authored`` make one."""

    contract: Contract
    id: str
    party: str | None  # whose owner accepted it; None: nobody had to


def authored(
    signed: Envelope, *, authors: Collection[Ed25519PublicKey], federation: str, plan: str
) -> SignedContract:
    """The contract in an envelope, if one of its authors stands by it: steps 1 to 4.

    ``plan`` is the digest of the plan at hand. Enough for the aggregator, which has no data.
    """
    payload = dsse.verified(signed, CONTRACT_TYPE, authors)  # 1
    contract = contracts.parse(payload)  # 2
    if contract.federation != federation:  # 3
        raise Refused(
            Code.WRONG_FEDERATION,
            f"the contract is of federation {contract.federation!r}, this one is {federation!r}",
        )
    if contract.plan != plan:  # 4
        raise Refused(
            Code.WRONG_PLAN,
            f"the contract is about plan {contract.plan[:12]}, the plan here is {plan[:12]}. Import"
            " the workspace that was signed, or have this one signed anew",
        )
    return SignedContract(contract=contract, id=contract.id, party=None)


def accept(
    signed: Envelope,
    acceptance: Envelope,
    *,
    authors: Collection[Ed25519PublicKey],
    owner: Ed25519PublicKey,
    party: str,
    federation: str,
    plan: str,
) -> SignedContract:
    """The contract in an envelope, if an author and this site's owner stand by it. ``Refused`` as
    listed above.
    """
    contract = authored(signed, authors=authors, federation=federation, plan=plan).contract
    given = contracts.parse_acceptance(dsse.verified(acceptance, ACCEPTANCE_TYPE, [owner]))  # 5
    expected = Acceptance(contract=contract.id, federation=federation, party=party)
    if given != expected:
        raise Refused(
            Code.WRONG_CONTRACT,
            f"the owner of {given.party!r} accepted contract {given.contract[:12]}; this is"
            f" {party!r} and contract {contract.id[:12]}. Have it accepted ('fx plan accept')",
        )
    return SignedContract(contract=contract, id=contract.id, party=party)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a peer stands with this side. Only ``vouch`` and ``spare`` make one."""

    verdict: Verdict
    claims: Claims | None = None
    quote: bytes = field(default=b"", repr=False)

    def facts(self) -> dict[str, str | float]:
        """What an event tells of it."""
        verdict = self.verdict
        age = verdict.collateral_age
        return {
            "word": verdict.word.value,
            "measurement": verdict.measurement or "",
            "tcb": verdict.status or "",
            "advisories": ", ".join(name for name, _ in verdict.advisories),
            "collateral_age_s": round(age.total_seconds()) if age is not None else 0,
            "evidence": verdict.evidence or "",
            "policy": verdict.policy,
            "reason": verdict.note,
            "expires": verdict.expires.isoformat(),
        }


def vouch(
    evidence: bytes,
    *,
    expected: Expected,
    verifier: Verifier,
    policy: SignedPolicy,
    allow_simulated: bool,
    now: datetime,
) -> Standing:
    """How the peer stands that shows this evidence, or ``Refused``. It blocks for milliseconds."""
    rules = policy.policy
    quote, said = ratls.decode(evidence)  # 1
    claimed = claims.decode(said)
    claims.check_report_data(quotes.parse(quote).body.report_data, said)  # 2
    claims.require(claimed, expected)  # 3
    judgement.check_time(rules, claimed.time, now)
    appraisal = verifier.verify(quote, now)  # 4
    verdict = judgement.appraise(  # 5
        rules,
        expected.role,
        claimed.name,
        appraisal,
        key=claimed.key.hex(),
        now=now,
        allow_simulated=allow_simulated,
    )
    return Standing(verdict=verdict, claims=claimed, quote=quote)


def spare(
    role: Role,
    name: str,
    key: bytes,
    *,
    required: Collection[Role],
    policy: SignedPolicy,
    now: datetime,
) -> Standing:
    """How a peer stands that shows no evidence, or ``Refused``."""
    if role not in required:
        return Standing(
            verdict=judgement.unasked(policy.policy, role, name, key=key.hex(), now=now)
        )
    if role != "collaborator":
        raise Refused(
            Code.ATT_REQUIRED,
            f"the {role} shows no evidence of what it runs, and the plan wants it to. Start it in"
            " its TEE, or ask its operator why it is not",
        )
    return Standing(verdict=judgement.unattested(policy.policy, name, key=key.hex(), now=now))


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a CA judges evidence by."""

    contract: str  # id
    policy: SignedPolicy
    required: Collection[Role]
    """The roles that must prove themselves."""
    verifier: Verifier
    allow_simulated: bool


def certify(wanted: Wanted, *, terms: Terms, now: datetime) -> Standing:
    """How somebody stands who wants a key certified, or ``Refused``. It blocks for milliseconds."""
    who, rules = wanted.identity, terms.policy
    if not wanted.evidence:  # 1
        return spare(who.role, who.name, wanted.key, required=terms.required, policy=rules, now=now)
    quote, said = ratls.decode(wanted.evidence)  # 2
    claimed = requested.decode(said)
    claims.check_report_data(quotes.parse(quote).body.report_data, said)  # 3
    requested.require(  # 4
        claimed, identity=who, key=wanted.key, contract=terms.contract, policy=rules.digest
    )
    if wanted.challenges is None:  # 5
        requested.check_age(claimed, certifying.ON_PAPER, now)
    else:
        wanted.challenges.check(claimed.nonce, now)
        judgement.check_time(rules.policy, claimed.time, now)
    appraisal = terms.verifier.verify(quote, now)  # 6
    verdict = judgement.appraise(  # 7
        rules.policy,
        who.role,
        who.name,
        appraisal,
        key=wanted.key.hex(),
        now=now,
        allow_simulated=terms.allow_simulated,
    )
    return Standing(verdict=verdict, quote=quote)


def reconsider(
    standing: Standing, *, policy: SignedPolicy, verifier: Verifier, now: datetime
) -> Standing:
    """How a session stands by the policy and the collateral of now, or ``Refused``."""
    appraisal = verifier.verify(standing.quote, now) if standing.quote else None
    verdict = judgement.again(policy.policy, standing.verdict, appraisal, now=now)
    return replace(standing, verdict=verdict)


def fingerprint(leaf: bytes) -> str:
    """Of a certificate (PEM or DER), as a ``Member`` has it. Raises ``Refused`` as step 1 does."""
    return keys.fingerprint(leafs.parsed(leaf))


def foresee(leaf: bytes, *, role: Role, now: datetime) -> None:
    """Steps 1, 3 and 5 for a peer whose CA is not known yet. To pass proves nothing: it only tells
    a wrong clock or a wrong port by its name, before the peer is asked for its roots.
    """
    certificate = leafs.parsed(leaf)
    leafs.check_time(certificate, now)
    leafs.identity(certificate, role)


@lru_cache(maxsize=1024)
def _issued(leaf: bytes | x509.Certificate, anchors: Anchors) -> x509.Certificate:
    """Steps 1 and 2: they depend on the bytes alone, so what was good once stays so."""
    certificate = leafs.parsed(leaf)
    leafs.check_issuer(certificate, anchors)
    return certificate
