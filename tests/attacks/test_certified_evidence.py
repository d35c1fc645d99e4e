# SPDX-License-Identifier: Apache-2.0
"""The CA signs a key only when the gate admits the evidence for it; else nothing is issued."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from tests.support import ca, vouching
from tests.support.enrolment import Town
from tests.support.policies import CODE, DAY, NOW
from tests.support.vouching import Door

from fedclave.errors import Code, Refused
from fedclave.transport.grpc.enrol import join, renew
from fedclave.trust import certifying, gate, keys, profiles, ratls, requested, requests
from fedclave.trust.certifying import Challenges, Prove, Wanted
from fedclave.trust.credentials import Credentials
from fedclave.trust.examine import Basis, examine
from fedclave.trust.gate import Terms
from fedclave.trust.names import Identity, Role
from fedclave.trust.requested import Requested

ALICE = Identity(federation="digits", role="collaborator", name="alice")
CONTRACT = "c0" * 32
OTHER_CODE = bytes(32)


class Office:
    """A CA whose gate demands evidence of both roles, and a party with an enclave."""

    def __init__(self, folder: Path, door: Door) -> None:
        self.door = door
        self.required: tuple[Role, ...] = ("aggregator", "collaborator")
        self.allow_simulated = True
        self.policy = door.policy
        self.authority = ca.create(folder / "ca", now=NOW - DAY)
        self.authority._vouch = self.vouch
        self.key = keys.generate()

    def vouch(self, wanted: Wanted, now: datetime) -> None:
        terms = Terms(
            contract=CONTRACT,
            policy=self.policy,
            required=self.required,
            verifier=self.door.verifier,
            allow_simulated=self.allow_simulated,
        )
        gate.certify(wanted, terms=terms, now=now)

    def evidence(self, code: bytes = CODE, **changes: Any) -> bytes:
        """What the enclave says of the party's key, but for what is changed."""
        said = Requested(
            **{
                **vars(ALICE),
                "contract": CONTRACT,
                "policy": self.door.policy.digest,
                "key": certifying.key_hash(self.key.public_key()),
                "nonce": b"",
                "time": NOW,
                **changes,
            }
        )
        return self.door.about(requested.encode(said), code)

    def request(self, evidence: bytes) -> x509.CertificateSigningRequest:
        return requests.make_request(self.key, **vars(ALICE), evidence=evidence)

    def issue(self, evidence: bytes, now: datetime = NOW) -> x509.Certificate:
        return self.authority.issue(
            self.request(evidence), role=ALICE.role, name=ALICE.name, now=now
        )

    def refuses(self, evidence: bytes, code: Code, now: datetime = NOW) -> str:
        with pytest.raises(Refused) as refused:
            self.issue(evidence, now)
        assert refused.value.code is code, refused.value.message
        assert self.authority.issued() == []
        return refused.value.message


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    with vouching.opened(tmp_path) as door:
        yield Office(tmp_path, door)


def test_the_certificate_carries_the_evidence_that_was_admitted(office: Office) -> None:
    shown = office.evidence()
    leaf = office.issue(shown)
    der = leaf.public_bytes(Encoding.DER)
    found = ratls.read(der)
    assert ratls.encode(found.quote, found.claims or b"") == shown
    assert ratls.bound(found).body.report_data
    assert profiles.is_leaf(leaf, "collaborator")
    examined = examine(
        leaf.public_bytes(Encoding.PEM),
        Basis(
            root_der=office.door.platform.root,
            collateral=office.door.verifier.store,
            second=office.door.verifier.second,
            now=NOW,
            policy=office.policy.policy,
            role="collaborator",
            allow_simulated=True,
        ),
    )
    assert (examined.refused, examined.word, examined.bound) == (None, "SIMULATED", True)


