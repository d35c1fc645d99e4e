# SPDX-License-Identifier: Apache-2.0
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support import elves

from fedclave.errors import Refused
from fedclave.trust import elf


def test_segments_are_what_is_loaded() -> None:
    found = elf.parse(elves.PAL)
    assert found.entry == 0x1230
    assert [(one.address, one.size) for one in found.segments] == [
        (0, 1200), (0x1000, 10240), (0x4000, 4995), (0x7F50, 0x5000),
    ]  # fmt: skip
    assert [(one.writable, one.executable) for one in found.segments] == [
        (False, False), (False, True), (False, False), (True, False),
    ]  # fmt: skip
    assert found.segments[3].data == b"data" * 44
    assert found.needed == ()


def test_the_libraries_that_it_names_and_where_it_wants_them_looked_for() -> None:
    found = elf.parse(elves.library(["libc.so.6", "libkit.so"], "$ORIGIN/../lib:/opt/lib"))
    assert found.needed == ("libc.so.6", "libkit.so")
    assert found.paths == ("$ORIGIN/../lib", "/opt/lib")


@pytest.mark.skipif(shutil.which("readelf") is None, reason="needs binutils")
def test_readelf_says_the_same_of_a_real_program() -> None:
    program = Path(sys.executable).resolve()
    said = subprocess.run(
        ["readelf", "-d", "-lW", str(program)],
        capture_output=True, text=True, check=True, env={"LC_ALL": "C"},
    ).stdout  # fmt: skip
    needed = [line.split("[")[1].split("]")[0] for line in said.splitlines() if "(NEEDED)" in line]
    loads = [line.split() for line in said.splitlines() if line.split()[:1] == ["LOAD"]]
    found = elf.parse(program.read_bytes())
    assert list(found.needed) == needed
    assert [(one.address, one.size) for one in found.segments] == [
        (int(parts[2], 16), int(parts[5], 16)) for parts in loads
    ]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x7fELF",
        elves.PAL[:60],
        b"MZ" + elves.PAL[2:],
        elves.PAL[:4] + b"\x01" + elves.PAL[5:],
        elves.PAL[:18] + b"\xb7\0" + elves.PAL[20:],
        elves.PAL[:56] + b"\xff\xff" + elves.PAL[58:],
        elves.PAL[:-10_000],
        elves.PAL[:54] + b"\x20\0" + elves.PAL[56:],
    ],
    ids=["empty", "magic", "cut-header", "dos", "32-bit", "arm", "many", "cut", "small-headers"],
)
def test_what_is_no_program_for_x86_64_is_refused(raw: bytes) -> None:
    with pytest.raises(Refused, match="not an ELF file"):
        elf.parse(raw, "libpal.so")


@given(st.integers(0, len(elves.PAL) - 1), st.binary(min_size=1, max_size=16))
def test_changed_bytes_are_parsed_or_refused(at: int, patch: bytes) -> None:
    raw = elves.PAL[:at] + patch + elves.PAL[at + len(patch) :]
    with suppress(Refused):
        elf.parse(raw)
