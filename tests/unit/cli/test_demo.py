# SPDX-License-Identifier: Apache-2.0
"""What the demo checks before it starts, and how it explains a process that ended."""

import asyncio
import os
from importlib import metadata
from pathlib import Path

import pytest

from fedclave.cli import demo_folders, main
from fedclave.cli.child import Child
from fedclave.errors import Bug


def test_without_its_extra_the_demo_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    monkeypatch.chdir(tmp_path)
    assert main.run(["demo"]) == 2
    assert "pip install 'fedclave[demo]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("option", "given", "most"),
    [
        ("--collaborators", "0", "32"),
        ("--collaborators", "three", "32"),
        ("--rounds", "0", "10000"),
    ],
)
def test_numbers_out_of_bounds_are_told_with_their_bounds(
    capsys: pytest.CaptureFixture[str], option: str, given: str, most: str
) -> None:
    assert main.run(["demo", option, given]) == 2
    said = capsys.readouterr().err
    assert f"'{option}': '{given}' is not a whole number from" in said
    assert f"to {most}" in said


def test_numbered_folders_are_never_shared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fedclave-demo" / "2").mkdir(parents=True)
    made = [demo_folders.fresh(None).name for _ in range(3)]
    assert made == ["1", "3", "4"]


def test_a_template_without_the_expected_lines_is_a_bug(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text("rounds: many\n")
    with pytest.raises(Bug, match="rounds"):
        demo_folders.set_numbers(plan, rounds=3)


def test_a_child_says_how_it_ended_and_its_log_what_it_said(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "output.log"
    command = ("plan", "show", "-C", str(tmp_path / "nowhere"))

    async def run() -> tuple[int, str]:
        child = await Child.start("party", command, log=log, environment=os.environ)
        code = await child.wait()
        await child.stop()  # once more does no harm
        return code, child.last_lines()

    code, said = asyncio.run(run())
    assert code == 2 and "is not a workspace" in said
