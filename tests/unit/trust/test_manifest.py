# SPDX-License-Identifier: Apache-2.0
"""Bytes that are no manifest, or a trap for who reads it, are refused at once."""

from pathlib import Path

import pytest

from fedclave.errors import UserError
from fedclave.trust import manifest

HOSTILE = {
    "a signature": (b"\x06\x00\x00\x00\xe1\x00", "byte 4 is not UTF-8"),
    "half a character": ("sgx.x = 'ä".encode()[:-1], "byte 9 is not UTF-8"),
    "no TOML": (b"sgx.debug = yes", r"m is not TOML: .*line 1.*Correct it"),
    "a key twice": (b"sgx.debug = true\nsgx.debug = false", "is not TOML"),
    "text behind a NUL, where C stops": (b"[sgx]\n#\0\ndebug = true", "is not TOML"),
    "a BOM": (b"\xef\xbb\xbfsgx.debug = true", "is not TOML"),
    "a template": (b"{% for p in paths %}\n{% endfor %}", "looks like a template: render it"),
    "a value of a template": (b"sgx.debug = {{ debug }}", "looks like a template"),
    "deep lists": (b"x = " + b"[" * 100_000, "nested too deep"),
    "deep tables": (b"x = " + b"{a=" * 100_000, "nested too deep"),
    "a number of many digits": (b"x = " + b"9" * 5000, "a number or a date"),
    "a day that is none": (b"x = 2031-02-30", "is not TOML"),
    "too many bytes": (b"#" * (manifest.MAX_SIZE + 1), "more than 16 MiB"),
}
LONG_KEYS = {
    "bare": "a" + ".a" * 1_000_000,
    "quoted": '"a"' + " . 'a'" * 1_000_000,
    "quoted, with a quote inside": r'"\""' + r'."\""' * 1_000_000,
    "of a table": "[a" + ".a" * 1_000_000 + "]",
    "just too long": "a" + ".a" * manifest.MAX_PARTS,
}


@pytest.mark.parametrize(("raw", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_manifest_is_refused_with_the_reason(raw: bytes, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        manifest.parse(raw, "m")


@pytest.mark.timeout(20)  # tomllib alone would take hours
@pytest.mark.parametrize("key", LONG_KEYS.values(), ids=LONG_KEYS)
def test_a_key_of_very_many_parts_is_refused_before_it_is_parsed(key: str) -> None:
    with pytest.raises(UserError, match="m:3: a key of more than 16 parts"):
        manifest.parse(f"x = 1\n\n{key} = 1".encode(), "m")


@pytest.mark.timeout(20)
def test_long_words_and_many_dots_are_no_long_keys() -> None:
    words = "w" * 1_000_000 + " " + "." * 1_000_000 + ' "a" ' * 100_000 + '\\"' * 1_000_000
    names = "x" * 15 + ".x" * 15
    raw = f"# {words}\n{names} = 'a.b.c.d'".encode()
    assert "x" * 15 in manifest.parse(raw, "m")


def test_a_device_that_never_ends_is_refused() -> None:
    with pytest.raises(UserError, match="/dev/zero has more than 16 MiB"):
        manifest.read(Path("/dev/zero"))


@pytest.mark.parametrize("name", ["absent", "."])
def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r": (No such|Is a).*\. Name a Gramine manifest"):
        manifest.read(tmp_path / name)
