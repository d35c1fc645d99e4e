# SPDX-License-Identifier: Apache-2.0
"""What the README and the tutorial show is done here as written, and comes out as they say."""

import re
from pathlib import Path

import numpy as np
import pytest
from tests.support.terminals import BLOCK, terminals

from fedclave import tensors

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
ATTEST, RELEASE = (
    (ROOT / f"docs/howto/{name}.md").read_text(encoding="utf-8") for name in ("attest", "release")
)
TUTORIAL = ROOT / "docs/tutorial/own-data-own-model.md"
SECRET = {"FX_CA_PASSPHRASE": "correct horse battery staple"}

pytestmark = pytest.mark.timeout(300)


def test_the_tutorials_learner_trains_from_two_parties(tmp_path: Path) -> None:
    folder = tmp_path / "a folder with spaces"
    folder.mkdir()
    with terminals(folder, **SECRET) as opened:
        opened.play(TUTORIAL.read_text(encoding="utf-8"))
        accuracy = re.findall(r"^final evaluation, accuracy ([0-9.]+)", opened.printed, re.M)
        assert float(accuracy[-1]) > 0.78
        with np.load(folder / "risk/risk.npz") as model:
            age, pressure, exercise = model["w"]
        assert age > 0.5 and pressure > age and exercise < -0.3


def test_the_tutorials_learner_has_under_40_lines() -> None:
    files = {
        what: text
        for kind, what, text in BLOCK.findall(TUTORIAL.read_text(encoding="utf-8"))
        if kind == "file"
    }
    assert len(files["risk/src/learner.py"].splitlines()) < 40


def test_the_demo_ends_as_the_readme_shows(tmp_path: Path) -> None:
    shown = re.search(
        r"<!-- shown: fx demo -->\n```text\n(.*?)```", README.read_text(encoding="utf-8"), re.S
    )
    with terminals(tmp_path) as opened:
        opened.play("<!-- run: here -->\n```bash\nfx demo\n```\n")
        assert shown and shape(shown[1]) == shape(
            opened.printed[opened.printed.rindex("accuracy on") :]
        )
        assert (tmp_path / "fedclave-demo/1/curves.png").is_file()


def shape(text: str) -> list[str]:
    """A text without what differs from run to run and from machine to machine."""
    return re.sub(r"[0-9a-f]{64}|[0-9.]+", "0", text).strip().splitlines()


def test_the_readmes_commands_end_with_a_model_of_both_parties(tmp_path: Path) -> None:
    with terminals(tmp_path, **SECRET) as opened:
        opened.play(README.read_text(encoding="utf-8"))
        accuracy = re.findall(r"^final evaluation, accuracy ([0-9.]+)", opened.printed, re.M)
        assert float(accuracy[-1]) > 0.9
        assert (tmp_path / "digits/model.safetensors").is_file()


def test_the_steps_of_attesting_end_with_a_run_in_which_all_have_proved_themselves(
    tmp_path: Path,
) -> None:
    with terminals(tmp_path, **SECRET) as opened:
        opened.play(ATTEST)
        said = opened.printed
    assert re.search(r"^final evaluation, accuracy", said, re.M)
    for party in ("this aggregator", "alice", "bob", "the aggregator"):
        assert re.search(rf"{party} is SIMULATED", said), party
    assert "NOT ATTESTED" not in said


def test_the_steps_of_releasing_end_with_a_model_that_its_owner_alone_has(tmp_path: Path) -> None:
    first, _, rest = ATTEST.partition("Now close what will be measured.")
    middle, _, _ = rest.partition("## 6. Start")
    _, _, middle = middle.partition("## 2. ")  # release.md has its own draft
    before, _, after = RELEASE.partition("## Operator of the aggregator")
    with terminals(tmp_path, **SECRET) as opened:
        opened.play("".join((first, before, middle, after)))
        said = opened.printed
    assert "The initial model is at aggregator, which is SIMULATED, and opened there." in said
    assert "The data key is at alice, which is SIMULATED, and opened there." in said
    assert tensors.metadata(tmp_path / "owner/model.safetensors") == {
        "fedclave.attestation": "SIMULATED"
    }
    assert not list((tmp_path / "operator").rglob("*.safetensors"))
