# SPDX-License-Identifier: Apache-2.0
"""The two local lists of a workspace: who may take part, and where local data lies.

    plan/cols.yaml   collaborators: [alice, bob]   on the aggregator; read again when it changes
    plan/data.yaml   alice: data/alice.npz         at a party; relative to the workspace, or not

Neither is part of the plan or of its digest, and neither is exported.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from fedclave import yamlfile
from fedclave.errors import PlanError, Problem, UserError
from fedclave.plan import NAME
from fedclave.tensors import sync_folder
from fedclave.workspace.layout import Workspace

_COLS = "# The members that the aggregator admits. Read again when it changes.\n"
_DATA = "# Where the data of the members on this machine lies. Stays here.\n"


def members(workspace: Workspace) -> tuple[str, ...]:
    """The authorised members, sorted. Without the file, nobody. Raises ``PlanError``."""
    document = _read(workspace.members)
    if document is None:
        return ()
    value = document.value
    if not isinstance(value, dict) or set(value) != {"collaborators"}:
        raise _problem(document, (), "the file must have the one key 'collaborators'")
    listed = value["collaborators"] or []
    if not isinstance(listed, list):
        raise _problem(document, ("collaborators",), "expected a list of names")
    for at, name in enumerate(listed):
        path = ("collaborators", at)
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise _problem(document, path, f"{name!r} cannot be a member's name")
        if name in listed[:at]:
            raise _problem(document, path, f"{name!r} is listed twice")
    return tuple(sorted(listed))


def set_members(workspace: Workspace, names: Iterable[str]) -> None:
    """Write the list of members, atomically."""
    value = {"collaborators": sorted({_name(name) for name in names})}
    _write(workspace.members, _COLS, value)


def add_member(workspace: Workspace, name: str) -> None:
    """Put a name on the list of members; it may be there already."""
    set_members(workspace, {*members(workspace), name})


def remove_member(workspace: Workspace, name: str) -> None:
    """Take a name off the list. Raises ``UserError`` if it is not there."""
    listed = members(workspace)
    if name not in listed:
        raise UserError(f"{name!r} is not a member. Members: {', '.join(listed) or 'none'}")
    set_members(workspace, set(listed) - {name})


class LiveMembers:
    """The members as the file says now, told by its content: in an enclave no file has a time."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._seen: bytes | None = None
        self._names: frozenset[str] = frozenset()

    def __call__(self) -> frozenset[str]:
        """The names. A file that cannot be read raises ``PlanError``, each time: nobody gets in."""
        content = self._content()
        if content != self._seen:
            self._names = frozenset(members(self._workspace))
            self._seen = content
        return self._names

    def _content(self) -> bytes:
        try:
            return self._workspace.members.read_bytes()
        except (FileNotFoundError, IsADirectoryError):
            return b""


def data_paths(workspace: Workspace) -> dict[str, Path]:
    """Where the data of each local member lies, as absolute paths. Raises ``PlanError``."""
    document = _read(workspace.data_paths)
    if document is None:
        return {}
    if not isinstance(document.value, dict):
        raise _problem(document, (), "expected lines of NAME: PATH")
    paths = {}
    for name, path in document.value.items():
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise _problem(document, (str(name),), f"{name!r} cannot be a member's name")
        if not isinstance(path, str) or not path:
            raise _problem(document, (name,), f"expected a path, got {path!r}")
        paths[name] = _absolute(workspace, path)
    return paths


def data_path(workspace: Workspace, name: str) -> Path:
    """Where one member's data lies. Raises ``UserError`` if nothing says so or is there."""
    path = data_paths(workspace).get(name)
    if path is None:
        raise UserError(
            f"{workspace.data_paths} names no data for {name!r}. Run 'fx collaborator create"
            f" -n {name} -d PATH', or add the line '{name}: PATH'"
        )
    if not path.exists():
        raise UserError(f"the data of {name!r} is not at {path}. Correct {workspace.data_paths}")
    return path


def set_data_path(workspace: Workspace, name: str, path: Path) -> None:
    """Note where a member's data lies, atomically; a path within the workspace stays relative."""
    known = {n: _shown(workspace, p) for n, p in data_paths(workspace).items()}
    known[_name(name)] = _shown(workspace, path)
    _write(workspace.data_paths, _DATA, known)


class _Dumper(yaml.SafeDumper):
    """``yaml.SafeDumper`` that quotes what begins with a digit.

    To PyYAML ``1e5`` is a word; to YAML 1.2, and so to our reader, it is a number.
    """


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style='"' if text[:1].isdigit() else None
    ),
)


def _absolute(workspace: Workspace, path: str | Path) -> Path:
    return workspace.own.absolute() / path


def _shown(workspace: Workspace, path: Path) -> str:
    root = workspace.own.absolute()
    whole = root / path
    return str(whole.relative_to(root) if whole.is_relative_to(root) else whole)


def _name(name: str) -> str:
    if not NAME.fullmatch(name):
        allowed = "letters, digits, '.', '-' and '_'; up to 64 of them"
        raise UserError(f"{name!r} cannot be a member's name. A name has {allowed}")
    return name


def _read(path: Path) -> yamlfile.Document | None:
    if not path.is_file():
        return None
    return yamlfile.parse(path.read_text(encoding="utf-8"), str(path))


def _write(path: Path, heading: str, value: Mapping[str, Any]) -> None:
    text = heading + yaml.dump(dict(value), Dumper=_Dumper, allow_unicode=True, sort_keys=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def _problem(document: yamlfile.Document, at: yamlfile.Path, reason: str) -> PlanError:
    path = ".".join(map(str, at))
    line = document.line(at)
    return PlanError([Problem(file=document.file, line=line, path=path, reason=reason)])
