# SPDX-License-Identifier: Apache-2.0
"""What an enclave starts: the program and its arguments."""

import re
from collections.abc import Iterator

from fedclave.trust.manifest_form import Sound
from fedclave.trust.manifest_layout import Layout, normal, path_of
from fedclave.trust.manifest_python import launch
from fedclave.trust.manifest_rule import Hit, Path, Rule, refused, warned

RULES: tuple[Rule, ...] = (
    refused(
        "loader-unhashed",
        "loader.entrypoint",
        "Chooses the LibOS, the part of Gramine under the program: this manifest is final, and has"
        " no hash of it.",
        "Sign the manifest anew (gramine-sgx-sign fills in the hash)",
    ),
    refused(
        "entrypoint-untrusted",
        "libos.entrypoint",
        "Chooses the program, as far as the file policy lets it: what starts is not a trusted file"
        " on a chroot mount, so its code is not measured.",
        "Mount the program, and list its file in sgx.trusted_files",
    ),
    refused(
        "entrypoint-relative",
        "libos.entrypoint",
        "Profits from a name that is looked up in the folder of the moment.",
        "Write an absolute path",
    ),
    refused(
        "shell",
        "loader.argv",
        "Has a shell on the inside: with its input, its files and its environment it steers what"
        " runs.",
        "Start the program itself",
    ),
    refused(
        "argv-code",
        "loader.argv",
        "Profits from a program that stands in an argument, where no review of files meets it, and"
        " which looks for modules in the folder of the moment.",
        "Put the code into a file or module, and list it in sgx.trusted_files",
    ),
    refused(
        "argv-module",
        "loader.argv",
        "Types code into the standard input of a debugger, a profiler or an interactive prompt.",
        "Start the program's own module",
    ),
    refused(
        "python-stdin",
        "loader.argv",
        "Writes the program: without one, or with -i, Python runs what comes on its standard"
        " input, and that is the host's.",
        "Write loader.argv with a script or -m MODULE, and no -i",
    ),
    warned(
        "python-isolated",
        "loader.argv",
        "Hides a module, so that one of the same name in the script's folder is imported instead.",
        "Start Python with -I",
    ),
    warned(
        "python-bytecode",
        "loader.argv",
        "Replaces compiled modules, if Python ever writes them to where the host may write too.",
        "Start Python with -B",
    ),
    refused(
        "argv-twice",
        "loader.argv",
        "May start it with another version of Gramine, which takes the other list; 1.9 does not"
        " start.",
        "Keep loader.argv alone",
    ),
    refused(
        "argv-file",
        "loader.argv_src_file",
        "Writes the arguments: the file is not trusted.",
        "Write loader.argv",
    ),
    refused(
        "argv-file-early",
        "loader.argv_src_file",
        "Is asked for the file before LibOS runs, the part of Gramine that compares the hashes of"
        " trusted files since 1.8.",
        "Write loader.argv, which is measured with the manifest",
    ),
)

_SHELL = re.compile(r"(a|ba|c|da|fi|k|mk|rba|tc|z)?sh|busybox|toybox")
_CODE_OPTIONS = (
    ("node|nodejs|deno|bun", ("-e", "--eval", "-p", "--print")),
    ("perl", ("-e", "-E")),
    ("ruby|lua|Rscript|julia|R", ("-e",)),
    ("php", ("-r",)),
)
_PYTHON = re.compile(r"(python|pypy)[0-9.]*t?")
_STARTER = re.compile(r"env|nice|nohup|timeout|stdbuf|ld(-linux.*)?\.so.*")
"""Programs that start what their arguments name."""


def check(manifest: Sound, layout: Layout, final: bool) -> Iterator[Hit]:
    """Everything about the program that takes more than one value to judge."""
    yield from _loader(manifest, final)
    yield from _entrypoint(manifest, layout)
    yield from _arguments(manifest)
    yield from _source(manifest, layout)


def _loader(manifest: Sound, final: bool) -> Iterator[Hit]:
    path = ("loader", "entrypoint", "sha256")
    if final and manifest.get(*path) is None and not manifest.is_broken(*path):
        yield Hit("loader-unhashed", path)


def _entrypoint(manifest: Sound, layout: Layout) -> Iterator[Hit]:
    at, program = ("libos", "entrypoint"), manifest.get("libos", "entrypoint")
    if program is None:
        return
    if not program.startswith("/"):
        yield Hit("entrypoint-relative", at, program)
    elif (host := layout.on_host(program)) is None or not layout.is_trusted(host):
        yield Hit("entrypoint-untrusted", at, program)


def _arguments(manifest: Sound) -> Iterator[Hit]:
    at: Path = ("loader", "argv")
    program, argv = manifest.get("libos", "entrypoint"), manifest.get("loader", "argv")
    words = [word for word in argv or () if word is not None]
    name = _name(program or "")
    while _STARTER.fullmatch(name) and len(words) > 1:
        words = words[1:]
        name = _name(words[0])
    if shell := _shell(name, words):
        yield Hit("shell", at if words else ("libos", "entrypoint"), words or program, shell)
    for names, options in _CODE_OPTIONS:
        if re.fullmatch(names, name) and not {*options}.isdisjoint(words):
            yield Hit("argv-code", at, argv)
    if _PYTHON.fullmatch(name) and not _is_elsewhere(manifest):
        yield from _python(argv, words)


def _source(manifest: Sound, layout: Layout) -> Iterator[Hit]:
    argv, uri = manifest.get("loader", "argv"), manifest.get("loader", "argv_src_file")
    if uri is not None and argv is not None:
        yield Hit("argv-twice", ("loader", "argv"), argv)
    elif uri is not None:
        trusted = layout.is_trusted(normal(path_of(uri)))
        rule = "argv-file-early" if trusted else "argv-file"
        yield Hit(rule, ("loader", "argv_src_file"), uri)


def _is_elsewhere(manifest: Sound) -> bool:
    """Whether the arguments are not in the manifest; that is told by other rules."""
    keys = ("argv_src_file", "insecure__use_cmdline_argv")
    given = any(manifest.get("loader", key) for key in keys)
    return given or manifest.is_broken("loader", "argv")


def _python(argv: object, words: list[str]) -> Iterator[Hit]:
    at: Path = ("loader", "argv")
    found = launch(words)
    if found.reads_stdin:
        yield Hit("python-stdin", at, argv)
        return
    if found.how == "code":
        yield Hit("argv-code", at, argv)
    if found.is_prompt:
        yield Hit("argv-module", at, argv)
    if not found.is_isolated:
        yield Hit("python-isolated", at, argv)
    if "B" not in found.flags:
        yield Hit("python-bytecode", at, argv)


def _shell(program: str, words: list[str]) -> str:
    """The shell that is started, by name; empty if none is seen."""
    named = [program, *map(_name, words[:1])]
    named += [_name(word) for word in words if word.startswith("/")]
    return next((name for name in named if _SHELL.fullmatch(name)), "")


def _name(path: str) -> str:
    return path.rpartition("/")[2]
