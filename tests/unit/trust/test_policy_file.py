# SPDX-License-Identifier: Apache-2.0
"""A policy as files: signing, what is loaded, and which version may follow which."""

import base64
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.support.policies import DAY, NOW, made, written

from fedclave.errors import Code, PlanError, Refused, UserError
from fedclave.trust import dsse, policy_file, signing
from fedclave.trust.policy_file import Signed, SignedPolicy, Signers

ONE, TWO, THREE = (signing.generate() for _ in range(3))
LINES = [policy_file.format_key(key.public_key()) for key in (ONE, TWO, THREE)]


@dataclass(frozen=True)
class Folder:
    """A workspace as far as policies go, whose plan wants two of three signers."""

    root: Path

    @property
    def text(self) -> Path:
        return self.root / "attestation.yaml"

    @property
    def envelope(self) -> Path:
        return policy_file.envelope_of(self.text)

    def write(self, **parts: Any) -> str:
        """Write a policy; returns its digest."""
        self.text.write_text(written(**parts))
        return made(**parts).digest

    def sign(self, *keys: Ed25519PrivateKey) -> Signed:
        return [policy_file.sign(self.text, self.envelope, key) for key in keys][-1]

    def load(
        self, *, signers: list[str] = LINES, threshold: int = 2, now: datetime = NOW
    ) -> SignedPolicy:
        pins = self.root / "cert/policies"
        return policy_file.load(
            self.text, self.envelope, signers=signers, threshold=threshold, pins=pins, now=now
        )

    def code(self, **keywords: Any) -> Code:
        with pytest.raises(Refused) as refused:
            self.load(**keywords)
        return refused.value.code


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_what_enough_keys_have_signed_is_loaded(folder: Folder) -> None:
    digest = folder.write()
    assert folder.envelope.name == "attestation.dsse.json"
    folder.sign(ONE, THREE)
    found = folder.load()
    assert (found.digest, found.policy.digest) == (digest, digest)
    assert found.signed_by == tuple(signing.key_id(key.public_key()) for key in (ONE, THREE))


def test_remarks_and_order_can_change_after_signing(folder: Folder) -> None:
    folder.write()
    folder.sign(ONE, TWO)
    folder.text.write_text("# for the auditors\n" + folder.text.read_text())
    assert folder.load().policy.version == 1


def test_each_signer_adds_a_signature_and_the_same_one_adds_none(folder: Folder) -> None:
    folder.write()
    assert [folder.sign(key).signatures for key in (ONE, TWO, ONE)] == [1, 2, 2]
    assert folder.sign(THREE) == Signed(policy=made(), signatures=3, dropped=0)


def test_a_changed_text_drops_the_signatures_over_the_older_one(folder: Folder) -> None:
    folder.write()
    folder.sign(ONE, TWO)
    folder.write(tcb={"smt": True})
    done = folder.sign(ONE)
    assert (done.signatures, done.dropped) == (1, 2)
    assert folder.code() is Code.BAD_SIGNATURE
    folder.sign(TWO)
    assert folder.load().policy.tcb.smt


def test_a_wrong_signature_under_a_key_is_replaced_by_signing(folder: Folder) -> None:
    folder.write()
    folder.sign(ONE, TWO)
    signed = dsse.decode(folder.envelope.read_bytes())
    forged = tuple(dsse.Signature(key=one.key, value=bytes(64)) for one in signed.signatures)
    folder.envelope.write_bytes(dsse.encode(replace(signed, signatures=forged)))
    assert folder.code() is Code.BAD_SIGNATURE
    assert folder.sign(ONE, TWO).signatures == 2
    assert folder.load().policy.version == 1


def test_signing_tells_the_signer_which_digest_the_next_version_must_name(folder: Folder) -> None:
    first = folder.write()
    folder.sign(ONE)
    folder.write(version=2, previous="0a" * 32)
    with pytest.raises(UserError, match=f"version 1 has the digest {first}"):
        folder.sign(ONE)
    folder.write(version=2, previous=first)
    assert folder.sign(ONE).dropped == 1


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"payloadType": 1}'])
def test_what_is_no_envelope_is_not_written_over(content: bytes, folder: Folder) -> None:
    folder.write()
    folder.envelope.write_bytes(content)
    with pytest.raises(UserError, match="Move it away, then sign again"):
        folder.sign(ONE)
    assert folder.envelope.read_bytes() == content


