# SPDX-License-Identifier: Apache-2.0
"""What the README and the tutorial show is done here as written, and comes out as they say."""

import re
from pathlib import Path

import numpy as np
import pytest
from tests.support.terminals import BLOCK, terminals

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
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
