# SPDX-License-Identifier: Apache-2.0
"""What was good when a member attested, and is not any more: its session ends while it lives.

Newer collateral or another policy comes to an aggregator that runs. The member that it concerns is
told the code, the round goes on with the others; what does not concern a member disturbs nothing.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.support import ca, trust
from tests.support.attesting import Mallory, calls
from tests.support.federation import Federation, Party, federation
from tests.support.hostile import hostile, rest

from fedclave.errors import Refused
from fedclave.trust import roots
from fedclave.trust.collateral_store import Store
from fedclave.trust.names import Identity
from fedclave.trust.quoting import QuotingEnclave
from fedclave.trust.simulated import HEALTHY, Faults, SimulatedPlatform
from fedclave.workspace.layout import Workspace

pytestmark = pytest.mark.timeout(180)
BOTH = ("aggregator", "collaborators")
MEMBERS = {"anna": 1.0, "bernd": 2.0}
RULES: dict[str, Any] = {"freshness": {"session_s": 600, "reattest_s": 600}}
QUORUM = {"fraction": 0.5, "deadline_s": 50}


@contextmanager
def two_platforms(folder: Path, **options: Any) -> Iterator[tuple[Federation, SimulatedPlatform]]:
    """A federation in which anna has a folder and a platform of her own."""
    with federation(folder, proving=BOTH, members=MEMBERS, rules=RULES, **QUORUM, **options) as fed:
        other = SimulatedPlatform.create(folder.with_name("other"), "kit", fed.now - trust.AGE)
        learn(fed, other)
        both = {"roots": [trust.root(fed.platform), trust.root(other)]}
        trust.policy(Workspace(folder), fed.signer, fed.now, {**RULES, **both})
        home = fed.apart("anna")
        own = home / "cert/simulated"
        own.rename(home / "cert/not-hers")
        other.folder.rename(own)
        fed.changes = {"reconsider_s": 0.5}
        yield fed, SimulatedPlatform.open(own)


def learn(fed: Federation, about: SimulatedPlatform, faults: Faults = HEALTHY) -> None:
    """The aggregator imports what is now known of a platform."""
    folder, now = fed.cert / "collateral", datetime.now(UTC)
    with suppress(Refused):  # what revokes its own maker is kept, and told of
        Store(folder=folder, roots=(about.root,)).add(about.collateral(now, faults), now)
    roots.keep(folder, about.root)


def at_work(fed: Federation) -> tuple[Party, Party, Party]:
    """The aggregator, anna busy in round 2, and bernd."""
    fed.homes["anna"].joinpath("data/anna.order").write_text("2")
    aggregator = fed.aggregator()
    anna, bernd = fed.all()
    aggregator.wait("task_started", round=2, member="anna")
    return aggregator, anna, bernd


@pytest.mark.parametrize(
    ("faults", "code"),
    [
        (Faults(status="OutOfDate", advisories=("INTEL-SA-00001",)), "ATT-TCB-STATUS"),
        (Faults(advisories=("INTEL-SA-00001",)), "ATT-ADVISORY"),
        (Faults(revoked=("pck",)), "ATT-REVOKED"),
        (Faults(revoked=("pck-ca",)), "ATT-REVOKED"),
        (Faults(qe_status="Revoked"), "ATT-REVOKED"),
    ],
    ids=["out-of-date", "advisory", "revoked", "ca-revoked", "quoting-enclave-revoked"],
)
def test_news_of_a_platform_end_its_sessions_and_the_others_go_on(
    tmp_path: Path, faults: Faults, code: str
) -> None:
    with two_platforms(tmp_path / "ws") as (fed, other):
        aggregator, anna, _ = at_work(fed)
        learn(fed, other, faults)
        ended = aggregator.wait("session_ended")
        assert (ended["member"], ended["code"]) == ("anna", code)
        closed = aggregator.wait("round_closed", round=2)
        assert (closed["accepted"], closed["failed"]) == (["bernd"], {"anna": code})
        assert anna.end() == 3
        assert anna.events[-1]["error"]["code"] == code


def test_broken_policy_files_do_not_delay_a_revocation(tmp_path: Path) -> None:
    with two_platforms(tmp_path / "ws") as (fed, other):
        aggregator, anna, _ = at_work(fed)
        Workspace(fed.folder).attestation_signatures.write_text("no envelope")
        aggregator.wait("policy_trouble")
        learn(fed, other, Faults(revoked=("pck",)))
        assert aggregator.wait("session_ended")["code"] == "ATT-REVOKED"
        assert anna.end() == 3


def test_a_revoked_member_gets_no_more_of_a_model_that_it_is_fetching(tmp_path: Path) -> None:
    with two_platforms(tmp_path / "ws", settings="{count: 20000000}") as (fed, other):
        aggregator = fed.aggregator()
        own = fed.certify("collaborator", "anna", into="x")
        with hostile(fed, own) as peer:
            m = Mallory(fed, own, peer)
            m.enclave = QuotingEnclave(other.quoting)
            assert m.attest(lambda a, t: m.evidence(m.claims(a, t.nonce))) == "SIMULATED"
            slowly = peer.fetching(peer.work().hear("request").params)
            next(slowly)
            learn(fed, other, Faults(revoked=("pck",)))
            assert aggregator.wait("session_ended")["member"] == "anna"
            assert calls(peer) == {"ATT-REVOKED"}
            size, code = rest(slowly)
            assert code == "ATT-REVOKED"
            assert size < 60_000_000  # what was under way already


@pytest.mark.parametrize("proving", [(), BOTH], ids=["without-attestation", "with-attestation"])
@pytest.mark.parametrize(
    ("how", "code"), [("revoked", "certificate-revoked"), ("unlisted", "unknown-member")]
)
def test_a_member_that_is_put_out_gets_no_more_of_a_model_that_it_is_fetching(
    tmp_path: Path, proving: tuple[str, ...], how: str, code: str
) -> None:
    options: dict[str, Any] = {"rules": RULES, "proving": proving} if proving else {}
    large = {"settings": "{count: 20000000}", "members": MEMBERS, **QUORUM}
    with federation(tmp_path / "ws", **large, **options) as fed:
        fed.aggregator()
        own = fed.certify("collaborator", "anna", into="x")
        with hostile(fed, own) as peer:
            if proving:
                m = Mallory(fed, own, peer)
                assert m.attest(lambda a, t: m.evidence(m.claims(a, t.nonce))) == "SIMULATED"
            slowly = peer.fetching(peer.work().hear("request").params)
            next(slowly)
            if how == "revoked":
                fed.authority.revoke("anna", datetime.now(UTC))
            else:
                fed.admits("bernd")
            assert calls(peer) == {code}
            size, found = rest(slowly)
            assert found == code
            assert size < 60_000_000  # what was under way already


def test_a_quiet_member_that_is_revoked_is_told_at_once(tmp_path: Path) -> None:
    with federation(tmp_path / "ws", members=MEMBERS) as fed:
        aggregator = fed.aggregator()
        anna = fed.collaborator("anna")  # and nobody else: no round begins, nothing is said
        aggregator.wait("member_joined", member="anna")
        fed.authority.revoke("anna", datetime.now(UTC))
        assert anna.end() == 3
        assert anna.events[-1]["error"]["code"] == "certificate-revoked"


def test_what_cannot_be_looked_at_for_a_while_is_looked_at_afterwards(tmp_path: Path) -> None:
    with two_platforms(tmp_path / "ws") as (fed, other):
        aggregator, anna, _ = at_work(fed)
        policies = fed.cert / "policies"
        away = policies.rename(fed.cert / "away")
        policies.write_text("no folder")
        assert aggregator.wait("policy_trouble")["message"]
        policies.unlink()
        away.rename(policies)
        learn(fed, other, Faults(revoked=("pck",)))
        assert aggregator.wait("session_ended")["code"] == "ATT-REVOKED"
        assert anna.end() == 3


def test_an_attested_key_speaks_for_the_name_that_attested_alone(tmp_path: Path) -> None:
    with federation(tmp_path / "ws", proving=BOTH, members=MEMBERS, rules=RULES) as fed:
        fed.aggregator()
        anna = fed.certify("collaborator", "anna", into="x")
        twin_name = Identity(federation="kit", role="collaborator", name="bernd")
        bernd = ca.forge(fed.authority, twin_name, fed.now, key=anna.private_key)
        with hostile(fed, anna) as peer, hostile(fed, bernd) as twin:
            m = Mallory(fed, anna, peer)
            assert m.attest(lambda a, t: m.evidence(m.claims(a, t.nonce))) == "SIMULATED"
            assert "answered" in calls(peer)
            assert calls(twin) == {"ATT-KEY-BINDING"}


def test_attesting_again_in_the_middle_of_a_round_does_not_disturb_it(tmp_path: Path) -> None:
    with federation(tmp_path / "plain", members=MEMBERS) as plain:
        aggregator = plain.aggregator()
        plain.all()
        expected = aggregator.wait("run_finished")["model"]
    rules = {"freshness": {"session_s": 5, "reattest_s": 1}}
    with federation(tmp_path / "ws", proving=BOTH, members=MEMBERS, rules=rules) as fed:
        fed.changes = {"reconsider_s": 0.5}
        busy = fed.busy("anna", in_round=2)
        aggregator = fed.aggregator()
        fed.all()
        aggregator.wait("task_started", round=2, member="anna")
        begun = time.monotonic()
        while time.monotonic() < begun + 7:  # longer than a session lasts
            aggregator.wait("member_attested", member="anna")
        busy.unlink()
        assert aggregator.wait("run_finished")["model"] == expected
        assert aggregator.end() == 0
        told = [event["event"] for event in aggregator.events]
        assert told.count("member_joined") == len(MEMBERS)  # nobody had to come again
        assert told.count("task_started") == len(MEMBERS) * 7  # nothing was done twice
        assert not {"member_left", "session_ended", "update_refused"} & set(
            told[: told.index("run_finished")]
        )
