# SPDX-License-Identifier: Apache-2.0
"""How the code of a workspace is imported: apart from everything else, and from source only.

Each ``Sources`` is a package of its own with a private name. ``src/learner.py`` becomes the module
``_fedclave_workspace_N.src.learner``, so two workspaces, or two members in one process, share
nothing. ``from .data import x`` works by that name alone. For ``from src.data import x`` the
modules get builtins whose ``__import__`` looks for ``src`` in their own package; that holds for
imports inside functions too, whenever they run. ``sys.path`` is never touched.

Only ``.py`` files count. Compiled files (``__pycache__``, ``.so``) are not part of what the parties
read and agreed on, so they are neither read nor written.
"""

import builtins
import importlib
import itertools
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from fedclave.learners.base import PRIVATE

TOP = "src"
"""The only folder of a workspace that code comes from."""

_numbers = itertools.count(1)


class Sources:
    """The modules of one workspace, imported afresh."""

    def __init__(self, root: Path) -> None:
        _install()
        self._package = f"{PRIVATE}{next(_numbers)}"
        package = ModuleType(self._package, f"The workspace {root}.")
        package.__path__ = [str(root.resolve())]
        sys.modules[self._package] = package

    def module(self, name: str) -> ModuleType:
        """The module ``src`` or ``src.more``. What the import raises passes through."""
        return importlib.import_module(f"{self._package}.{name}")

    def forget(self) -> None:
        """Drop the modules, for a workspace that could not be used."""
        for name in [n for n in sys.modules if n.split(".")[0] == self._package]:
            del sys.modules[name]


class _Finder(MetaPathFinder):
    """Finds the modules below a private package, and no others."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(PRIVATE) or path is None:
            return None
        name = fullname.rpartition(".")[2]
        for folder in map(Path, path):
            package, module = folder / name, folder / f"{name}.py"
            if (init := package / "__init__.py").is_file():
                loader = _Source(fullname, str(init))
                return spec_from_file_location(
                    fullname, init, loader=loader, submodule_search_locations=[str(package)]
                )
            if module.is_file():
                return spec_from_file_location(
                    fullname, module, loader=_Source(fullname, str(module))
                )
            if package.is_dir():
                spec = ModuleSpec(fullname, None, is_package=True)
                spec.submodule_search_locations = [str(package)]
                return spec
        return None


class _Source(SourceFileLoader):
    """Compiles the source each time, and gives the module its own ``__import__``."""

    def get_code(self, fullname: str) -> CodeType:
        """The code of the source as it is now; no cached bytecode."""
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code

    def exec_module(self, module: ModuleType) -> None:
        """Run the module with its own builtins: CPython takes them from its globals."""
        package = module.__name__.partition(".")[0]
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": _importer(package)}
        super().exec_module(module)


def _importer(package: str) -> Callable[..., Any]:
    plain = builtins.__import__

    def find(
        name: str,
        globals: dict[str, Any] | None = None,
        locals: dict[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        if level or name.partition(".")[0] != TOP:
            return plain(name, globals, locals, fromlist or (), level)
        module = plain(f"{package}.{name}", globals, locals, fromlist or (), 0)
        # ``import src.data`` binds ``src``; with a fromlist, what was asked for is returned.
        return module if fromlist else sys.modules[f"{package}.{TOP}"]

    return find


def _install() -> None:
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
