# SPDX-License-Identifier: Apache-2.0
"""Who would weaken an attestation policy: by its text, its signatures, its versions, its peers."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.policies import KEY, NOW, ROLE, appraised, made, written

from fedclave import canonical
from fedclave.errors import Code, PlanError, Refused, UserError
from fedclave.trust import contract, dsse, judgement, policy, policy_file, signing
from fedclave.trust.dsse import Envelope, Signature
from fedclave.trust.policy_file import POLICY_TYPE, Signers
from fedclave.trust.simulated import SimulatedPlatform

ONE, TWO, MALLORY = (signing.generate() for _ in range(3))
LINES = [policy_file.format_key(key.public_key()) for key in (ONE, TWO)]
LAX: dict[str, Any] = {
    "tcb": {"allowed": ["OutOfDate", "UpToDate"], "smt": True},
    "roles": {"aggregator": ROLE},
}
"""What the attacker would like to be in force."""


@dataclass(frozen=True)
class Party:
    """A party that follows a policy signed by both of two keys."""

    root: Path

    @property
    def text(self) -> Path:
        return self.root / "attestation.yaml"

    @property
    def envelope(self) -> Path:
        return policy_file.envelope_of(self.text)

    def give(self, *keys: Ed25519PrivateKey, **parts: Any) -> tuple[bytes, bytes]:
        """Put a policy in place that these keys signed; returns both files."""
        self.text.write_text(written(**parts))
        self.envelope.unlink(missing_ok=True)
        for key in keys:
            policy_file.sign(self.text, self.envelope, key)
        return self.text.read_bytes(), self.envelope.read_bytes()

    def put(self, files: tuple[bytes, bytes]) -> None:
        self.text.write_bytes(files[0])
        self.envelope.write_bytes(files[1])

    def follow(self) -> str:
        """The digest of the policy that is in force."""
        loaded = policy_file.load(
            self.text, self.envelope, signers=LINES, threshold=2, pins=self.root / "pins", now=NOW
        )
        return loaded.digest

    def code(self) -> Code:
        with pytest.raises(Refused) as refused:
            self.follow()
        return refused.value.code

    def refit(self, change: Callable[[Envelope], Envelope]) -> None:
        """Change the envelope."""
        self.envelope.write_bytes(dsse.encode(change(dsse.decode(self.envelope.read_bytes()))))


@pytest.fixture
def party(tmp_path: Path) -> Party:
    return Party(tmp_path)


# Signatures.


def test_a_text_that_was_changed_after_signing_is_refused(party: Party) -> None:
    party.give(ONE, TWO)
    party.text.write_text(written(**LAX))
    assert party.code() is Code.BAD_SIGNATURE


def test_an_envelope_that_was_changed_to_fit_a_text_is_refused(party: Party) -> None:
    party.give(ONE, TWO)
    party.text.write_text(written(**LAX))
    party.refit(lambda signed: replace(signed, payload=made(**LAX).bytes))
    assert party.code() is Code.BAD_SIGNATURE


def test_too_few_signers_are_refused(party: Party) -> None:
    party.give(ONE, **LAX)
    assert party.code() is Code.BAD_SIGNATURE


def test_a_stranger_does_not_make_up_the_number(party: Party) -> None:
    party.give(ONE, MALLORY, **LAX)
    assert party.code() is Code.BAD_SIGNATURE


def test_one_signer_twice_is_one_signer(party: Party) -> None:
    party.give(ONE, **LAX)
    party.refit(lambda signed: replace(signed, signatures=signed.signatures * 2))
    assert party.code() is Code.BAD_SIGNATURE


def test_one_signature_under_the_names_of_two_is_one_signature(party: Party) -> None:
    party.give(ONE, **LAX)
    other = signing.key_id(TWO.public_key())

    def doubled(signed: Envelope) -> Envelope:
        (one,) = signed.signatures
        return replace(signed, signatures=(one, Signature(key=other, value=one.value)))

    party.refit(doubled)
    assert party.code() is Code.BAD_SIGNATURE


def test_a_plan_cannot_count_one_key_as_two() -> None:
    with pytest.raises(UserError, match="stands twice"):
        Signers.parse([LINES[0], LINES[0]], 2)


def test_what_the_signers_signed_as_something_else_is_no_policy(party: Party) -> None:
    payload = made(**LAX).bytes
    party.text.write_text(written(**LAX))
    for kind in (contract.CONTRACT_TYPE, "application/json", POLICY_TYPE + " "):
        party.envelope.write_bytes(dsse.encode(dsse.add(dsse.sign(kind, payload, ONE), TWO)))
        assert party.code() is Code.BAD_SIGNATURE


def test_bytes_that_only_mean_the_same_are_not_what_was_signed(party: Party) -> None:
    """The signed bytes are the canonical ones: nothing is read out of any others."""
    party.text.write_text(written())
    spaced = json.dumps(canonical.decode(made().bytes)).encode()
    party.envelope.write_bytes(dsse.encode(dsse.add(dsse.sign(POLICY_TYPE, spaced, ONE), TWO)))
    assert party.code() is Code.BAD_SIGNATURE


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=200))
def test_garbage_in_place_of_the_envelope_is_refused(party: Party, garbage: bytes) -> None:
    party.text.write_text(written())
    party.envelope.write_bytes(garbage)
    assert party.code() is Code.MALFORMED


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(at=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_no_single_bit_of_the_signed_files_can_be_turned(party: Party, at: int, bit: int) -> None:
    if not party.envelope.exists():
        party.give(ONE, TWO)
    good = party.text.read_bytes(), party.envelope.read_bytes()
    changed = bytearray(good[1])
    changed[at % len(changed)] ^= 1 << bit
    party.envelope.write_bytes(changed)
    try:
        assert party.follow() == made().digest  # white space, or how a byte is written
    except Refused as refused:
        assert refused.code in (Code.BAD_SIGNATURE, Code.MALFORMED)
    finally:
        party.put(good)


# Versions.


def test_an_older_version_with_good_signatures_is_refused(party: Party) -> None:
    old = party.give(ONE, TWO, **LAX)
    first = party.follow()
    party.give(ONE, TWO, version=2, previous=first)
    second = party.follow()
    party.put(old)
    assert party.code() is Code.ATT_POLICY
    party.give(ONE, TWO, version=2, previous=first)
    assert party.follow() == second


def test_another_policy_of_the_same_version_is_refused(party: Party) -> None:
    party.give(ONE, TWO)
    party.follow()
    party.give(ONE, TWO, **LAX)
    assert party.code() is Code.ATT_POLICY


def test_a_version_that_follows_another_one_than_ours_is_refused(party: Party) -> None:
    party.give(ONE, TWO)
    party.follow()
    party.give(ONE, TWO, version=2, previous=made(**LAX).digest)
    assert party.code() is Code.ATT_POLICY


def test_a_policy_of_another_name_does_not_begin_the_versions_anew(party: Party) -> None:
    first = party.give(ONE, TWO, version=7, previous="0a" * 32)
    party.follow()
    party.give(ONE, TWO, name="digits-2", version=9, previous="0a" * 32, **LAX)
    assert party.code() is Code.ATT_POLICY
    party.put(first)
    party.follow()


def test_a_version_that_was_refused_leaves_no_trace(party: Party) -> None:
    party.give(ONE, TWO)
    good = party.text.read_bytes(), party.envelope.read_bytes()
    digest = party.follow()
    party.give(ONE, version=9, previous="0a" * 32)
    assert party.code() is Code.BAD_SIGNATURE
    party.put(good)
    assert party.follow() == digest


# Texts.


@pytest.mark.parametrize(
    "text",
    [
        written() + "tcb: {smt: false}\ntcb: {smt: true}\n",
        written() + "tcb: !!python/object:os.system {}\n",
        written(roles={"aggregator": ROLE}).replace("aggregator:", "aggregator: &a", 1) + "x: *a\n",
        written().replace("roots:", "roots: [intel]\nroots:"),
        written() + "? [a]\n: b\n",
        "a: " * 3000,
        "[" * 5000,
    ],
    ids=["key twice", "tag", "alias", "roots twice", "key that is a list", "colons", "nesting"],
)
def test_a_text_that_reads_in_two_ways_is_refused(text: str) -> None:
    with pytest.raises(PlanError):
        policy.parse(text)


@given(st.text(max_size=200))
def test_whatever_is_written_is_a_policy_or_a_mistake_of_the_writer(text: str) -> None:
    with pytest.raises(PlanError):
        policy.parse(text)


@pytest.mark.parametrize(
    "text",
    ["release\u202e4.1", "a\x1b[2J", "a\0b", "x" * 301],
    ids=["rtl", "escape", "nul", "long"],
)
def test_a_note_cannot_play_tricks_on_a_screen(text: str) -> None:
    measured = {"measurements": [{**ROLE["measurements"][0], "note": text}]}
    with pytest.raises(PlanError):
        made(roles={"aggregator": measured})


# Peers.


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> SimulatedPlatform:
    """The attacker's own simulated TEE: he has its root's key."""
    return SimulatedPlatform.create(tmp_path_factory.mktemp("tee"), "digits", NOW)


@pytest.mark.parametrize("allow_simulated", [True, False])
def test_a_simulated_tee_of_somebody_else_is_no_hardware_and_not_ours(
    allow_simulated: bool, mine: SimulatedPlatform
) -> None:
    found = appraised(mine)
    for rule in (made(), made("intel", f"simulated:{'0a' * 32}")):
        with pytest.raises(Refused) as refused:
            judgement.appraise(
                rule, "collaborator", "m", found, key=KEY, now=NOW, allow_simulated=allow_simulated
            )
        assert refused.value.code in (Code.ATT_SIMULATED, Code.ATT_CHAIN)


def test_a_simulated_peer_is_never_verified_even_where_hardware_is_trusted_too(
    mine: SimulatedPlatform,
) -> None:
    both = made("intel", f"simulated:{mine.root_hash}")
    verdict = judgement.appraise(
        both, "collaborator", "m", appraised(mine), key=KEY, now=NOW, allow_simulated=True
    )
    assert verdict.word is judgement.Word.SIMULATED
    with pytest.raises(Refused) as refused:
        judgement.appraise(
            both, "collaborator", "m", appraised(mine), key=KEY, now=NOW, allow_simulated=False
        )
    assert refused.value.code is Code.ATT_SIMULATED


def test_a_debug_enclave_of_the_right_code_is_refused_before_any_policy(
    mine: SimulatedPlatform,
) -> None:
    with pytest.raises(Refused) as refused:
        appraised(mine, debug=True)
    assert refused.value.code is Code.ATT_DEBUG


def test_changed_code_is_refused(mine: SimulatedPlatform) -> None:
    policy_ = made(f"simulated:{mine.root_hash}")
    found = appraised(mine, code=b"\xab" * 31 + b"\xaa")
    with pytest.raises(Refused) as refused:
        judgement.appraise(
            policy_, "collaborator", "m", found, key=KEY, now=NOW, allow_simulated=True
        )
    assert refused.value.code is Code.ATT_MRENCLAVE