def test_a_certificate_with_evidence_opens_the_gate_as_any_other(office: Office) -> None:
    leaf = office.issue(office.evidence())
    office.authority.crl(NOW)
    admitted = gate.admit(
        leaf, anchors=office.authority.anchors, role=ALICE.role, now=NOW, members={"alice"}
    )
    assert admitted.name == "alice"


def test_a_request_without_evidence_is_refused(office: Office) -> None:
    office.refuses(b"", Code.ATT_REQUIRED)


def test_a_member_that_the_policy_excuses_is_certified_without(office: Office) -> None:
    excused = {"members": ["alice"], "reason": "has no SGX", "receives": ["model"]}
    code = {"measurements": [{"mr_enclave": CODE.hex()}]}
    office.policy = office.door.rules(
        roles={"aggregator": code, "collaborator": {**code, "unattested": excused}}
    )
    leaf = office.issue(b"")
    assert not [one for one in leaf.extensions if one.oid == profiles.EVIDENCE]


def test_a_role_that_the_plan_does_not_name_is_certified_without(office: Office) -> None:
    office.required = ("aggregator",)
    assert office.issue(b"")


WRONG: dict[str, tuple[dict[str, Any], Code]] = {
    "another-key": ({"key": b"k" * 32}, Code.ATT_KEY_BINDING),
    "another-role": ({"role": "aggregator"}, Code.ATT_ROLE),
    "another-name": ({"name": "bob"}, Code.ATT_ROLE),
    "another-federation": ({"federation": "letters"}, Code.WRONG_FEDERATION),
    "another-contract": ({"contract": "c1" * 32}, Code.ATT_CONTRACT),
    "another-policy": ({"policy": "d1" * 32}, Code.ATT_POLICY_VERSION),
    "another-measurement": ({"code": OTHER_CODE}, Code.ATT_MRENCLAVE),
    "older-than-a-certificate-lives": ({"time": NOW - 8 * DAY}, Code.ATT_NONCE),
    "made-tomorrow": ({"time": NOW + DAY}, Code.ATT_NONCE),
    "answer-to-a-challenge": ({"nonce": b"n" * 32}, Code.ATT_NONCE),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_evidence_of_something_else_is_refused(office: Office, wrong: str) -> None:
    changes, code = WRONG[wrong]
    office.refuses(office.evidence(**changes), code)


def test_a_simulated_tee_is_refused_where_nobody_allowed_it(office: Office) -> None:
    office.allow_simulated = False
    office.refuses(office.evidence(), Code.ATT_SIMULATED)


def test_evidence_replayed_from_another_partys_request_is_refused(office: Office) -> None:
    """Even under the same name: it speaks of the other key."""
    stolen = office.evidence()
    office.key = keys.generate()
    office.refuses(stolen, Code.ATT_KEY_BINDING)


def test_evidence_of_a_session_is_none_for_a_certificate(office: Office) -> None:
    session = office.door.evidence(**vars(ALICE))
    assert "another use" in office.refuses(session, Code.ATT_UNSUPPORTED)


def test_evidence_for_a_certificate_opens_no_session(office: Office) -> None:
    assert office.door.verdict(office.evidence()) is Code.ATT_UNSUPPORTED


def test_a_quote_about_other_claims_is_refused(office: Office) -> None:
    quote, _ = ratls.decode(office.evidence(time=NOW - DAY))
    _, said = ratls.decode(office.evidence())
    office.refuses(ratls.encode(quote, said), Code.ATT_KEY_BINDING)


@pytest.mark.parametrize("kind", ["garbage", "cut-short", "with-a-byte-more"])
def test_damaged_evidence_is_refused(office: Office, kind: str) -> None:
    whole = office.evidence()
    damaged = {
        "garbage": b"\xd9\xea\x60garbage",
        "cut-short": whole[:-1],
        "with-a-byte-more": whole + b"\0",
    }[kind]
    office.refuses(damaged, Code.ATT_MALFORMED)


def test_oversized_evidence_is_refused_unread(office: Office) -> None:
    office.refuses(b"x" * (profiles.MAX_EVIDENCE + 1), Code.ATT_MALFORMED)


def asking(
    key: ec.EllipticCurvePrivateKey, *extensions: tuple[x509.ExtensionType, bool]
) -> x509.CertificateSigningRequestBuilder:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    builder = builder.add_extension(profiles.names(ALICE), critical=False)
    for value, critical in extensions:
        builder = builder.add_extension(value, critical=critical)
    return builder


def test_evidence_that_calls_itself_critical_is_refused(office: Office) -> None:
    made = asking(office.key, (profiles.evidence(office.evidence()), True))
    with pytest.raises(Refused, match="critical") as refused:
        office.authority.issue(
            made.sign(office.key, hashes.SHA256()), role=ALICE.role, name="alice", now=NOW
        )
    assert refused.value.code is Code.BAD_REQUEST


def test_two_evidence_extensions_are_refused(office: Office) -> None:
    """The library makes no such request: the OID beside it is exchanged, and all signed again."""
    twin = b"\x06\x06\x67\x81\x05\x05\x04\x09"
    filler = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.23.133.5.4.8"), b"x")
    made = asking(office.key, (profiles.evidence(office.evidence()), False), (filler, False))
    der = made.sign(office.key, hashes.SHA256()).public_bytes(Encoding.DER)
    assert der.count(twin) == 1
    single = requests.parse(resigned(der, office.key))  # which the signature does not refuse
    with pytest.raises(Refused, match=r"2\.23\.133\.5\.4\.8"):
        office.authority.issue(single, role=ALICE.role, name="alice", now=NOW)
    doubled = requests.parse(resigned(der.replace(twin[:-1] + b"\x08", twin), office.key))
    with pytest.raises(Refused) as refused:
        office.authority.issue(doubled, role=ALICE.role, name="alice", now=NOW)
    assert refused.value.code is Code.BAD_REQUEST
    assert office.authority.issued() == []


def resigned(der: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """A request whose signed part was changed, signed again: SEQUENCE {info, algorithm, bits}."""
    from fedclave.trust import der as read

    (outer,) = read.items(der)
    info, algorithm, _ = read.items(outer.value)
    bits = b"\0" + key.sign(info.raw, ec.ECDSA(hashes.SHA256()))
    body = info.raw + algorithm.raw + bytes([3, len(bits)]) + bits
    return b"\x30\x82" + len(body).to_bytes(2, "big") + body


def test_a_key_that_another_party_holds_is_refused_for_all_its_evidence(office: Office) -> None:
    office.issue(office.evidence())
    bob = replace(ALICE, name="bob")
    made = requests.make_request(office.key, **vars(bob), evidence=office.evidence(name="bob"))
    with pytest.raises(Refused, match="that of collaborator 'alice'") as refused:
        office.authority.issue(made, role=bob.role, name="bob", now=NOW)
    assert refused.value.code is Code.BAD_REQUEST
    assert len(office.authority.issued()) == 1


def test_a_renewal_of_the_same_key_without_new_evidence_is_refused(office: Office) -> None:
    office.issue(office.evidence())
    with pytest.raises(Refused) as refused:
        office.authority.renew("alice", NOW + DAY)
    assert refused.value.code is Code.ATT_REQUIRED
    assert len(office.authority.issued()) == 1


# Over the network


class OfItsOwnTime:
    """A service's challenges at the service's time; the platform in these tests is of another."""

    def __init__(self, challenges: Challenges, town: Town) -> None:
        self.challenges, self.town = challenges, town

    def check(self, challenge: bytes, now: datetime) -> None:
        self.challenges.check(challenge, self.town.now)


@pytest.fixture
def town(tmp_path: Path, office: Office) -> Town:
    """An enrolment service whose gate demands evidence."""
    made = Town(tmp_path / "town")

    def vouch(wanted: Wanted, now: datetime) -> None:
        assert wanted.challenges is not None
        there: Any = OfItsOwnTime(wanted.challenges, made)
        office.vouch(replace(wanted, challenges=there), NOW)

    made.authority._vouch = vouch
    return made


def proving(office: Office, **changes: Any) -> Prove:
    """An enclave's word on whatever key it is asked about, but for what is changed."""

    def prove(key: ec.EllipticCurvePublicKey, challenge: bytes) -> bytes:
        said = {"key": certifying.key_hash(key), "nonce": challenge, **changes}
        return office.evidence(**said)

    return prove


def parties(town: Town) -> list[str]:
    found = [Identity.of(leaf) for leaf, _ in town.authority.issued()]
    return [one.name for one in found if one.role != "authority"]


def test_a_party_joins_and_renews_with_evidence_for_each_key(town: Town, office: Office) -> None:
    async def act() -> None:
        prove = proving(office)
        first = await join(town.invite(), town.party, now=town.now, prove=prove)
        second = await renew(town.address, town.party, "alice", now=town.now, prove=prove)
        assert first.key != second.key

    town.run(act)
    leafs = [leaf for leaf, _ in town.authority.issued() if Identity.of(leaf) == ALICE]
    shown = [leaf.extensions.get_extension_for_oid(profiles.EVIDENCE).value for leaf in leafs]
    assert len(shown) == 2
    assert shown[0] != shown[1]


@pytest.mark.parametrize(
    ("prove", "code"),
    [
        (lambda office: certifying.unproved, Code.ATT_REQUIRED),
        (lambda office: proving(office, nonce=b""), Code.ATT_NONCE),
        (lambda office: proving(office, nonce=b"n" * 32), Code.ATT_NONCE),
        (lambda office: proving(office, key=b"k" * 32), Code.ATT_KEY_BINDING),
        (lambda office: proving(office, code=OTHER_CODE), Code.ATT_MRENCLAVE),
    ],
    ids=["none", "no-challenge", "a-guessed-challenge", "another-key", "another-measurement"],
)
def test_who_joins_without_good_evidence_is_refused_and_the_token_stays_good(
    town: Town, office: Office, prove: Callable[[Office], Prove], code: Code
) -> None:
    async def act() -> None:
        token = town.invite()
        with pytest.raises(Refused) as refused:
            await join(token, town.party, now=town.now, prove=prove(office))
        assert refused.value.code is code
        assert parties(town) == []
        await join(token, town.party, now=town.now, prove=proving(office))

    town.run(act)
    assert parties(town) == ["alice"]


def test_a_renewal_that_drops_the_evidence_is_refused(town: Town, office: Office) -> None:
    async def act() -> None:
        held = await join(town.invite(), town.party, now=town.now, prove=proving(office))
        with pytest.raises(Refused) as refused:
            await renew(town.address, town.party, "alice", now=town.now)
        assert refused.value.code is Code.ATT_REQUIRED
        assert Credentials.read(town.party, "alice").leaf == held.leaf

    town.run(act)
    assert parties(town) == ["alice"]


def test_an_answer_to_a_challenge_of_earlier_is_refused(town: Town, office: Office) -> None:
    """Recorded at the party, and played again with the same key three minutes later."""
    recorded: list[bytes] = []

    def record(key: ec.EllipticCurvePublicKey, challenge: bytes) -> bytes:
        recorded.append(challenge)
        return b""

    async def act() -> None:
        token = town.invite()
        with pytest.raises(Refused):
            await join(token, town.party, now=town.now, prove=record)
        town.now += timedelta(minutes=3)
        with pytest.raises(Refused) as refused:
            await join(token, town.party, now=town.now, prove=proving(office, nonce=recorded[0]))
        assert refused.value.code is Code.ATT_NONCE

    town.run(act)
    assert parties(town) == []


def test_a_challenge_of_another_service_is_refused() -> None:
    with pytest.raises(Refused) as refused:
        Challenges().check(Challenges().make(NOW), NOW)
    assert refused.value.code is Code.ATT_NONCE
