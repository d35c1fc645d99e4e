# SPDX-License-Identifier: Apache-2.0
"""Who wants a model or a key that is released only to verified code, or wants another one taken.

Real processes: an aggregator that waits for its initial model, and ``fx model release``.
"""

import json
import queue
import secrets
import ssl
import subprocess
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from tests.support import trust
from tests.support.federation import FX, Federation, Party, federation
from tests.support.hostile import code_of

from fedclave.plan import load
from fedclave.tensors import Stored, write
from fedclave.transport.grpc.proto import release_pb2 as pb
from fedclave.transport.grpc.release import MAX_STRANGERS, SERVICE
from fedclave.trust import claims, dsse, policy, ratls, release, sealed, signing
from fedclave.trust.attesting import key_hash
from fedclave.trust.credentials import Credentials
from fedclave.trust.quoting import QuotingEnclave
from fedclave.trust.release import Context
from fedclave.trust.releasing import CHALLENGE_TYPE, Challenge, _context
from fedclave.workspace import agreement
from fedclave.workspace.layout import Workspace

pytestmark = pytest.mark.timeout(180)
BOTH = ("aggregator", "collaborators")


class Call:
    """One Release call by hand: ``say`` up, ``hear`` down."""

    def __init__(self, address: str) -> None:
        self._ups: queue.Queue[pb.ReleaseUp | None] = queue.Queue()
        alone = [("grpc.use_local_subchannel_pool", 1)]  # a connection of its own
        self._channel = grpc.insecure_channel(address, options=alone)
        self._call = self._channel.stream_stream(
            f"/{SERVICE}/Release",
            request_serializer=pb.ReleaseUp.SerializeToString,
            response_deserializer=pb.ReleaseDown.FromString,
        )(iter(self._ups.get, None), timeout=30)

    def say(self, **body: Any) -> "Call":
        self._ups.put(pb.ReleaseUp(**body))
        return self

    def push(self, data: bytes) -> "Call":
        for at in range(0, len(data), 2**20):
            self.say(part=data[at : at + 2**20])
        return self.say(end=len(data))

    def hear(self) -> pb.ReleaseDown:
        return next(iter(self._call))

    def refused(self) -> str:
        with pytest.raises(grpc.RpcError) as error:
            self.hear()
        self.end()
        return code_of(error.value)

    def when_over(self, tell: Callable[["Call"], None]) -> "Call":
        self._call.add_done_callback(lambda _: tell(self))
        return self

    def end(self) -> None:
        self._call.cancel()
        self._channel.close()


class Scene:
    """A federation with a sealed initial model, and an aggregator that waits for it."""

    def __init__(self, fed: Federation, folder: Path) -> None:
        self.fed, self.folder = fed, folder
        self.owner = Workspace(fed.folder)
        self.author = signing.load(fed.cert / "author.key")
        found = agreement.find(self.owner)
        assert found is not None
        self.contract, self.policy = found.contract.id, policy.load(self.owner.attestation).digest
        self.party = self.start()

    def start(self) -> Party:
        party = self.fed.operator(self.folder)
        self.address = str(party.wait("awaiting_release")["address"])
        self.party = party
        return party

    def challenge(self, **changes: Any) -> Challenge:
        made = Challenge(
            purpose="initial-model",
            name="aggregator",
            contract=self.contract,
            policy=self.policy,
            nonce=secrets.token_bytes(32),
            time=datetime.now(UTC),
        )
        return replace(made, **changes)

    def envelope(self, challenge: Challenge, key: Any = None) -> bytes:
        signed = dsse.sign(CHALLENGE_TYPE, challenge.encoded, key or self.author)
        return dsse.encode(signed)

    def begin(self) -> tuple[Call, bytes, Context]:
        """A call with a good challenge, the key to seal to, and the context."""
        made = self.challenge()
        envelope = self.envelope(made)
        call = Call(self.address).say(challenge=envelope)
        offer = call.hear().offer
        _, said = ratls.decode(offer.evidence)
        return call, claims.decode(said).hpke_key, _context(made, envelope, offer.evidence)

    def seal(self, key: bytes, context: Context, model: Path | None = None) -> bytes:
        target = self.fed.folder / f"sealed-{secrets.token_hex(4)}"
        sealed.seal_file(key, model or self.owner.initial, target, context=context)
        return target.read_bytes()

    def is_waiting(self) -> bool:
        """It has begun nothing, and answers the next releaser."""
        call, _, _ = self.begin()
        call.end()
        return not list((self.folder / "save/models").glob("*.safetensors"))

    def fx(self, *command: str) -> tuple[int, Any]:
        done = subprocess.run(
            [*FX, *command, "-C", str(self.fed.folder), "--json"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.returncode, json.loads(done.stdout)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("sealed")
    options: dict[str, Any] = {"proving": BOTH, "sealed": ("initial", "final")}
    with federation(folder / "owner", members={"anna": 1.0}, **options) as fed:
        yield Scene(fed, folder / "operator")


# At the party that waits.


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"contract": "ab" * 32}, "ATT-CONTRACT"),
        ({"policy": "ab" * 32}, "ATT-POLICY-VERSION"),
        ({"name": "anna"}, "ATT-ROLE"),
        ({"purpose": "data-key"}, "ATT-ROLE"),
        ({"time": datetime.now(UTC) - timedelta(hours=1)}, "ATT-NONCE"),
        ({"time": datetime.now(UTC) + timedelta(hours=1)}, "ATT-NONCE"),
        ({"nonce": b"short"}, "malformed"),
    ],
    ids=["contract", "policy", "name", "purpose", "old", "new", "nonce"],
)
def test_a_challenge_about_something_else_is_refused(
    scene: Scene, change: dict[str, Any], code: str
) -> None:
    envelope = scene.envelope(scene.challenge(**change))
    assert Call(scene.address).say(challenge=envelope).refused() == code
    assert scene.party.wait("release_refused")["code"] == code
    assert scene.is_waiting()


