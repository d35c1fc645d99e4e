# SPDX-License-Identifier: Apache-2.0
import importlib.util
import subprocess
import sys
from pathlib import Path

from fedclave.workspace.images import bytecode

SOURCE = b'''
"""Names that happen to be shared, a set, a nested function: what references and order hang on."""
SHARED = ("alpha", "beta", "alpha")
def f(alpha, beta={"x", "y", "z"}):
    def g(gamma): return alpha in {"p", "q", "r", "s"} or gamma
    return g
'''


def test_it_is_the_same_in_each_process_whatever_the_order_of_its_sets(tmp_path: Path) -> None:
    code = (
        "import sys; from fedclave.workspace.images import bytecode;"
        "sys.stdout.buffer.write(bytecode.compiled(sys.stdin.buffer.read(), '/opt/x.py'))"
    )
    made = {
        subprocess.run(
            [sys.executable, "-c", code],
            input=SOURCE,
            capture_output=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
        ).stdout
        for seed in ("0", "1", "77")
    }
    assert made == {bytecode.compiled(SOURCE, "/opt/x.py")}


def test_python_runs_it_without_looking_at_the_source(tmp_path: Path) -> None:
    module = tmp_path / "shown.py"
    module.write_text("print('the source')")
    place = Path(
        bytecode.place(str(tmp_path / "cache"), str(module), sys.implementation.cache_tag or "")
    )
    place.parent.mkdir(parents=True)
    place.write_bytes(bytecode.compiled(b"print('compiled')", str(module)) or b"")
    options = ["-I", "-X", f"pycache_prefix={tmp_path / 'cache'}"]
    run = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import shown"
    said = subprocess.run(
        [sys.executable, *options, "-c", run], capture_output=True, text=True, check=True
    )
    assert said.stdout == "compiled\n"


def test_it_stands_where_python_looks_for_it(tmp_path: Path, monkeypatch: object) -> None:
    code = "import importlib.util; print(importlib.util.cache_from_source('/usr/lib/x/os.py'))"
    said = subprocess.run(
        [sys.executable, "-X", "pycache_prefix=/opt/cache", "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )
    tag = sys.implementation.cache_tag or ""
    assert bytecode.place("/opt/cache", "/usr/lib/x/os.py", tag) == said.stdout.strip()


def test_what_does_not_compile_is_left_out() -> None:
    assert bytecode.compiled(b"print 'another Python'", "/x.py") is None
    assert bytecode.compiled(b"x = '\0'", "/x.py") is None
    assert (bytecode.compiled(b"", "/x.py") or b"")[:4] == importlib.util.MAGIC_NUMBER
