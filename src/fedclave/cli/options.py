# SPDX-License-Identifier: Apache-2.0
"""Options that many commands have, and how a command is made of a function."""

import inspect
import re
from collections.abc import Callable
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from fedclave.errors import UserError

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
SigningKey = Annotated[
    Path | None,
    typer.Option(
        "--key", metavar="FILE", help="The key to sign with.", show_default="this party's, in cert/"
    ),
]
KeyPassphraseFile = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        metavar="FILE",
        help="Read the key's passphrase from a file. Without it: FX_KEY_PASSPHRASE, or none.",
    ),
]
RequestFile = Annotated[
    Path | None,
    typer.Option(
        "--request",
        "-r",
        metavar="FILE",
        help="At the CA: the request to sign.",
        show_default="cert/NAME.csr",
    ),
]
AnswerFile = Annotated[
    Path | None,
    typer.Option("--import", "-i", metavar="FILE", help="At the party: the CA's answer."),
]


def listen_at(default: str) -> Any:
    """The option of a server: where it listens."""
    return typer.Option(
        "--listen",
        metavar="HOST:PORT",
        help="Where to listen; port 0 is any free one.",
        callback=address,
        show_default=default,
    )


def new_folder(default: str) -> Any:
    """The option of what makes a folder: which."""
    return typer.Option(
        "--into", metavar="DIR", help="A new or empty folder.", show_default=default
    )


def whole(least: int, most: int, remedy: str = "") -> Callable[[str | int], int]:
    """Reads a whole number within bounds; ``remedy`` says how to find one."""

    def parse(given: str | int) -> int:  # a default comes as it is
        text = str(given)
        if not re.fullmatch(r"[+-]?[0-9]{1,20}", text) or not least <= int(text) <= most:
            problem = f"{text!r} is not a whole number from {least} to {most}."
            raise typer.BadParameter(f"{problem} {remedy}".strip())
        return int(text)

    return parse


def number(flag: str, least: int, most: int, help: str) -> Any:
    """The option of a whole number within bounds."""
    return typer.Option(flag, parser=whole(least, most), metavar="N", help=help)


def noun(name: str, summary: str) -> typer.Typer:
    """The commands ``fx NAME ...``."""
    return typer.Typer(name=name, help=summary, no_args_is_help=True, rich_markup_mode=None)


def command(app: typer.Typer, name: str, *examples: str) -> Callable[[F], F]:
    """Make ``fx ... NAME`` of a function; its help is the docstring, then the examples."""

    def made(function: F) -> F:
        shown = "".join(f"\n    {example}" for example in examples)
        text = f"{inspect.getdoc(function)}\n\n\b\nExample:{shown}"  # \b: click must not wrap it
        summary = (inspect.getdoc(function) or "").split("\n\n")[0].replace("\n", " ")
        app.command(name, help=text, short_help=summary)(function)
        return function

    return made


def is_address(text: str) -> bool:
    """Whether a text has the form ``HOST:PORT``."""
    try:
        return address(text) is not None
    except typer.BadParameter:
        return False


def address(text: str | None) -> str | None:
    """An option's ``HOST:PORT``, as it is. Port 0 is any free one.

    >>> address("localhost:0"), address("[::1]:8443")
    ('localhost:0', '[::1]:8443')
    """
    form = r"([^\s:/\[\]]+|\[[0-9a-fA-F:]+\]):([0-9]{1,5})"
    if text is not None and (not (match := re.fullmatch(form, text)) or int(match[2]) > 65535):
        raise typer.BadParameter(f"{text!r} is not HOST:PORT. Write for example localhost:8443.")
    return text


def collaborator(text: str) -> str:
    """An option's name for a collaborator, if one may have it."""
    from fedclave.trust.pki import check_party

    try:
        check_party("collaborator", text)
    except UserError as error:
        raise typer.BadParameter(f"{error}.") from error
    return text


def optional_collaborator(text: str | None) -> str | None:
    """The same, where it may be left out."""
    return None if text is None else collaborator(text)


def host(given: list[str] | None) -> list[str] | None:
    """An option's names or IP addresses of a server."""
    for text in given or ():
        try:
            ip_address(text)
        except ValueError:
            if not re.fullmatch(r"(?=.{1,253}$)[0-9A-Za-z_-]{1,63}(\.[0-9A-Za-z_-]{1,63})*", text):
                raise typer.BadParameter(
                    f"{text!r} is no host name or IP address. Write it without port and scheme."
                ) from None
    return given


def duration(given: str | timedelta) -> timedelta:
    """A span of time as ``90m``, ``24h`` or ``7d``.

    >>> duration("36h")
    datetime.timedelta(days=1, seconds=43200)
    """
    if isinstance(given, timedelta):  # a default
        return given
    match = re.fullmatch(r"([0-9]{1,5})([mhd])", given)
    if match is None or not int(match[1]):
        raise typer.BadParameter(f"{given!r} is no span of time. Write for example 90m, 24h or 7d.")
    unit = {"m": "minutes", "h": "hours", "d": "days"}[match[2]]
    return timedelta(**{unit: int(match[1])})


AllowSimulated = Annotated[
    bool,
    typer.Option(
        "--allow-simulated",
        help="Bear with a simulated TEE, where the policy names its root. It protects nobody.",
    ),
]

Inside = Annotated[
    bool,
    typer.Option(
        "--inside",
        help="Do as in an enclave: start no other process, and take the folder for temporary files"
        " for memory where the system has no other.",
    ),
]

ReleaseListen = Annotated[
    str,
    typer.Option(
        "--release-listen",
        metavar="HOST:PORT",
        help="Where to wait for what its owner releases, if something is sealed.",
        callback=address,
    ),
]
KeepUpdates = Annotated[
    Path | None,
    typer.Option(
        "--keep-updates",
        metavar="DIR",
        help="Keep each update there, so that rounds can be computed again.",
        show_default="none is kept",
    ),
]
SealState = Annotated[
    bool,
    typer.Option(
        "--seal-state",
        help="Keep models, updates and journals encrypted, with the key cert/vault.key.",
    ),
]
LISTEN_HERE = "127.0.0.1:0"

Member = Annotated[
    str,
    typer.Option(
        "--name", "-n", metavar="NAME", help="The collaborator's name.", callback=collaborator
    ),
]
