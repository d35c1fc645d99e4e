# SPDX-License-Identifier: Apache-2.0
"""An aggregator that was good when a member attested, and is not any more: the member leaves.

The mirror of ``test_live_sessions``: newer collateral, another policy or a revocation list comes to
a member that takes part. It sends nothing more to that aggregator, and says why.
"""

import json
import subprocess
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.support import trust
from tests.support.federation import FX, Federation, federation

from fedclave.errors import Refused
from fedclave.trust import roots
from fedclave.trust.collateral_store import Store
from fedclave.trust.simulated import Faults
from fedclave.workspace.layout import Workspace

pytestmark = pytest.mark.timeout(180)
MEMBERS = {"anna": 1.0, "bernd": 2.0}
RULES = {"freshness": {"session_s": 600, "reattest_s": 600}}
QUORUM = {"fraction": 0.5, "deadline_s": 50}


def platform_is_revoked(fed: Federation, home: Path) -> None:
    folder, now = home / "cert/collateral", datetime.now(UTC)
    about = fed.platform
    with suppress(Refused):  # what revokes its own maker is kept, and told of
        Store(folder=folder, roots=(about.root,)).add(
            about.collateral(now, Faults(revoked=("pck",))), now
        )
    roots.keep(folder, about.root)


def policy_denies_it(fed: Federation, home: Path) -> None:
    code = {"measurements": [{"mr_enclave": "00" * 32}]}
    roles = {"aggregator": code, "collaborator": code}
    trust.follow(Workspace(home), fed.signer, fed.now, {"roles": roles})


def certificate_is_revoked(fed: Federation, home: Path) -> None:
    fed.authority.revoke("aggregator", datetime.now(UTC))
    (home / "cert/crl.pem").write_bytes((fed.cert / "crl.pem").read_bytes())


@pytest.mark.parametrize(
    ("proving", "news", "code"),
    [
        (("aggregator",), platform_is_revoked, "ATT-REVOKED"),
        (("aggregator",), policy_denies_it, "ATT-MRENCLAVE"),
        (("aggregator",), certificate_is_revoked, "certificate-revoked"),
        ((), certificate_is_revoked, "certificate-revoked"),
    ],
    ids=["platform", "policy", "certificate", "certificate-without-attestation"],
)
def test_a_member_leaves_an_aggregator_that_is_not_good_any_more(
    tmp_path: Path,
    proving: tuple[str, ...],
    news: Callable[[Federation, Path], None],
    code: str,
) -> None:
    rules = {"rules": RULES} if proving else {}
    folder = tmp_path / "ws"
    with federation(folder, proving=proving, members=MEMBERS, **rules, **QUORUM) as fed:
        home = fed.apart("anna")
        (home / "data/anna.order").write_text("2")
        aggregator = fed.aggregator()
        anna, _ = fed.all()
        aggregator.wait("task_started", round=2, member="anna")
        news(fed, home)
        assert anna.end() == 3
        assert anna.events[-1]["error"]["code"] == code
        closed = aggregator.wait("round_closed", round=2)
        assert closed["accepted"] == ["bernd"]


def test_a_party_that_must_prove_itself_too_can_ask_what_an_aggregator_runs(tmp_path: Path) -> None:
    both = ("aggregator", "collaborators")
    with federation(tmp_path / "ws", proving=both, members=MEMBERS) as fed:
        fed.aggregator()
        # The command itself: it starts anew from source, as what is measured must.
        command = [*FX, "attest", "show", fed.address, "-n", "anna", "-C", str(fed.folder)]
        shown = subprocess.run(
            [*command, "--allow-simulated", "--json"], capture_output=True, text=True, timeout=60
        )
        assert shown.returncode == 0, shown.stdout + shown.stderr
        assert json.loads(shown.stdout)["word"] == "SIMULATED"


def test_both_sides_warn_of_collateral_that_will_soon_expire(tmp_path: Path) -> None:
    # Collateral is good for 30 days from the federation's beginning.
    began = datetime.now(UTC) - timedelta(days=25)
    rules = {"valid": {"from": "2020-01-01", "until": "2099-01-01"}, **RULES}
    with federation(
        tmp_path / "ws", proving=("aggregator",), members=MEMBERS, rules=rules, now=began
    ) as fed:
        for name in ("aggregator", *MEMBERS):
            role = "aggregator" if name == "aggregator" else "collaborator"
            fed.certify(role, name, at=datetime.now(UTC))
        aggregator = fed.aggregator()
        assert "good until" in aggregator.wait("policy_trouble")["message"]
        anna = fed.collaborator("anna")
        assert "good until" in anna.wait("policy_trouble")["message"]
