# SPDX-License-Identifier: Apache-2.0
"""Who puts older collateral in the place of newer, on which an outdated platform looks well.

Each part is signed by itself, so old and new parts make one file whose signatures are all good.
"""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.attesting import Mallory, calls
from tests.support.federation import Federation, federation
from tests.support.hostile import hostile

from fedclave.trust.simulated import Faults

pytestmark = pytest.mark.timeout(180)
BOTH = ("aggregator", "collaborators")
MEMBERS = {"anna": 1.0, "bernd": 2.0}
PARTS = {
    "TCB info": ("tcb_info", "tcb_info_signature"),
    "QE identity": ("qe_identity", "qe_identity_signature"),
    "root CRL": ("root_ca_crl",),
    "PCK CRL": ("pck_crl",),
}
OLDER = "ATT-COLLATERAL-OLDER"


def with_older(fed: Federation, part: str) -> bytes:
    """The collateral of now, with one part of the day before (or fewer known flaws)."""
    now: dict[str, Any] = json.loads(fed.platform.collateral(fed.now))
    if part == "evaluation number":
        return fed.platform.collateral(fed.now, Faults(evaluation=19))
    before = json.loads(fed.platform.collateral(fed.now - timedelta(days=1)))
    return json.dumps({**now, **{key: before[key] for key in PARTS[part]}}).encode()


@pytest.fixture(scope="module")
def fed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("collateral") / "ws"
    with federation(folder, proving=BOTH, members=MEMBERS) as made:
        made.changes = {"reconsider_s": 0.5}
        yield made


@pytest.mark.parametrize("part", [*PARTS, "evaluation number"])
def test_no_older_part_is_imported(fed: Federation, tmp_path: Path, part: str) -> None:
    old, root = tmp_path / "old.json", tmp_path / "root.der"
    old.write_bytes(with_older(fed, part))
    root.write_bytes(fed.platform.root)
    (kept,) = (fed.cert / "collateral").glob("sgx-*.json")
    before = kept.read_bytes()
    code, said = fed.says("attest", "collateral", "import", str(old), "--root", str(root))
    assert (code, said["error"]["code"]) == (3, OLDER)
    assert f"the {part} is of" in said["error"]["message"]
    assert kept.read_bytes() == before


def test_an_older_file_put_there_by_hand_ends_sessions_and_opens_none(fed: Federation) -> None:
    aggregator = fed.aggregator()
    own = fed.certify("collaborator", "anna", into="x")
    (kept,) = (fed.cert / "collateral").glob("sgx-*.json")
    before = kept.read_bytes()
    with hostile(fed, own) as peer:
        m = Mallory(fed, own, peer)

        def attested() -> str:
            return m.attest(lambda a, t: m.evidence(m.claims(a, t.nonce)))

        for part in (*PARTS, "evaluation number"):
            assert attested() == "SIMULATED"
            kept.write_bytes(with_older(fed, part))
            assert aggregator.wait("session_ended")["code"] == OLDER
            assert calls(peer) == {OLDER}
            assert attested() == OLDER
            kept.write_bytes(before)
    kept.write_bytes(with_older(fed, "PCK CRL"))
    ended = [fed.collaborator("anna")]
    assert ended[0].end() == 3
    aggregator.kill()
    ended.append(fed.start_aggregator())
    assert ended[1].end() == 3
    for party in ended:
        assert party.events[-1]["error"]["code"] == OLDER
    kept.write_bytes(before)


def test_a_least_evaluation_number_holds_where_nothing_is_remembered(tmp_path: Path) -> None:
    rules = {"tcb": {"min_evaluation": 20}}
    with federation(tmp_path / "ws", proving=BOTH, members=MEMBERS, rules=rules) as fed:
        folder = fed.cert / "collateral"
        (kept,) = folder.glob("sgx-*.json")
        (folder / "newest.json").unlink()  # who can write both can go back ...
        kept.write_bytes(with_older(fed, "evaluation number"))
        party = fed.start_aggregator()
        assert party.end() == 3
        error = party.events[-1]["error"]
        assert error["code"] == OLDER
        assert "asks for 20 or more" in error["message"]
