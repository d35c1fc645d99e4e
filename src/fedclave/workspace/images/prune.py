# SPDX-License-Identifier: Apache-2.0
"""What no run needs of an image's files: the fewer are measured, the faster an enclave starts.

Only by path, never by what some run happened to import: an import that one machine does not make,
another does.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from fedclave.workspace.images.tree import File

PACKAGES = {
    "tests": re.compile(r".*/((tests|test)/.*|conftest\.py)"),
    "headers": re.compile(r".*/include/.*|.*\.(h|hpp|hh|cuh|pxd|pxi|pyx|c|cc|cpp|cu)"),
    "static libraries": re.compile(r".*\.(a|lib|la)"),
    "build files": re.compile(r".*/share/(cmake|doc|man|info|pkgconfig)/.*|.*\.cmake"),
    "stubs of types": re.compile(r".*\.pyi|.*/py\.typed"),
    "programs of torch": re.compile(r".*/torch/bin/(?!torch_shm_manager$).*"),
    "libraries of torch's tests": re.compile(
        r".*/torch/lib/lib(torchbind_test|jitbackend_test|backend_with_compiler|aoti_custom_ops)\.so"
    ),
    "programs of Windows": re.compile(r".*\.exe"),
    "compiled for another date": re.compile(r".*/__pycache__/.*|.*\.py[co]"),
}
"""Of wheels, by reason."""

_STDLIB = re.compile(
    r"(test|idlelib|tkinter|turtledemo|lib2to3|ensurepip|venv|pydoc_data|site-packages"
    r"|dist-packages|config-[^/]*|__pycache__)/.*|.*/(tests?|__pycache__)/.*"
    r"|(turtle|pydoc|antigravity|this)\.py|.*\.(a|h)|EXTERNALLY-MANAGED|sitecustomize\.py"
    r"|lib-dynload/(_tkinter|_curses(_panel)?|readline|_gdbm|_dbm|nis|ossaudiodev|_test\w*|xx\w*"
    r"|_xx\w*|_ctypes_test)\..*"
)


@dataclass(frozen=True, kw_only=True)
class Count:
    """So many files, so many bytes."""

    files: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """What is left, and what it was before."""

    files: dict[str, File]
    before: Count
    after: Count


def packages(files: Mapping[str, File]) -> Pruned:
    """The files of wheels, by path, without what ``PACKAGES`` names."""
    left = {
        path: file
        for path, file in files.items()
        if not any(rule.fullmatch(f"/{path}") for rule in PACKAGES.values())
    }
    return Pruned(files=left, before=count(files), after=count(left))


def is_of_stdlib(path: str) -> bool:
    """Whether a file of the standard library, by its path in it, is one that a run may need."""
    return not _STDLIB.fullmatch(path)


def count(files: Mapping[str, File]) -> Count:
    """How many files, how many bytes."""
    return Count(files=len(files), bytes=sum(file.size for file in files.values()))
