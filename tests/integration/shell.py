# SPDX-License-Identifier: Apache-2.0
"""Commands that are run, and what is told of it."""

import json
import os
import subprocess
import sys
from typing import Any

FX = [sys.executable, "-m", "fedclave.cli.main"]
ENVIRONMENT = {
    "FX_CA_PASSPHRASE": "integration test",
    "BUILDAH_ISOLATION": "chroot",
    "STORAGE_DRIVER": "vfs",
}
"""What every command is to find in its environment: a main program puts it there."""


class Impossible(SystemExit):
    """No containers run on this machine; nothing is wrong with the project."""


def say(text: str) -> None:
    """Tell the user what goes on."""
    print(text, flush=True)


def output(*command: str) -> str:
    """What a command prints at its good end."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: {done.stderr}")
    return done.stdout.strip()


def fx(*command: str, **environment: str) -> dict[str, Any]:
    """Run a command of fx to its good end; the object that it printed."""
    told = [*FX, *command, "--json"]
    done = subprocess.run(
        told, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    if done.returncode != 0:
        raise SystemExit(f"fx {' '.join(command)}: {done.stdout}{done.stderr}")
    value: dict[str, Any] = json.loads(done.stdout)
    return value
