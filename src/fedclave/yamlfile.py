# SPDX-License-Identifier: Apache-2.0
"""YAML with line numbers, for files that people write. No tags, no aliases, no duplicate keys.

Every key is a string. Plain scalars follow the core schema of YAML 1.2.2 (10.3.2): ``on``, ``off``,
``yes`` and ``no`` are words, ``1e-5`` is a number. PyYAML's own default, YAML 1.1, reads the key
``on`` as ``True``.
"""

import pathlib
import re
from dataclasses import dataclass
from typing import Any

import yaml

from fedclave.errors import PlanError, Problem

MAX_SIZE = 2**20  # characters
MAX_DEPTH = 64  # lists and mappings within each other
Path = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """``yaml.SafeLoader`` with the plain scalars of YAML 1.2."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML's own hook, one table for the class

    def construct_integer(self, node: yaml.ScalarNode) -> int:
        """An int of the core schema: ``010`` is ten, ``0o10`` is eight. YAML 1.1 said otherwise."""
        base = {"0o": 8, "0x": 16}.get(node.value[:2], 10)
        return int(node.value, base)


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]{1,4000}|0o[0-7]{1,20}|0x[0-9a-fA-F]{1,16}", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+0123456789.",
    ),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first)
    )
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_integer)


@dataclass(frozen=True)
class Document:
    """A parsed file: its value, and the line on which each part of it stands."""

    file: str
    value: Any
    lines: dict[Path, int]

    def line(self, at: Path) -> int:
        """The line of a part, or of the nearest part around it."""
        return self.lines[self.within(at)]

    def within(self, at: Path) -> Path:
        """The longest beginning of a validator's location that stands in the file."""
        while at not in self.lines:
            at = at[:-1]
        return at


def read(path: pathlib.Path) -> str:
    """The text of a file that somebody wrote. Raises ``PlanError`` where it cannot be read."""
    try:
        data = path.read_bytes()
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        reason = f"byte 0x{data[error.start]:02x} is not UTF-8"
        raise _error(str(path), line, "", reason, "Save the file as UTF-8.") from error
    except FileNotFoundError as error:
        raise _error(str(path), 0, "", "no such file", "Make it, or name another.") from error
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
        raise _error(str(path), 0, "", reason, "Change its mode, or name another.") from error


def parse(text: str, file: str) -> Document:
    """Parse one YAML document. Raises ``PlanError`` with the line of the first mistake."""
    if len(text) > MAX_SIZE:
        reason = f"the file is longer than {MAX_SIZE} characters"
        raise _error(file, 1, "", reason, "Shorten it.")
    try:
        _refuse_hazards(text, file)
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            raise _error(file, 1, "", "the file is empty", "Write KEY: VALUE lines.")
        lines: dict[Path, int] = {}
        _walk(node, (), lines, file)
        return Document(file, loader.construct_document(node), lines)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        reason = f"not YAML: character {chr(error.character)!r} is not allowed"
        raise _error(file, line, "", reason, "Remove it.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = f"not YAML: {getattr(error, 'problem', None) or error}"
        remedy = "Correct this line, or the one before it."
        if "'\\t'" in reason:
            remedy = "Indent with spaces, not tabs."
        raise _error(file, mark.line + 1 if mark else 1, "", reason, remedy) from error


def dotted(at: Path) -> str:
    """A part's place as people write it.

    >>> dotted(("assignment", "groups", 0, "tasks"))
    'assignment.groups[0].tasks'
    """
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in at).lstrip(".")


def _refuse_hazards(text: str, file: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        line = _line(event.start_mark)
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:  # not left to Python's limit: whoever calls may have raised it
            raise _error(file, line, "", "nested too deeply", "Write it flatter.")
        if isinstance(event, yaml.AliasEvent):
            remedy = "Write the value out: aliases can grow a small file without bound."
            raise _error(file, line, "", "YAML aliases are refused", remedy)
        if (tag := getattr(event, "tag", None)) is not None:
            remedy = "Leave the tag out; quotes make a value text."
            raise _error(file, line, "", f"YAML tags are refused, here {tag!r}", remedy)
        value = getattr(event, "value", "")
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            raise _error(file, line, "", f"{value!r} has half of a surrogate pair", "Remove it.")


def _walk(node: yaml.Node, at: Path, lines: dict[Path, int], file: str) -> None:
    lines[at] = _line(node.start_mark)
    if isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            _walk(child, (*at, index), lines, file)
    elif isinstance(node, yaml.MappingNode):
        for key, child in node.value:
            path = (*at, str(key.value))
            line = _line(key.start_mark)
            if key.tag != "tag:yaml.org,2002:str":
                shown = repr(key.value) if isinstance(key, yaml.ScalarNode) else "that is a list"
                reason = f"the key {shown} is not text"
                raise _error(file, line, dotted(at), reason, "Write it in quotes.")
            if path in lines:
                first = f"It stands on line {lines[path]} too; keep one."
                raise _error(file, line, dotted(path), "duplicate key", first)
            _walk(child, path, lines, file)
            lines[path] = line


def _line(mark: Any) -> int:
    return int(mark.line) + 1


def _error(file: str, line: int, path: str, reason: str, remedy: str) -> PlanError:
    return PlanError([Problem(file=file, line=line, path=path, reason=reason, remedy=remedy)])
