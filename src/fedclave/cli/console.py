# SPDX-License-Identifier: Apache-2.0
"""What commands say: results on stdout, as lines or as JSON; questions and notes on stderr."""

import getpass
import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fedclave.errors import UserError

PASSPHRASE = "FX_CA_PASSPHRASE"  # noqa: S105 - the name of a variable


def answer(value: Mapping[str, Any], lines: Iterable[str], as_json: bool) -> None:
    """Print a command's result: one JSON object, or lines for people."""
    if as_json:
        emit(value)
        return
    for line in lines:
        print(line)


def emit(value: Mapping[str, Any]) -> None:
    """Print one JSON object on a line, at once."""
    print(json.dumps(value, ensure_ascii=False, default=str), flush=True)


def note(text: str) -> None:
    """Tell people something that is not the result."""
    print(text, file=sys.stderr, flush=True)


def rows(pairs: Mapping[str, object]) -> list[str]:
    """Labels and values in two columns.

    >>> rows({"plan": "a1", "rounds": 20})
    ['plan    a1', 'rounds  20']
    """
    width = max(map(len, pairs), default=0) + 2
    return [f"{label:{width}}{value}" for label, value in pairs.items()]


def steps(*following: str) -> list[str]:
    """The next steps, after an empty line."""
    return ["", "Next:", *(f"  {step}" for step in following)]


def confirm(question: str, yes: bool) -> None:
    """Go on only after a yes: the option's, or the user's at a terminal."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UserError(
            f"{question} Nobody can be asked here: compare it, then run this again with --yes"
        )
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UserError("not confirmed; nothing was done. Ask the other side what it sees")


def passphrase(file: Path | None, *, new: bool = False) -> bytes:
    """The CA's passphrase: from a file, the environment, or a question at a terminal."""
    if file is not None:
        try:
            given = file.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{file}: cannot be read ({error}). Name another file") from error
        source = str(file)
    elif PASSPHRASE in os.environ:
        given, source = os.environ[PASSPHRASE], PASSPHRASE
    elif sys.stdin.isatty():
        given, source = _asked(new), "the passphrase"
    else:
        raise UserError(
            f"the CA's passphrase is needed, and nobody can be asked here. Set {PASSPHRASE}, or"
            " give --passphrase-file"
        )
    if not given:
        raise UserError(f"{source} is empty. Choose a passphrase that nobody guesses")
    return given.encode()


def _asked(new: bool) -> str:
    first = getpass.getpass("Passphrase of the CA (new): " if new else "Passphrase of the CA: ")
    if new and getpass.getpass("Once more: ") != first:
        raise UserError("the two passphrases differ. Run this again")
    return first