def test_an_envelope_of_something_else_is_not_written_over(folder: Folder) -> None:
    folder.write()
    folder.envelope.write_bytes(dsse.encode(dsse.sign("text/plain", made().bytes, ONE)))
    with pytest.raises(UserError, match="'text/plain', not of a policy"):
        folder.sign(ONE)


def test_a_policy_with_mistakes_is_not_signed(folder: Folder) -> None:
    folder.text.write_text(written(roles={}))
    with pytest.raises(PlanError, match="the policy admits nobody"):
        folder.sign(ONE)
    assert not folder.envelope.exists()


def test_where_nothing_can_be_written_the_user_is_told(folder: Folder) -> None:
    folder.write()
    with pytest.raises(UserError, match="could not be written"):
        policy_file.sign(folder.text, folder.root / "none/attestation.dsse.json", ONE)
    assert list(folder.root.iterdir()) == [folder.text]


def test_what_is_missing_is_told(folder: Folder) -> None:
    with pytest.raises(PlanError, match="no such file"):
        folder.load()
    folder.write()
    with pytest.raises(UserError, match="fx attest policy sign"):
        folder.load()


@pytest.mark.parametrize("days", [-121, 245])
def test_a_policy_that_is_not_valid_now_is_not_loaded_nor_remembered(
    days: int, folder: Folder
) -> None:
    folder.write()
    folder.sign(ONE, TWO)
    assert folder.code(now=NOW + days * DAY) is Code.ATT_POLICY
    assert not (folder.root / "cert").exists()


# Versions.


def newer(folder: Folder, version: int, previous: str, **parts: Any) -> str:
    digest = folder.write(version=version, previous=previous, **parts)
    folder.sign(ONE, TWO)
    return digest


def test_versions_follow_each_other_and_some_may_be_missed(folder: Folder) -> None:
    first = folder.write()
    folder.sign(ONE, TWO)
    assert folder.load() == folder.load()
    newer(folder, 2, first)
    assert folder.load().policy.version == 2
    newer(folder, 5, "0a" * 32)
    assert folder.load().policy.version == 5


def test_the_next_version_must_name_the_one_that_was_accepted(folder: Folder) -> None:
    folder.write()
    folder.sign(ONE, TWO)
    folder.load()
    folder.envelope.unlink()
    newer(folder, 2, "0a" * 32)
    assert folder.code() is Code.ATT_POLICY


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"garbage\xff",
        b'{"digest":"","name":"digits","v":2,"version":1}',
        b'{"digest":"","name":"digits","v":1,"version":true}',
        b'{"digest":"","name":"digits","v":1,"version":0} ',
    ],
)
def test_a_damaged_pin_lets_no_policy_pass(content: bytes, folder: Folder) -> None:
    folder.write()
    folder.sign(ONE, TWO)
    folder.load()
    pin = folder.root / "cert/policies/accepted.json"
    pin.write_bytes(content)
    with pytest.raises(UserError, match="Restore it from a copy"):
        folder.load()
    assert pin.read_bytes() == content


# Keys.


def test_a_key_is_one_line() -> None:
    assert LINES[0].startswith("ed25519:") and len(LINES[0]) == 52
    keys = [policy_file.parse_key(line) for line in LINES]
    assert [policy_file.format_key(key) for key in keys] == LINES


def spare_bits(line: str) -> str:
    """The same 32 bytes with other padding bits: base64 has four spellings of them."""
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    return line[:-2] + digits[digits.index(line[-2]) ^ 1] + "="


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ed25519:",
        LINES[0][:-1],
        LINES[0] + "=",
        LINES[0] + "\n",
        " " + LINES[0],
        LINES[0].removeprefix("ed25519:"),
        LINES[0].upper(),
        "ed25519:" + LINES[0],
        "ed25519:" + base64.b64encode(bytes(31)).decode(),
        "ed25519:" + base64.b64encode(bytes(33)).decode(),
        "ed25519:é",
        spare_bits(LINES[0]),
    ],
    ids=range(13),
)
def test_other_texts_are_no_keys(text: str) -> None:
    with pytest.raises(UserError, match="is not a public key"):
        policy_file.parse_key(text)


@pytest.mark.parametrize("threshold", [-1, 0, 4])
def test_a_threshold_that_cannot_be_met_is_refused(threshold: int) -> None:
    with pytest.raises(UserError, match=f"{threshold} of 3 signers"):
        Signers.parse(LINES, threshold)


def test_no_signers_sign_nothing() -> None:
    with pytest.raises(UserError, match="1 of 0 signers"):
        Signers.parse([], 1)
