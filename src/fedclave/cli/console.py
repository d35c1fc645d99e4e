# SPDX-License-Identifier: Apache-2.0
"""What commands say: results on stdout, as lines or as JSON; questions and notes on stderr."""

import getpass
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedclave.errors import UserError

PASSPHRASE = "FX_CA_PASSPHRASE"  # noqa: S105 - the name of a variable
LEAST = 12  # characters of a new passphrase
KEY_PASSPHRASE = "FX_KEY_PASSPHRASE"  # noqa: S105 - likewise, for keys of authors and owners


def answer(value: Mapping[str, Any], lines: Iterable[str], as_json: bool) -> None:
    """Print a command's result: one JSON object, or lines for people."""
    if as_json:
        emit(value)
        return
    for line in lines:
        print(line)


def emit(value: Mapping[str, Any]) -> None:
    """Print one JSON object on a line, at once."""
    print(json.dumps(value, ensure_ascii=False, default=_plain), flush=True)


def note(text: str) -> None:
    """Tell people something that is not the result."""
    print(text, file=sys.stderr, flush=True)


def rows(pairs: Mapping[str, object]) -> list[str]:
    """Labels and values in two columns.

    >>> rows({"plan": "a1", "rounds": 20})
    ['plan    a1', 'rounds  20']
    """
    width = max(map(len, pairs), default=0) + 2
    return [f"{label:{width}}{_shown(value)}" for label, value in pairs.items()]


def when(time: datetime) -> str:
    """A time as people read it; with ``--json`` it is ISO 8601.

    >>> when(datetime(2031, 5, 1, 9, 30, 59, tzinfo=UTC))
    '2031-05-01 09:30 UTC'
    """
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def count(number: int, noun: str) -> str:
    """So many of something.

    >>> count(1, "round"), count(2, "certificate")
    ('1 round', '2 certificates')
    """
    return f"{number} {noun}" + ("" if number == 1 else "s")


def stood(word: str) -> str:
    """A word on how parties stand, with what must be minded of it.

    >>> stood("VERIFIED")
    'VERIFIED'
    """
    return f"{word}: a trial, which protects nobody" if word == "SIMULATED" else word


def steps(*following: str) -> list[str]:
    """The next steps, after an empty line; ``fx`` as it can be typed here."""
    own = called()
    shown = (re.sub(r"(?<![\w./-])fx (?=[a-z])", f"{own} ", step) for step in following)
    return ["", "Next:", *(f"  {step}" for step in shown)]


def called() -> str:
    """``fx``, or the path of the running one where the shell would find another, or none."""
    running = Path(sys.argv[0])
    found = shutil.which("fx")
    if running.name != "fx" or (found is not None and Path(found).samefile(running)):
        return "fx"
    here = Path.cwd()
    running = running.absolute()
    return shlex.quote(str(running.relative_to(here) if running.is_relative_to(here) else running))


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
    if (given := supplied(file)) is not None:
        return _long_enough(given) if new else given
    if not sys.stdin.isatty():
        raise UserError(
            f"the CA's passphrase is needed, and nobody can be asked here. Set {PASSPHRASE}, or"
            " give --passphrase-file"
        )
    given = _checked(_asked(new), "the passphrase")
    return _long_enough(given) if new else given


def key_passphrase(file: Path | None) -> bytes | None:
    """The passphrase of an author's or owner's key, from a file or the environment; None: none."""
    if file is None and KEY_PASSPHRASE not in os.environ:
        return None
    return _given(file, KEY_PASSPHRASE)


def asked_passphrase(file: Path | None, what: str) -> bytes | None:
    """The passphrase of a key that turned out to be encrypted; asked where somebody can be.

    ``what`` says whose it is, for the question. None: nobody gave one.
    """
    given = key_passphrase(file)
    if given is None and sys.stdin.isatty():
        return getpass.getpass(f"Passphrase of {what}: ").encode()
    return given


def supplied(file: Path | None) -> bytes | None:
    """The CA's passphrase if a file or the environment has it; nobody is asked."""
    return _given(file, PASSPHRASE)


def _given(file: Path | None, variable: str) -> bytes | None:
    if file is not None:
        try:
            given = file.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", "") or "it is not text"
            raise UserError(f"{file} cannot be read ({reason}). Name another file") from error
        return _checked(given, str(file))
    if variable in os.environ:
        return _checked(os.environ[variable], variable)
    return None


def _long_enough(given: bytes) -> bytes:
    if len(given.decode()) < LEAST:
        raise UserError(
            f"a new passphrase has at least {LEAST} characters: who gets hold of the CA's files can"
            " try a great many. Choose several words that do not belong together"
        )
    return given


def _checked(given: str, source: str) -> bytes:
    if not given:
        raise UserError(f"{source} is empty. Choose a passphrase that nobody guesses")
    return given.encode()


def _asked(new: bool) -> str:
    first = getpass.getpass("Passphrase of the CA (new): " if new else "Passphrase of the CA: ")
    if new and getpass.getpass("Once more: ") != first:
        raise UserError("the two passphrases differ. Run this again")
    return first


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _shown(value: object) -> str:
    return when(value) if isinstance(value, datetime) else str(value)
