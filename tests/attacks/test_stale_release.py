# SPDX-License-Identifier: Apache-2.0
"""A release whose session went stale while the secret was being sealed: nothing is sent.

Sealing a model takes as long as it is large. Here time passes just then. Both ends are real, over
gRPC on loopback; the party is genuine, and would have got the secret a moment ago.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.support import ca
from tests.support.policies import CODE, NOW, ROLE
from tests.support.vouching import Door, opened

from fedclave.errors import Code, Refused
from fedclave.transport.grpc.release import Inbox, give
from fedclave.trust import judgement, release
from fedclave.trust.attesting import Side, Terms
from fedclave.trust.policy_file import SignedPolicy
from fedclave.trust.release import Context
from fedclave.trust.releasing import Grant, Receiver, Releaser

pytest.importorskip("dcap_qvl", reason="the second verifier is an extra: attest")
pytest.importorskip("cryptography.hazmat.primitives.hpke", reason="needs cryptography 47")

AUTHOR = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
SECRET = b"the initial model"
SESSION_S = 600


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with opened(tmp_path_factory.mktemp("door")) as made:
        yield made


@dataclass
class Scene:
    """An aggregator that waits for its model, and the author who releases it."""

    door: Door
    folder: Path
    now: datetime = NOW
    taken: list[bytes] = field(default_factory=list)
    sealed: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.authority = ca.create(self.folder, now=NOW)
        self.leaf = ca.certify(self.authority, "aggregator", "agg").leaf
        self.pair = release.generate()
        policy = self.door.rules(
            roles={"aggregator": ROLE},
            freshness={"session_s": SESSION_S, "reattest_s": SESSION_S},
            release={"initial_model": "attested"},
        )
        self.terms = self.bound_to(policy)

    def bound_to(self, policy: SignedPolicy) -> Terms:
        return Terms(
            federation="digits",
            contract="c0" * 32,
            policy=policy,
            required=frozenset({"aggregator"}),
        )

    def evidence(self, report_data: bytes) -> bytes:
        """The party's attester."""
        return self.door.enclave.quote(CODE, report_data)

    def releaser(self) -> Releaser:
        return Releaser(
            key=AUTHOR,
            purpose="initial-model",
            name="agg",
            terms=self.terms,
            verifier=self.door.verifier,
            anchors=self.authority.anchors,
            allow_simulated=True,
            now=lambda: self.now,
        )

    def inbox(self) -> Inbox:
        side = Side(
            terms=self.terms,
            role="aggregator",
            name="agg",
            attester=self,
            verifier=self.door.verifier,
            allow_simulated=True,
            pair=self.pair,
            now=lambda: NOW,  # its own clock stands still
        )
        receiver = Receiver(
            side=side, purpose="initial-model", releaser=AUTHOR.public_key(), leaf=lambda: self.leaf
        )
        folder = self.folder / "inbox"
        folder.mkdir()
        return Inbox(receiver, folder, limit=10_000, take=self._take, refused=lambda *told: None)

    def release(self, takes: timedelta) -> Grant:
        """Release the model, of which sealing takes so long."""

        def seal(grant: Grant, target: Path) -> None:
            self.sealed.append(release.seal(grant.key, SECRET, context=grant.context))
            target.write_bytes(self.sealed[-1])
            self.now += takes

        async def done() -> Grant:
            inbox = self.inbox()
            async with inbox.listening("127.0.0.1:0") as port:
                return await give(
                    f"127.0.0.1:{port}", self.releaser(), seal, self.folder / "sealed"
                )

        return asyncio.run(done())

    def _take(self, path: Path, context: Context) -> None:
        self.taken.append(release.open(self.pair, path.read_bytes(), context=context))


@pytest.fixture
def scene(door: Door, tmp_path: Path) -> Scene:
    return Scene(door, tmp_path)


def test_a_release_within_the_session_reaches_the_party(scene: Scene) -> None:
    grant = scene.release(takes=timedelta(seconds=SESSION_S))
    assert scene.taken == [SECRET]
    assert grant.standing.verdict.expires == NOW + timedelta(seconds=SESSION_S)


@pytest.mark.parametrize(
    "takes", [timedelta(seconds=SESSION_S + 1), timedelta(days=3)], ids=["a second", "days"]
)
def test_a_session_that_ended_while_the_secret_was_sealed_gets_nothing(
    scene: Scene, takes: timedelta
) -> None:
    with pytest.raises(Refused) as refused:
        scene.release(takes)
    assert refused.value.code is Code.ATT_REQUIRED
    assert len(scene.sealed) == 1, "it was sealed: the session was good until then"
    assert scene.taken == []
    assert list((scene.folder / "inbox").iterdir()) == []


def test_a_clock_that_was_set_back_while_the_secret_was_sealed_ends_the_release(
    scene: Scene,
) -> None:
    with pytest.raises(Refused) as refused:
        scene.release(timedelta(seconds=-1))
    assert (refused.value.code, scene.taken) == (Code.ATT_REQUIRED, [])


def test_what_was_granted_under_a_policy_does_not_go_out_under_the_next(scene: Scene) -> None:
    grant = scene.release(takes=timedelta(0))
    changed: dict[str, Any] = {"roles": {"aggregator": ROLE}, "release": {"initial_model": "none"}}
    policy = scene.door.rules(**changed).policy
    with pytest.raises(Refused) as refused:
        judgement.check_release(policy, grant.standing.verdict, "initial-model", NOW)
    assert refused.value.code is Code.ATT_POLICY
