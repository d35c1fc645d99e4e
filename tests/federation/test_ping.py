# SPDX-License-Identifier: Apache-2.0
"""``fx collaborator ping`` warns of what will soon keep a party from taking part."""

import shutil
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.federation import FX, Federation, federation

from fedclave.cli import demo_trust
from fedclave.workspace.layout import Workspace

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def fed(tmp_path: Path) -> Iterator[Federation]:
    proving = ("aggregator",)
    with federation(tmp_path / "ws", members={"anna": 1.0}, proving=proving) as made:
        yield made


def ping(fed: Federation) -> dict[str, Any]:
    where = ("-n", "anna", "--address", fed.address, "--allow-simulated")
    code, said = fed.says("collaborator", "ping", *where)
    assert code == 0, said
    return said


def test_collateral_that_will_soon_expire_is_warned_of(fed: Federation) -> None:
    fed.aggregator()
    good = ping(fed)
    assert (good["warnings"], good["word"], len(good["measurement"])) == ([], "SIMULATED", 64)
    issued = fed.now - timedelta(days=25)
    shutil.rmtree(fed.cert / "collateral")
    workspace = Workspace(fed.folder)
    demo_trust.learn(workspace, fed.platform, fed.platform.collateral(issued), fed.now)
    (warning,) = ping(fed)["warnings"]
    assert f"good until {issued + timedelta(days=30):%Y-%m-%d}" in warning
    assert "fx attest collateral import" in warning


def test_a_simulated_aggregator_is_said_to_be_one(fed: Federation) -> None:
    fed.aggregator()
    where = ("-n", "anna", "--address", fed.address, "--allow-simulated", "-C", str(fed.folder))
    done = subprocess.run([*FX, "collaborator", "ping", *where], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "the aggregator is SIMULATED: a trial, which protects nobody, runs " in done.stdout