def test_nobody_but_the_author_is_answered(scene: Scene) -> None:
    stranger = scene.envelope(scene.challenge(), signing.generate())
    assert Call(scene.address).say(challenge=stranger).refused() == "bad-signature"
    other = dsse.encode(dsse.sign("text/plain", scene.challenge().encoded, scene.author))
    assert Call(scene.address).say(challenge=other).refused() == "bad-signature"


@pytest.mark.parametrize("junk", [b"", b"{}", b"\xff" * 100, b"x" * 5000, b"[" * 4000])
def test_junk_is_refused(scene: Scene, junk: bytes) -> None:
    assert Call(scene.address).say(challenge=junk).refused() == "malformed"


def test_who_does_not_begin_with_a_challenge_is_refused(scene: Scene) -> None:
    assert Call(scene.address).say(part=b"model").refused() == "malformed"
    assert Call(scene.address).say(end=0).refused() == "malformed"


def test_a_challenge_is_answered_once(scene: Scene) -> None:
    envelope = scene.envelope(scene.challenge())
    first = Call(scene.address).say(challenge=envelope)
    assert first.hear().HasField("offer")
    first.end()
    assert Call(scene.address).say(challenge=envelope).refused() == "ATT-NONCE"


def test_what_was_sealed_in_a_session_opens_in_no_later_one(scene: Scene) -> None:
    earlier, key, context = scene.begin()
    kept = scene.seal(key, context)
    earlier.end()
    call, _, _ = scene.begin()
    assert call.push(kept).refused() == "cannot-open"
    assert scene.is_waiting()


def test_another_model_is_not_taken_even_from_the_author(scene: Scene, tmp_path: Path) -> None:
    other = {name: np.asarray(one) + 1 for name, one in Stored(scene.owner.initial).items()}
    write(tmp_path / "other.safetensors", other)
    call, key, context = scene.begin()
    assert call.push(scene.seal(key, context, tmp_path / "other.safetensors")).refused() == (
        "wrong-digest"
    )
    (tmp_path / "junk.safetensors").write_bytes(b"no model")
    call, key, context = scene.begin()
    assert call.push(scene.seal(key, context, tmp_path / "junk.safetensors")).refused() == (
        "malformed"
    )
    assert scene.is_waiting()


def test_what_was_changed_on_its_way_does_not_open(scene: Scene) -> None:
    for change in (lambda raw: raw[:-1], lambda raw: raw + b"\0", lambda raw: raw[:-1] + b"\0"):
        call, key, context = scene.begin()
        assert call.push(change(scene.seal(key, context))).refused() == "cannot-open"
    assert scene.is_waiting()


def test_more_than_the_model_has_is_not_stored(scene: Scene) -> None:
    call, _, _ = scene.begin()
    assert call.say(part=bytes(2**20)).refused() == "too-large"
    call, _, _ = scene.begin()
    assert call.say(part=b"some").say(end=5).refused() == "wrong-digest"
    call, _, _ = scene.begin()
    assert call.say(part=b"").refused() == "too-large"
    assert not list((scene.folder / "save").glob(".release-*"))


def test_who_leaves_in_the_middle_holds_up_nobody(scene: Scene) -> None:
    call, _, _ = scene.begin()
    call.say(part=b"some").end()
    assert scene.is_waiting()


