# SPDX-License-Identifier: Apache-2.0
"""The child's side of ``cli.child``: run an `fx` command, and end when the parent does."""

import os
import threading
from pathlib import Path
from typing import IO

from fedclave.cli.main import main as fx

ENDED_WITH_PARENT = 143  # as by SIGTERM


def main() -> None:
    """The child's side: run the `fx` command in ``sys.argv`` and end with the parent."""
    lifeline = os.fdopen(os.dup(0), "rb", buffering=0)
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)  # the command itself has no input
    threading.Thread(target=_watch, args=(lifeline,), daemon=True).start()
    fx()


def _watch(lifeline: IO[bytes]) -> None:
    lifeline.read(1)
    os._exit(ENDED_WITH_PARENT)


if __name__ == "__main__":
    main()
