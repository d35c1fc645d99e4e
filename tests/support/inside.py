# SPDX-License-Identifier: Apache-2.0
"""A federation as its images have it, observed: what each process opens, starts and reads.

An image's tree is made here of the installed packages, by their RECORDs and pruned as an image's
are, with links to this machine's Python and its standard library. ``Declared`` is what an image's
manifest would list of it.
"""

import ast
import csv
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from tests.support import inside_lists

import fedclave
from fedclave.trust import measure
from fedclave.workspace.gramine import closure as closures
from fedclave.workspace.images import content, prune, tree, wheels
from fedclave.workspace.images.tree import Link, Node
from fedclave.workspace.layout import Workspace

SOURCES = Path(__file__).with_name("trace")
STDLIB = Path(sysconfig.get_path("stdlib"))
CANNOT = 126  # exit status of the tracer where nothing can be observed
ROOTS = ("fedclave", "dcap-qvl", "cbor2")
"""What the lock of a workspace with numpy and attestation begins from."""

TEMPORARY = "/tmp"
NOTES = frozenset({"LD_PRELOAD", "TRACE_NAMES", "TRACE_NOTES"})
"""Environment variables of the observation itself."""


@dataclass(frozen=True, kw_only=True)
class Tools:
    """The tracer and the library of ``trace``, compiled."""

    trace: Path
    names: Path


def tools(folder: Path) -> Tools:
    """Compile them. Skips the test where that, or observing, cannot be done."""
    compiler = shutil.which("cc")
    if compiler is None or os.uname().machine != "x86_64" or sys.platform != "linux":
        pytest.skip("observing needs Linux on x86-64 and a C compiler (cc)")
    made = Tools(trace=folder / "trace", names=folder / "names.so")
    strict = [compiler, "-std=c11", "-O2", "-Wall", "-Wextra"]
    subprocess.run([*strict, "-o", made.trace, SOURCES / "trace.c"], check=True)
    shared = ["-shared", "-fPIC", "-o", made.names, SOURCES / "names.c"]
    subprocess.run([*strict, *shared], check=True)
    tried = subprocess.run([made.trace, folder / "tried", "true"], capture_output=True, text=True)
    if tried.returncode == CANNOT:
        pytest.skip(f"processes cannot be observed here: {tried.stderr.strip()}")
    return made