@pytest.mark.parametrize("number", [1, 3 * MAX_STRANGERS], ids=["one", "many"])
def test_strangers_who_say_nothing_hold_up_nobody(scene: Scene, number: int) -> None:
    over: queue.Queue[Call] = queue.Queue()
    strangers = [Call(scene.address).when_over(over.put) for _ in range(number)]
    for _ in range(number - MAX_STRANGERS):  # so that all have arrived, and the most are left
        over.get(timeout=30)
    assert scene.is_waiting()
    assert {stranger.refused() for stranger in strangers} == {"too-slow"}


def test_strangers_whose_challenge_is_nobodys_hold_up_nobody(scene: Scene) -> None:
    key = signing.generate()
    junk = [scene.envelope(scene.challenge(), key) for _ in range(2 * MAX_STRANGERS)]
    strangers = [Call(scene.address).say(challenge=one) for one in junk]
    assert scene.is_waiting()
    # Who comes while the owner's release is under way is told that.
    assert {stranger.refused() for stranger in strangers} <= {"bad-signature", "UNAVAILABLE"}


def test_the_port_is_held_by_one_release_at_a_time(scene: Scene) -> None:
    call, _, _ = scene.begin()
    second = Call(scene.address).say(challenge=scene.envelope(scene.challenge()))
    with pytest.raises(grpc.RpcError) as error:
        second.hear()
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    call.end()
    assert scene.is_waiting()


def test_what_was_sealed_to_a_process_does_not_open_in_its_successor(scene: Scene) -> None:
    call, key, context = scene.begin()
    kept = scene.seal(key, context)
    call.end()
    scene.party.kill()
    scene.start()
    call, new, _ = scene.begin()
    assert new != key
    assert call.push(kept).refused() == "cannot-open"


# At the side that releases.


class Impostor:
    """What ``fx model release`` takes for the aggregator; ``answer`` makes its offers."""

    def __init__(self, answer: Callable[[bytes], pb.Offer]) -> None:
        self.answer = answer
        self.received = 0

    def __enter__(self) -> "Impostor":
        self._server = grpc.server(futures.ThreadPoolExecutor(2))
        handler = grpc.stream_stream_rpc_method_handler(
            self._release,
            request_deserializer=pb.ReleaseUp.FromString,
            response_serializer=pb.ReleaseDown.SerializeToString,
        )
        handlers = grpc.method_handlers_generic_handler(SERVICE, {"Release": handler})
        self._server.add_generic_rpc_handlers((handlers,))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.stop(0)

    def _release(self, incoming: Iterator[pb.ReleaseUp], context: Any) -> Iterator[pb.ReleaseDown]:
        yield pb.ReleaseDown(offer=self.answer(next(incoming).challenge))
        for message in incoming:
            self.received += len(message.part)


def forged(scene: Scene, envelope: bytes, **changes: Any) -> pb.Offer:
    """An offer as the aggregator would make it, but for some changes, with the platform's keys."""
    challenge = Challenge.parse(dsse.decode(envelope).payload)
    role = changes.pop("certificate", "aggregator")
    leaf = Credentials.read(scene.fed.cert, role)
    measurement = changes.pop("measurement", trust.measured(scene.owner))
    own = secrets.token_bytes(32)
    said: dict[str, Any] = {
        "role": "aggregator",
        "name": "aggregator",
        "federation": load(scene.owner.plan).name,
        "contract": challenge.contract,
        "policy": challenge.policy,
        "key": key_hash(leaf.leaf),
        "peer": bytes.fromhex(signing.key_id(scene.author.public_key())),
        "nonce": challenge.nonce,
        "own_nonce": own,
        "time": datetime.now(UTC),
        "hpke_key": release.generate().public,
        "checkpoint": b"",
    }
    encoded = claims.encode(claims.Claims(**{**said, **changes}))
    quote = QuotingEnclave(scene.fed.platform.quoting).quote(
        measurement, claims.report_data(encoded)
    )
    return pb.Offer(certificate=leaf.chain, evidence=ratls.encode(quote, encoded), nonce=own)


def swapped(scene: Scene, envelope: bytes) -> pb.Offer:
    """Genuine evidence whose key to seal to was exchanged for one of ours."""
    offer = forged(scene, envelope)
    quote, said = ratls.decode(offer.evidence)
    ours = replace(claims.decode(said), hpke_key=release.generate().public)
    offer.evidence = ratls.encode(quote, claims.encode(ours))
    return offer


def of_version_33(scene: Scene) -> bytes:
    """The aggregator's certificate, of a version that there is not."""
    leaf = Credentials.read(scene.fed.cert, "aggregator").leaf.public_bytes(Encoding.DER)
    changed = leaf.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x20", 1)
    assert changed != leaf
    return ssl.DER_cert_to_PEM_cert(changed).encode()


