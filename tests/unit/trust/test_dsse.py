# SPDX-License-Identifier: Apache-2.0
"""Envelopes: the encoding that is signed, whose signatures count, and what does not parse."""

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.support import ed25519

from fedclave.errors import Bug, Code, Refused
from fedclave.trust import dsse, signing

KIND = "application/vnd.test+json"
ANNA, BERND, CARLA = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2, 3))
SIGNED = dsse.sign(KIND, b"payload", ANNA)


def refused(envelope: dsse.Envelope, *keys: Ed25519PrivateKey, kind: str = KIND, n: int = 1) -> str:
    with pytest.raises(Refused) as caught:
        dsse.verified(envelope, kind, [key.public_key() for key in keys], n)
    assert caught.value.code is Code.BAD_SIGNATURE
    return caught.value.message


def test_pae_is_that_of_the_specification() -> None:
    """protocol.md of DSSE v1 gives the first of these."""
    expected = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert dsse.pae("http://example.com/HelloWorld", b"hello world") == expected
    assert dsse.pae("", b"") == b"DSSEv1 0  0 "
    assert dsse.pae("é", b"\0") == b"DSSEv1 2 \xc3\xa9 1 \0"  # lengths are of bytes


def test_the_payload_comes_back_to_those_who_trust_the_signer() -> None:
    again = dsse.decode(dsse.encode(SIGNED))
    assert again == SIGNED
    assert dsse.verified(again, KIND, [ANNA.public_key()]) == b"payload"


def test_nobody_trusted_means_nothing_verified() -> None:
    assert "0 keys are trusted" in refused(SIGNED)


def test_another_key_another_type_and_another_payload_are_refused() -> None:
    refused(SIGNED, BERND)
    refused(SIGNED, ANNA, kind="application/vnd.other+json")
    refused(dsse.Envelope(type=KIND, payload=b"paylOad", signatures=SIGNED.signatures), ANNA)
    retyped = dsse.Envelope(type="x", payload=b"payload", signatures=SIGNED.signatures)
    refused(retyped, ANNA, kind="x")


def test_a_threshold_counts_keys_not_signatures() -> None:
    twice = dsse.Envelope(type=KIND, payload=b"payload", signatures=SIGNED.signatures * 2)
    refused(twice, ANNA, BERND, n=2)
    assert dsse.add(SIGNED, ANNA) == SIGNED
    both = dsse.add(SIGNED, BERND)
    keys = [key.public_key() for key in (ANNA, BERND, CARLA)]
    assert dsse.verified(both, KIND, keys, 2) == b"payload"
    refused(both, ANNA, BERND, CARLA, n=3)


def test_two_different_signatures_by_one_key_count_once() -> None:
    """A signer who does not derive his nonces has more than one valid signature of a payload."""
    own, message = signing.key_id(ANNA.public_key()), dsse.pae(KIND, b"payload")
    values = [ed25519.sign(bytes([1]) * 32, message, nonce) for nonce in (2, 3)]
    signatures = (*SIGNED.signatures, *(dsse.Signature(key=own, value=one) for one in values))
    assert len({one.value for one in signatures}) == 3
    for one in signatures:
        alone = dsse.Envelope(type=KIND, payload=b"payload", signatures=(one,))
        assert dsse.verified(alone, KIND, [ANNA.public_key()]) == b"payload"
    every = dsse.Envelope(type=KIND, payload=b"payload", signatures=signatures)
    assert dsse.verified(every, KIND, [ANNA.public_key()], 1) == b"payload"
    refused(every, ANNA, BERND, n=2)
    refused(every, ANNA, n=3)


def test_a_key_that_is_trusted_twice_counts_once() -> None:
    refused(SIGNED, ANNA, ANNA, n=2)


def test_a_signature_under_another_key_id_does_not_count() -> None:
    (own,) = SIGNED.signatures
    claimed = dsse.Signature(key=signing.key_id(BERND.public_key()), value=own.value)
    refused(dsse.Envelope(type=KIND, payload=b"payload", signatures=(claimed,)), ANNA, BERND)


def test_a_threshold_of_nothing_is_a_bug() -> None:
    with pytest.raises(Bug):
        dsse.verified(SIGNED, KIND, [ANNA.public_key()], 0)


def broken(**fields: Any) -> bytes:
    return json.dumps(json.loads(dsse.encode(SIGNED)) | fields).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"[" * 100_000,
        b'{"payload": ""}',
        broken(extra=1),
        broken(payloadType=3),
        broken(payloadType=""),
        broken(payload="not base64!"),
        broken(payload="YQ"),
        broken(payload="é"),
        broken(payload=None),
        broken(signatures={}),
        broken(signatures=[{"keyid": "a"}]),
        broken(signatures=[{"keyid": 1, "sig": ""}]),
        broken(signatures=[{"keyid": "a", "sig": "*"}]),
        broken(signatures=[{"keyid": "a", "sig": ""}] * 257),
        b'{"payload": "", "payload": "", "payloadType": "x", "signatures": []}',
        b" " * (dsse.MAX_SIZE + 1),
    ],
    ids=lambda data: repr(data[:40]),
)
def test_what_is_no_envelope_is_refused(data: bytes) -> None:
    with pytest.raises(Refused) as caught:
        dsse.decode(data)
    assert caught.value.code is Code.MALFORMED


def test_other_tools_can_read_it() -> None:
    fields = json.loads(dsse.encode(SIGNED))
    assert fields["payloadType"] == KIND
    assert base64.b64decode(fields["payload"]) == b"payload"
    ANNA.public_key().verify(
        base64.b64decode(fields["signatures"][0]["sig"]), dsse.pae(KIND, b"payload")
    )