@dataclass(frozen=True, kw_only=True)
class Image:
    """The tree of an image, below ``folder`` instead of ``/``; ``files`` are those it was given."""

    folder: Path
    files: frozenset[str] = frozenset()

    @property
    def prefix(self) -> Path:
        """Where /opt/fedclave is."""
        return self.folder / content.PREFIX.strip("/")

    @property
    def workspace(self) -> Path:
        """Where /workspace is."""
        return self.folder / content.WORKSPACE.strip("/")

    @classmethod
    def make(cls, folder: Path, workspace: Workspace, names: Iterable[str]) -> "Image":
        """An image of a workspace, whose contract has these names."""
        made = cls(folder=folder)
        packages = made.prefix / f"lib/python{sys.version_info.major}.{sys.version_info.minor}"
        packages /= "site-packages"
        for path, source in installed(ROOTS).items():
            target = packages / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        (made.prefix / "bin").mkdir(parents=True)
        real = Path(sys.executable).resolve()
        (made.prefix / "bin/python").symlink_to(real)
        home = f"home = {real.parent}\ninclude-system-site-packages = false\n"
        (made.prefix / "pyvenv.cfg").write_text(home)
        for path, node in content.workspace_files(workspace, names).items():
            if isinstance(node, tree.File):
                target = folder / path.strip("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(tree.content(node))
        files = frozenset(str(path) for path in folder.rglob("*") if path.is_file())
        return cls(folder=folder, files=files)

    def command(self, state: Path, *role: str) -> list[str]:
        """How a role starts in an image, but for two things.

        No compiled modules are read: the simulated TEE measures sources. And ``observed.py`` runs
        ``fedclave.cli.main``.
        """
        start = [*content.START]
        start[start.index("-X") + 1] = f"pycache_prefix={os.devnull}"
        at = start.index("-m")
        start[at : at + 2] = ["-c", (SOURCES / "observed.py").read_text()]
        start[start.index("--state") + 1] = str(state)
        return [str(self.prefix / "bin/python"), *start, *role]


def installed(roots: Iterable[str]) -> dict[str, Path]:
    """The files of packages and of all that they require, by their path in site-packages, pruned;
    fedclave is always among them.
    """
    found: dict[str, Path] = {}
    for name in sorted(_closure(roots)):
        if name == "fedclave":
            continue
        distribution = metadata.distribution(name)
        rows = csv.reader((distribution.read_text("RECORD") or "").splitlines())
        for path in (row[0] for row in rows):
            where = Path(str(distribution.locate_file(path)))
            if not path.startswith("..") and where.is_file():
                found[path] = where
    files = {path: tree.of_path(where) for path, where in found.items()}
    kept = {path: found[path] for path in prune.packages(files).files}
    own = Path(fedclave.__file__).parent
    measured = measure.measure({"fedclave": own}, "0" * 64).files
    return kept | {path: own.parent / path for path in measured}


def _closure(names: Iterable[str]) -> set[str]:
    """Distributions and what they require, with no extras."""
    found: set[str] = set()
    left = [*names]
    while left:
        name = wheels.normal(left.pop())
        if name in found:
            continue
        try:
            requires = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # for another system or Python
        found.add(name)
        needed = [one for one in requires if "extra ==" not in one]
        left += [re.match(r"[\w.-]+", one)[0] for one in needed]  # type: ignore[index]
    return found


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What was seen of one process that the tracer started, and of those that it started."""

    calls: tuple[dict[str, Any], ...]
    names: frozenset[str]  # environment variables, by C code and by Python code
    early: frozenset[str]  # modules at the first network address
    late: frozenset[str]  # modules at the end

    @property
    def process(self) -> int:
        """The process itself."""
        return int(self.calls[0]["process"])

    def others(self) -> list[list[str]]:
        """The command lines of the processes that came of it; empty for one that stayed a copy."""
        return [self._ran(call["child"]) for call in self.calls if call["call"] == "process"]

    def started(self) -> list[list[str]]:
        """The programs that the process itself became, after its first."""
        own = [call for call in self.own() if call["call"] == "start"]
        return [call["argv"] for call in own[1:]]

    def threads(self) -> int:
        """How many threads the process had when it had most."""
        return max(call["threads"] for call in self.own() if call["call"] == "thread")

    def own(self) -> Iterator[dict[str, Any]]:
        """The calls of the process itself."""
        return (call for call in self.calls if call["process"] == self.process)

    def opened(self) -> Iterator[tuple[str, int]]:
        """The files that the process opened, as links lead, and with which flags; no folders."""
        for call in self.own():
            if call["call"] != "open" or call["result"] < 0 or call["flags"] & os.O_DIRECTORY:
                continue
            if not Path(call["real"]).is_dir():
                yield call["real"], call["flags"]

    def changed(self) -> Iterator[str]:
        """The paths that it tried to write, make, rename or remove."""
        for call in self.own():
            if call["call"] == "open":
                if call["flags"] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
                    yield call.get("real", call["path"])
            elif call["call"] not in ("start", "process", "thread", "connect"):
                yield call["path"]
                if "to" in call:
                    yield call["to"]

    def _ran(self, child: int) -> list[str]:
        lines = [c["argv"] for c in self.calls if c["process"] == child and c["call"] == "start"]
        return lines[-1] if lines else []


@dataclass(frozen=True, kw_only=True)
class Watch:
    """Starts processes so that they are observed, with an image's environment."""

    tools: Tools
    folder: Path

    def command(self, name: str, command: list[str]) -> list[str]:
        """The command line under the tracer."""
        notes = self.notes(name)
        notes.mkdir(parents=True)
        variables = {
            **inside_lists.SET,
            "LD_PRELOAD": str(self.tools.names),
            "TRACE_NAMES": str(notes / "c"),
            "TRACE_NOTES": str(notes),
        }
        assigned = [f"{key}={value}" for key, value in variables.items()]
        return [str(self.tools.trace), str(notes / "calls"), "env", "-i", *assigned, *command]

    def notes(self, name: str) -> Path:
        """Where the notes of a process lie."""
        return self.folder / name

    def seen(self, name: str) -> Seen:
        """What was seen, once it has ended."""
        notes = self.notes(name)
        lines = (notes / "calls").read_bytes().splitlines()
        calls = tuple(_bytes_meant(json.loads(line)) for line in lines)
        own = (f"{notes}/", str(self.tools.names))  # the observation's
        calls = calls[_index_of_program(calls) :]
        calls = tuple(call for call in calls if not call.get("path", "").startswith(own))
        pid = calls[0]["process"]

        def lines_of(file: str) -> frozenset[str]:
            path = notes / file
            return frozenset(path.read_text().splitlines() if path.exists() else ())

        by_c = {line.partition(" ")[::2] for line in lines_of("c")}
        return Seen(
            calls=calls,
            names=lines_of(f"python-{pid}") | {n for number, n in by_c if number == str(pid)},
            early=lines_of(f"early-{pid}"),
            late=lines_of(f"late-{pid}"),
        )


def _index_of_program(calls: tuple[dict[str, Any], ...]) -> int:
    """Where the program itself starts: the second one, after env."""
    starts = [index for index, call in enumerate(calls) if call["call"] == "start"]
    return starts[1]


def _bytes_meant(call: dict[str, Any]) -> dict[str, Any]:
    return {
        key: os.fsdecode(value.encode("latin-1")) if isinstance(value, str) else value
        for key, value in call.items()
    }


@dataclass(frozen=True, kw_only=True)
class Declared:
    """What the manifest of an image's role lists: its trusted files, and its environment."""

    image: Image
    state: Path

    @cached_property
    def libraries(self) -> frozenset[str]:
        """The interpreter and the libraries of all that is loaded, as an enclave's are found."""
        interpreter = os.path.realpath(sys.executable)
        own = [*self.image.files, *map(str, (STDLIB / "lib-dynload").glob("*.so"))]
        files: dict[str, Node] = {path: tree.of_path(Path(path)) for path in own}
        programs = {interpreter: tree.of_path(Path(interpreter)), **closures.elves(files)}
        found = closures.closure({**_machine(), **files}, programs, frozenset())
        return frozenset(os.path.realpath(path) for path in (*found.files, interpreter))

    @cached_property
    def trusted(self) -> frozenset[str]:
        """The files that are measured: of the image, the standard library, and the libraries."""
        stdlib = {str(path) for path in STDLIB.rglob("*") if path.is_file()}
        kept = {path for path in stdlib if prune.is_of_stdlib(path.removeprefix(f"{STDLIB}/"))}
        return frozenset(map(os.path.realpath, self.image.files | kept)) | self.libraries

    def unlisted(self, seen: Seen) -> set[str]:
        """The files that a process read, and no list has."""
        return {
            path
            for path, _ in seen.opened()
            if path not in self.trusted
            and not self.is_its_own(path)
            and _machine_wide(path, seen.process) not in inside_lists.FILES
        }

    def outside(self, seen: Seen) -> set[str]:
        """What a process tried to write, make, rename or remove where it has no business."""
        return {path for path in seen.changed() if not self.is_its_own(path)}

    def is_its_own(self, path: str) -> bool:
        """Whether a path is in the party's own folder, or a temporary one: /state, /tmp."""
        if path.startswith(f"{self.state}/"):
            return True
        return path.startswith(f"{TEMPORARY}/") and not path.startswith(
            f"{self.image.folder.parent}/"
        )

    def strange(self, seen: Seen) -> set[str]:
        """The environment variables that a process read, and no list has."""
        return set(seen.names) - inside_lists.SET.keys() - inside_lists.UNSET.keys() - NOTES


def _machine() -> dict[str, Node]:
    """The libraries of this machine, and the links among them."""
    found: dict[str, Node] = {}
    for folder in map(Path, (*closures.FOLDERS, sysconfig.get_config_var("LIBDIR"))):
        if folder.is_symlink():
            found[str(folder)] = Link(target=str(folder.readlink()))
        for path in folder.resolve().glob("*.so*"):
            if path.is_symlink():
                found[str(path)] = Link(target=str(path.readlink()))
            elif path.is_file():
                found[str(path)] = tree.of_path(path)
    return found


def quoting(image: Image, command: list[str]) -> bool:
    """Whether a command line is that of the simulated TEE's quoting service.

    An enclave has no such process, nor has it this TEE: its quotes come from /dev/attestation.
    """
    own = [str(image.prefix / "bin/python"), "-P", "-m", "fedclave.trust.quoting"]
    return command[: len(own)] == own


def imported_in_functions(module: str) -> set[str]:
    """The modules that the functions of a module of fedclave import."""
    source = Path(str(importlib.util.find_spec(module).origin))  # type: ignore[union-attr]
    parsed = ast.parse(source.read_text(encoding="utf-8"))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    inner = [n for f in ast.walk(parsed) if isinstance(f, functions) for n in ast.walk(f)]
    found = {one.name for node in inner if isinstance(node, ast.Import) for one in node.names}
    for node in inner:
        if isinstance(node, ast.ImportFrom):
            found |= {_module(str(node.module), one.name) for one in node.names}
    return found


def _module(package: str, name: str) -> str:
    """The module that ``from package import name`` loads."""
    try:
        is_module = importlib.util.find_spec(f"{package}.{name}") is not None
    except ModuleNotFoundError:  # the package is a module
        is_module = False
    return f"{package}.{name}" if is_module else package


def _machine_wide(path: str, process: int) -> str:
    return re.sub(f"^/proc/{process}/(task/[0-9]+/)?", "/proc/self/", path)
