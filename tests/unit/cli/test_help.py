# SPDX-License-Identifier: Apache-2.0
"""Every command explains itself, and saying so costs no heavy import."""

import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main

from fedclave.cli.main import app, run

HEAVY = ("numpy", "grpc", "cryptography", "pydantic", "yaml", "rich", "fedclave.engine")


def leaves(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    commands = getattr(command, "commands", None)
    if commands is None:
        yield name, command
        return
    for verb, inner in commands.items():
        yield from leaves(f"{name} {verb}".strip(), inner)


COMMANDS = dict(leaves("", typer.main.get_command(app)))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_summary_an_example_and_json(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*name.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert re.search(rf"\bfx (--state \S+ )?{name}\b", text.partition("Example:")[2])
    assert "--json" in text
    assert all(param.help for param in COMMANDS[name].params)
    assert COMMANDS[name].help.splitlines()[0].endswith((".", ":", ",", "made", "CA"))


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from fedclave.cli.main import run; run(['--help']);"
        f"print(sorted(sys.modules.keys() & set({HEAVY})), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
