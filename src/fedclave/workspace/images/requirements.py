# SPDX-License-Identifier: Apache-2.0
"""``requirements.txt`` of a workspace: what is wanted, by name, and from which indexes.

    --extra-index-url https://download.pytorch.org/whl/cpu
    fedclave[torch]
    torch>=2.2

It is in pip's format, of which a lock can take only what holds everywhere: requirements by name
(PEP 508) and indexes that anybody may ask. An address or a path to a package is none of that, and
options that would let pip build one are refused, for building runs its code.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fedclave.errors import UserError
from fedclave.workspace.images import own, wheels

_REQUIREMENT = re.compile(
    r"(?P<name>[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?) *(\[(?P<extras>[^]]*)\])? *"
    r"(?P<range>\(?[<>=!~][^;@]*)?(?P<marker>;.*)?"
)
_FILE = re.compile(r".*\.(whl|zip|tar|tgz|tbz|txz|gz|bz2|xz)", re.IGNORECASE)
_INDEX = re.compile(r"(?P<option>-i|--index-url|--extra-index-url)(=| +)(?P<url>\S+)")
_URL = re.compile(r"https://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a file names. ``indexes`` are option lines of pip's, in their order."""

    lines: tuple[str, ...]  # requirements, but for fedclave
    extras: frozenset[str]  # of fedclave
    indexes: tuple[str, ...] = ()


def read(path: Path) -> Wanted:
    """The requirements in a file. ``UserError``, with its line: one that a lock cannot take."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read ({error}). Write one, with the line 'fedclave'"
        ) from error
    lines, extras, indexes = [], set[str](), []
    for number, line in logical(text):
        if line.startswith("-"):
            indexes.append(_index_or_refusal(path, number, line))
            continue
        match = _named(path, number, line)
        if wheels.normal(match["name"]) != own.NAME:
            lines.append(line)
        elif match["range"] or match["marker"]:
            raise UserError(
                f"{path}:{number}: {line[:60]!r}: the fedclave of an image is the one that makes"
                " it. Write 'fedclave', or 'fedclave[EXTRA]'"
            )
        else:
            extras |= {one.strip() for one in (match["extras"] or "").split(",")} - {""}
    return Wanted(lines=tuple(lines), extras=frozenset(extras), indexes=tuple(indexes))


def index(path: Path, number: int, line: str) -> str | None:
    """An option that names an index, as it is written in a lock; None where it names none.

    ``UserError``: an address that not everybody can, or may, ask.
    """
    match = _INDEX.fullmatch(line)
    if match is None:
        return None
    if not _URL.fullmatch(match["url"]):
        raise UserError(
            f"{path}:{number}: {match['option']} takes https://HOST/PATH, without user, password or"
            " variable: the lock carries it to everybody. An index of this machine alone belongs"
            " into pip's own settings: PIP_EXTRA_INDEX_URL"
        )
    option = "--index-url" if match["option"] == "-i" else match["option"]
    return f"{option} {match['url']}"


def logical(text: str) -> Iterable[tuple[int, str]]:
    """The lines that say something, continued ones joined, each with its number."""
    held, start = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        bare = re.sub(r"(^|\s)#.*$", "", line).strip()
        start = start if held else number
        held += bare.removesuffix("\\").strip() + " "
        if bare.endswith("\\"):
            continue
        if held.strip():
            yield start, held.strip()
        held = ""
    if held.strip():
        yield start, held.strip()


def _index_or_refusal(path: Path, number: int, line: str) -> str:
    named = index(path, number, line)
    if named is None:
        raise UserError(
            f"{path}:{number}: {line.split()[0]!r}: of pip's options a lock takes --index-url and"
            " --extra-index-url alone. Write the requirements themselves, by name; what only this"
            " machine needs belongs into pip's own settings (PIP_FIND_LINKS, ...)"
        )
    return named


def _named(path: Path, number: int, line: str) -> re.Match[str]:
    match = _REQUIREMENT.fullmatch(re.sub(r"\s+", " ", line))
    if match is None or _FILE.fullmatch(match["name"]) or " --" in (match["range"] or ""):
        raise UserError(
            f"{path}:{number}: {line[:60]!r} is not a requirement by name, such as 'numpy>=1.23'."
            " A lock names wheels of an index, with hashes of its own: no addresses, no paths"
        )
    return match
