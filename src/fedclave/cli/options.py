# SPDX-License-Identifier: Apache-2.0
"""Options that many commands have, and how a command is made of a function."""

import inspect
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Annotated, TypeVar

import typer

F = TypeVar("F", bound=Callable[..., None])

WorkspaceDir = Annotated[
    Path,
    typer.Option(
        "--workspace", "-C", metavar="DIR", help="The workspace.", show_default="this folder"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, nothing else.")]
JsonLines = Annotated[
    bool, typer.Option("--json", help="Print one JSON object a line for each event, nothing else.")
]
Yes = Annotated[
    bool,
    typer.Option(
        "--yes", "-y", "--silent", "-s", help="The fingerprint was compared: ask nothing."
    ),
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        metavar="FILE",
        help="Read the CA's passphrase from a file. Without it: FX_CA_PASSPHRASE, or a question.",
    ),
]
Member = Annotated[
    str, typer.Option("--name", "-n", metavar="NAME", help="The collaborator's name.")
]


def noun(name: str, summary: str) -> typer.Typer:
    """The commands ``fx NAME ...``."""
    return typer.Typer(name=name, help=summary, no_args_is_help=True, rich_markup_mode=None)


def command(app: typer.Typer, name: str, *examples: str) -> Callable[[F], F]:
    """Make ``fx ... NAME`` of a function; its help is the docstring, then the examples."""

    def made(function: F) -> F:
        shown = "".join(f"\n    {example}" for example in examples)
        text = f"{inspect.getdoc(function)}\n\n\b\nExample:{shown}"  # \b: click must not wrap it
        app.command(name, help=text)(function)
        return function

    return made


def address(text: str | None) -> str | None:
    """An option's ``HOST:PORT``, as it is. Port 0 is any free one.

    >>> address("localhost:0"), address("[::1]:8443")
    ('localhost:0', '[::1]:8443')
    """
    form = r"([^\s:/\[\]]+|\[[0-9a-fA-F:]+\]):([0-9]{1,5})"
    if text is not None and (not (match := re.fullmatch(form, text)) or int(match[2]) > 65535):
        raise typer.BadParameter(f"{text!r} is not HOST:PORT. Write for example localhost:8443.")
    return text


def duration(text: str) -> timedelta:
    """A span of time as ``90m``, ``24h`` or ``7d``.

    >>> duration("36h")
    datetime.timedelta(days=1, seconds=43200)
    """
    match = re.fullmatch(r"([0-9]{1,5})([mhd])", text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is no span of time. Write for example 90m, 24h or 7d.")
    unit = {"m": "minutes", "h": "hours", "d": "days"}[match[2]]
    return timedelta(**{unit: int(match[1])})
