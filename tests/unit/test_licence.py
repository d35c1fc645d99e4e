# SPDX-License-Identifier: Apache-2.0
"""Every source file says under which licence it is."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KINDS = {".py", ".pyi", ".proto", ".toml", ".yaml", ".md"}
FILES = [
    path
    for folder in ("src", "tests", "benchmarks", "fuzz", "scripts", "examples", ".ci", "docs")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.is_file()
    and (path.suffix in KINDS or folder in {"scripts", ".ci"})
    and "__pycache__" not in path.parts
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_source_file_begins_with_its_licence(path: Path) -> None:
    head = path.read_text(encoding="utf-8").splitlines()[:2]
    assert any(line.strip("#/<!-> ") == "SPDX-License-Identifier: Apache-2.0" for line in head)
