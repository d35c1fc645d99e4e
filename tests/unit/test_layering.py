# SPDX-License-Identifier: Apache-2.0
"""Imports go down only, a heavy package enters by one file, code from outside by one file too."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "fedclave"
GROUND = {
    "__version__",
    "canonical",
    "durable",
    "errors",
    "locks",
    "messages",
    "mistakes",
    "plan",
    "tensors",
    "yamlfile",
}
MIDDLE = {"algorithms", "privacy", "trust", "learners"}
BELOW = {
    **dict.fromkeys(MIDDLE, GROUND),
    "engine": GROUND | MIDDLE,
    "transport": GROUND | MIDDLE | {"engine"},
    "workspace": GROUND | MIDDLE | {"engine"},
    "cli": GROUND | MIDDLE | {"engine", "transport", "workspace"},
}
HEAVY = (
    "cbor2",
    "dcap_qvl",
    "torch",
    "sklearn",
    "matplotlib",
    "ray",
    "jax",
    "keras",
    "tensorflow",
    "transformers",
)
LOADER = "workspace/importing.py"  # the one file that runs code from outside the package
COMPILER = "workspace/images/bytecode.py"
DYNAMIC = {"importlib", "imp", "runpy", "__import__", "exec", "eval", "compile"}
PICKLES = {"pickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
FILES = {
    path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted(PACKAGE.rglob("*.py"))
    if "templates" not in path.parts and not path.name.endswith("_pb2.py")
}


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module}.{name.name}" for name in node.names)


def calls(tree: ast.AST) -> set[str]:
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


@pytest.mark.parametrize("file", FILES)
def test_imports_go_down_only(file: str) -> None:
    room = file.partition("/")[0]
    for name in imports(FILES[file]):
        assert not name.startswith("."), "imports are absolute, so that this test can read them"
        if name.startswith("fedclave."):
            assert name.split(".")[1] in BELOW.get(room, GROUND) | {room}, name


@pytest.mark.parametrize("file", FILES)
def test_code_from_outside_runs_in_one_file_and_pickles_in_none(file: str) -> None:
    names = {name for name in imports(FILES[file]) if not name.startswith("importlib.resources")}
    names -= {"importlib.resources", "importlib.metadata"}
    if file == COMPILER:  # it writes compiled modules; it neither reads nor runs any
        assert names & (PICKLES | DYNAMIC) == {"marshal"}
        used = {call for call in calls(FILES[file]) if call.split(".")[0] in PICKLES | DYNAMIC}
        assert used == {"compile", "marshal.dumps", "importlib.util.source_hash"}
        return
    assert not PICKLES & {name.split(".")[0] for name in names}
    assert not {"torch.load", "np.load", "numpy.load", "np.lib.format.read_array"} & calls(
        FILES[file]
    )
    if file != LOADER:
        assert not DYNAMIC & ({name.split(".")[0] for name in names} | calls(FILES[file]))


@pytest.mark.parametrize("package", HEAVY)
def test_a_heavy_package_is_imported_by_one_file(package: str) -> None:
    importers = [f for f in FILES if package in {n.split(".")[0] for n in imports(FILES[f])}]
    assert len(importers) <= 1, importers


def test_no_other_file_loads_a_heavy_package_when_it_is_imported() -> None:
    light = [f for f in FILES if not any(n.split(".")[0] in HEAVY for n in imports(FILES[f]))]
    modules = [f.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for f in light]
    names = [f"fedclave.{m}".removesuffix(".__init__") for m in modules if "__main__" not in m]
    code = f"import sys, {', '.join(names)}; print(sorted(sys.modules.keys() & set({HEAVY})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
