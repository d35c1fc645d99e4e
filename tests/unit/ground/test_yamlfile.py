# SPDX-License-Identifier: Apache-2.0
"""YAML 1.2 scalars with line numbers; what is dangerous or ambiguous is refused with its line."""

import math
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedclave import yamlfile
from fedclave.errors import PlanError

CORRECT = "Correct this line, or the one before it."


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("n", "n"),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("null", None),
        ("12", 12),
        ("+12", 12),
        ("-0", 0),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2025-01-31", "2025-01-31"),
        ("1e-5", 1e-5),
        ("1E5", 1e5),
        ("1.", 1.0),
        (".5", 0.5),
        ("-1.5e+3", -1500.0),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("'1e-5'", "1e-5"),
        ('"on"', "on"),
        ("=", "="),
        ("<<", "<<"),
        ("é", "é"),
    ],
)
def test_plain_scalars_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    parsed = yamlfile.parse(f"key: {text}", "f.yaml").value["key"]
    assert (parsed, type(parsed)) == (value, type(value))


def test_not_a_number_is_a_float() -> None:
    assert math.isnan(yamlfile.parse(".nan", "f.yaml").value)


def test_the_key_on_is_text() -> None:
    assert yamlfile.parse("on: [global]", "f.yaml").value == {"on": ["global"]}


def test_every_part_knows_its_line() -> None:
    document = yamlfile.parse("# note\na:\n  - x\n  - b: 1\n\nc: 2\n", "f.yaml")
    paths: list[yamlfile.Path] = [("a",), ("a", 0), ("a", 1, "b"), ("c",)]
    assert [document.line(path) for path in paths] == [2, 3, 4, 6]
    assert document.line(("a", 1, "b", "gone", 7)) == 4
    assert document.within(("a", 1, "b", "gone", 7)) == ("a", 1, "b")


LAUGHS = "a: &a [lol]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "f.yaml:1: the file is empty. Write KEY: VALUE lines."),
        ("# only a note\n", "f.yaml:1: the file is empty. Write KEY: VALUE lines."),
        (
            LAUGHS,
            "f.yaml:2: YAML aliases are refused. Write the value out: aliases can grow a small "
            "file without bound.",
        ),
        (
            "a: 1\nb: {c: 1, c: 2}\n",
            "f.yaml:2 b.c: duplicate key. It stands on line 2 too; keep one.",
        ),
        (
            "a:\n  - x: 1\n    y: 2\n    x: 3\n",
            "f.yaml:4 a[0].x: duplicate key. It stands on line 2 too; keep one.",
        ),
        ("a: 1\n5: 2\n", "f.yaml:2: the key '5' is not text. Write it in quotes."),
        ("a:\n  true: 2\n", "f.yaml:2 a: the key 'true' is not text. Write it in quotes."),
        ("? [a, b]\n: 2\n", "f.yaml:1: the key that is a list is not text. Write it in quotes."),
        (
            "a: !!python/object/apply:os.system [id]\n",
            "f.yaml:1: YAML tags are refused, here 'tag:yaml.org,2002:python/object/apply:"
            "os.system'. Leave the tag out; quotes make a value text.",
        ),
        (
            "a: 1\nb: !!int ''\n",
            "f.yaml:2: YAML tags are refused, here 'tag:yaml.org,2002:int'. Leave the tag out; "
            "quotes make a value text.",
        ),
        ("a: 1\nb: \0\n", "f.yaml:2: not YAML: character '\\x00' is not allowed. Remove it."),
        ('a: "\\ud800"\n', "f.yaml:1: '\\ud800' has half of a surrogate pair. Remove it."),
        (
            "a: 1\n\tb: 2\n",
            "f.yaml:2: not YAML: found character '\\t' that cannot start any token. Indent with"
            " spaces, not tabs.",
        ),
        ("a: [1\nb: 2\n", f"f.yaml:2: not YAML: expected ',' or ']', but got ':'. {CORRECT}"),
        ("a: 1\n---\nb: 2\n", f"f.yaml:2: not YAML: but found another document. {CORRECT}"),
        ("[" * 5000 + "]" * 5000, "f.yaml:1: nested too deeply. Write it flatter."),
        (" " * (2**20 + 1), "f.yaml:1: the file is longer than 1048576 characters. Shorten it."),
    ],
    ids=lambda text: repr(text[:24]),
)
def test_bad_file_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(PlanError) as caught:
        yamlfile.parse(text, "f.yaml")
    assert str(caught.value) == message


@pytest.mark.parametrize("limit", [500, 100_000])
def test_depth_is_bounded_whatever_python_allows(limit: int) -> None:
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, before))
    try:
        with pytest.raises(PlanError, match=r"f\.yaml:2: nested too deeply"):
            yamlfile.parse("a:\n" + " " + "[" * 65 + "]" * 65, "f.yaml")
        assert yamlfile.parse("[" * 64 + "]" * 64, "f.yaml").value
    finally:
        sys.setrecursionlimit(before)


@given(st.text() | st.text("ab:-[]{}&*!|>'\"\\#%@,? \n\t01.~<"))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        document = yamlfile.parse(text, "f.yaml")
    except PlanError as error:
        assert 1 <= error.problems[0].line <= text.count("\n") + 2
    else:
        assert () in document.lines


def test_file_that_is_no_text_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(PlanError) as caught:
        yamlfile.read(path)
    assert str(caught.value) == f"{path}:2: byte 0xff is not UTF-8. Save the file as UTF-8."


def test_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none", "no such file"), (tmp_path, "Is a directory")):
        with pytest.raises(PlanError, match=reason):
            yamlfile.read(path)