BAD: dict[str, tuple[Callable[[Scene, bytes], pb.Offer], str]] = {
    "other-code": (lambda s, e: forged(s, e, measurement=b"m" * 32), "ATT-MRENCLAVE"),
    "another-nonce": (lambda s, e: forged(s, e, nonce=b"n" * 32), "ATT-NONCE"),
    "another-own-nonce": (lambda s, e: forged(s, e, own_nonce=b"n" * 32), "ATT-NONCE"),
    "another-releaser": (lambda s, e: forged(s, e, peer=b"p" * 32), "ATT-KEY-BINDING"),
    "another-tls-key": (lambda s, e: forged(s, e, key=b"k" * 32), "ATT-KEY-BINDING"),
    "another-contract": (lambda s, e: forged(s, e, contract="ab" * 32), "ATT-CONTRACT"),
    "another-policy": (lambda s, e: forged(s, e, policy="ab" * 32), "ATT-POLICY-VERSION"),
    "a-collaborator": (lambda s, e: forged(s, e, certificate="anna"), "wrong-role"),
    "claims-of-a-collaborator": (lambda s, e: forged(s, e, role="collaborator"), "ATT-ROLE"),
    "old": (
        lambda s, e: forged(s, e, time=datetime.now(UTC) - timedelta(hours=1)),
        "ATT-NONCE",
    ),
    "key-exchanged": (swapped, "ATT-KEY-BINDING"),
    "no-evidence": (
        lambda s, e: pb.Offer(
            certificate=Credentials.read(s.fed.cert, "aggregator").chain, nonce=b"n" * 32
        ),
        "ATT-REQUIRED",
    ),
    "nothing": (lambda s, e: pb.Offer(), "ATT-MALFORMED"),
    "no-certificate": (lambda s, e: pb.Offer(evidence=b"e", nonce=b"n" * 32), "no-certificate"),
    "certificate-of-version-33": (
        lambda s, e: pb.Offer(certificate=of_version_33(s), evidence=b"e", nonce=b"n" * 32),
        "malformed",
    ),
    "huge": (
        lambda s, e: pb.Offer(certificate=b"c" * 200_000, nonce=b"n" * 32),
        "ATT-MALFORMED",
    ),
}


@pytest.mark.parametrize("how", BAD)
def test_nothing_is_released_to_an_impostor(scene: Scene, how: str) -> None:
    answer, code = BAD[how]
    with Impostor(lambda envelope: answer(scene, envelope)) as impostor:
        status, said = scene.fx("model", "release", impostor.address, "--allow-simulated")
        assert (status, said["error"]["code"]) == (3, code), said
        assert impostor.received == 0


def test_evidence_of_an_earlier_release_does_not_serve_again(scene: Scene) -> None:
    kept: list[pb.Offer] = []

    def replay(envelope: bytes) -> pb.Offer:
        if not kept:
            call = Call(scene.address).say(challenge=scene.envelope(scene.challenge()))
            kept.append(call.hear().offer)
            call.end()
        return kept[0]

    with Impostor(replay) as impostor:
        status, said = scene.fx("model", "release", impostor.address, "--allow-simulated")
    assert (status, said["error"]["code"], impostor.received) == (3, "ATT-NONCE", 0)


def test_a_simulated_tee_gets_nothing_from_who_does_not_allow_it(scene: Scene) -> None:
    status, said = scene.fx("model", "release", scene.address)
    assert (status, said["error"]["code"]) == (3, "ATT-SIMULATED")
    assert scene.is_waiting()


def test_in_between_one_reads_nothing_and_can_only_end_it(scene: Scene) -> None:
    """Who passes a release on holds the model sealed to a key that is not theirs."""
    passed: list[bytes] = []
    call: list[Call] = []

    def relay(envelope: bytes) -> pb.Offer:
        call.append(Call(scene.address).say(challenge=envelope))
        return call[0].hear().offer

    class Relay(Impostor):
        def _release(self, incoming: Iterator[pb.ReleaseUp], context: Any) -> Iterator[Any]:
            yield pb.ReleaseDown(offer=self.answer(next(incoming).challenge))
            passed.extend(message.part for message in incoming)

    with Relay(relay) as between:
        status, said = scene.fx("model", "release", between.address, "--allow-simulated")
    call[0].end()
    assert status in (3, 4), said
    weights = Stored(scene.owner.initial)["w"].tobytes()
    assert passed
    assert weights not in b"".join(passed)
    assert scene.is_waiting()
