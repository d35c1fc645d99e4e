# SPDX-License-Identifier: Apache-2.0
"""The libraries that programs need, as the dynamic linker finds them."""

from tests.support import elves

from fedclave.workspace.gramine import closure
from fedclave.workspace.images import tree
from fedclave.workspace.images.tree import File, Link, Node

PLACE = "/usr/lib/x86_64-linux-gnu"


def lib(*needed: str, runpath: str = "") -> File:
    return tree.of_bytes(elves.library(needed, runpath))


def found(files: dict[str, Node], programs: dict[str, File]) -> closure.Closure:
    return closure.closure({**files, **programs}, programs, frozenset({"libc.so.6"}))


def test_libraries_of_libraries_are_found_through_links_and_given_ones_left_out() -> None:
    files: dict[str, Node] = {
        "/lib": Link(target="usr/lib"),
        f"{PLACE}/liba.so.1": Link(target="liba.so.1.2"),
        f"{PLACE}/liba.so.1.2": lib("libb.so", "libc.so.6"),
        f"{PLACE}/libb.so": lib("libc.so.6"),
        f"{PLACE}/libc.so.6": lib(),
        f"{PLACE}/libunused.so": lib(),
    }
    one = found(files, {"/usr/bin/python": lib("liba.so.1", "libc.so.6")})
    assert set(one.files) == {f"{PLACE}/liba.so.1", f"{PLACE}/libb.so"}
    assert one.folders == (PLACE,)
    assert one.missing == ()


def test_what_lies_beside_a_library_is_found_by_its_runpath() -> None:
    programs = {"/site/pkg/x.so": lib("libz-1.so", runpath="$ORIGIN/../pkg.libs:/abs")}
    files: dict[str, Node] = {"/site/pkg.libs/libz-1.so": lib(), "/abs/libz-1.so": lib()}
    assert set(found(files, programs).files) == {"/site/pkg.libs/libz-1.so", "/abs/libz-1.so"}


def test_a_library_that_lies_in_two_folders_counts_twice() -> None:
    files: dict[str, Node] = {"/usr/local/lib/liba.so": lib(), f"{PLACE}/liba.so": lib("libb.so")}
    one = found(files, {"/p": lib("liba.so")})
    assert set(one.files) == {"/usr/local/lib/liba.so", f"{PLACE}/liba.so"}
    assert [(m.name, m.needed_by) for m in one.missing] == [("libb.so", f"{PLACE}/liba.so")]


def test_a_library_that_is_nowhere_is_named_with_who_needs_it() -> None:
    one = found({}, {"/p.so": lib("libtbb.so.12"), "/q.so": lib("p.so")})
    assert [(m.name, m.needed_by) for m in one.missing] == [("libtbb.so.12", "/p.so")]


def test_what_glibc_loads_by_name_counts() -> None:
    files: dict[str, Node] = {f"{PLACE}/libgcc_s.so.1": lib()}
    assert set(found(files, {"/p": lib()}).files) == {f"{PLACE}/libgcc_s.so.1"}


def test_a_relative_runpath_is_no_place() -> None:
    files: dict[str, Node] = {"/usr/lib/liba.so": lib()}
    one = found(files, {"/p/x.so": lib("libb.so", runpath="libs:")})
    assert [m.name for m in one.missing] == ["libb.so"]
