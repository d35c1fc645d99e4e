# SPDX-License-Identifier: Apache-2.0
"""YAML with line numbers, for files that people write. Safe tags only, no aliases, no duplicates.

Plain scalars follow the core schema of YAML 1.2.2 (10.3.2): ``on``, ``off``, ``yes`` and ``no`` are
words, ``1e-5`` is a number. PyYAML's own default, YAML 1.1, reads the key ``on`` as ``True``.
"""

import re
from dataclasses import dataclass
from typing import Any

import yaml

from fedclave.errors import PlanError, Problem

MAX_SIZE = 2**20  # characters
Path = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """``yaml.SafeLoader`` with the plain scalars of YAML 1.2; the safe tags, no others."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML's own hook, one table for the class


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
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


@dataclass(frozen=True)
class Document:
    """A parsed file: its value, and the line on which each part of it stands."""

    file: str
    value: Any
    lines: dict[Path, int]

    def line(self, at: Path) -> int:
        """The line of a part, or of the nearest part around it."""
        while at not in self.lines:
            at = at[:-1]
        return self.lines[at]

    def has(self, part: str | int) -> bool:
        """Whether a validator's location part is one of the file's own (unions add others)."""
        return isinstance(part, int) or "[" not in part


def parse(text: str, file: str) -> Document:
    """Parse one YAML document. Raises ``PlanError`` with the line of the first mistake."""
    if len(text) > MAX_SIZE:
        raise _error(file, 1, "", f"the file is longer than {MAX_SIZE} characters", "")
    loader = _Loader(text)
    try:
        _refuse_aliases(text, file)
        node = loader.get_single_node()
        if node is None:
            raise _error(file, 1, "", "the file is empty", "")
        lines: dict[Path, int] = {}
        _walk(node, (), lines, file)
        return Document(file, loader.construct_document(node), lines)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = f"not YAML: {getattr(error, 'problem', None) or error}"
        raise _error(file, mark.line + 1 if mark else 1, "", reason, "") from error
    except (ValueError, RecursionError) as error:  # an impossible date, a tower of brackets
        raise _error(file, 1, "", f"not YAML: {error}", "") from error
    finally:
        loader.dispose()


def _refuse_aliases(text: str, file: str) -> None:
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            remedy = "Write the value out: aliases can grow a small file without bound."
            raise _error(file, _line(event.start_mark), "", "YAML aliases are refused", remedy)


def _walk(node: yaml.Node, at: Path, lines: dict[Path, int], file: str) -> None:
    lines[at] = _line(node.start_mark)
    if isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            _walk(child, (*at, index), lines, file)
    elif isinstance(node, yaml.MappingNode):
        for key, child in node.value:
            path = (*at, str(key.value))
            line = _line(key.start_mark)
            if path in lines:
                dotted = ".".join(map(str, path))
                first = f"It stands on line {lines[path]} too; keep one."
                raise _error(file, line, dotted, "duplicate key", first)
            _walk(child, path, lines, file)
            lines[path] = line


def _line(mark: Any) -> int:
    return int(mark.line) + 1


def _error(file: str, line: int, path: str, reason: str, remedy: str) -> PlanError:
    return PlanError([Problem(file=file, line=line, path=path, reason=reason, remedy=remedy)])
