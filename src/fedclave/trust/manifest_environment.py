# SPDX-License-Identifier: Apache-2.0
"""The environment that a manifest gives a program.

What the dynamic linker takes from it: ld.so(8). Python: docs.python.org/3.11/using/cmdline.html.
RA-TLS: gramine 1.9, Documentation/attestation.rst.
"""

import re
from collections.abc import Iterator

from fedclave.trust.manifest_form import Sound
from fedclave.trust.manifest_layout import Layout, normal, path_of
from fedclave.trust.manifest_rule import Hit, Path, Rule, refused, warned

RULES: tuple[Rule, ...] = (
    refused(
        "env-file",
        "loader.env_src_file",
        "Writes the environment: the file is not trusted.",
        "Write loader.env",
    ),
    refused(
        "env-file-early",
        "loader.env_src_file",
        "Is asked for the file before LibOS runs, the part of Gramine that compares the hashes of"
        " trusted files since 1.8.",
        "Write loader.env, which is measured with the manifest",
    ),
    refused(
        "env-passthrough",
        "loader.env.*.passthrough",
        "Chooses the variable's value.",
        "Write a fixed value; let a trusted party send what differs from host to host",
    ),
    refused(
        "env-preload",
        "loader.env.*",
        "Profits from code that is loaded into the program before its own checks run.",
        "Leave it out; link or import what is needed",
    ),
    refused(
        "env-path",
        "loader.env.*",
        "Decides what is found there: modules, start-up code or certificates from where nothing is"
        " trusted.",
        "Name absolute paths of trusted files or their folders",
    ),
    refused(
        "env-interactive",
        "loader.env.*",
        "Types code into Python's standard input when the program has ended.",
        "Leave it out",
    ),
    refused(
        "env-keylog",
        "loader.env.*",
        "Reads the keys of TLS connections where they are written.",
        "Leave it out",
    ),
    refused(
        "env-ratls",
        "loader.env.*",
        "Lets any enclave, or one that it can read, pass for the peer: that check is off.",
        "Name what the peer must be, and allow nothing insecure",
    ),
    warned(
        "no-library-path",
        "loader.env.LD_LIBRARY_PATH",
        "Sees more exits: without Gramine's C library first, system calls are trapped one by one.",
        "Write loader.env.LD_LIBRARY_PATH, Gramine's library folder first",
    ),
)

_PRELOAD = re.compile(r"LD_PRELOAD|LD_AUDIT|GCONV_PATH")
_TRUSTED = re.compile(
    r"PYTHON(PATH|HOME|STARTUP|USERBASE|PYCACHEPREFIX)|SSL_CERT_(FILE|DIR)"
    r"|(REQUESTS|CURL)_CA_BUNDLE|GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"
)
"""Variables that name files or folders on which a program's security rests."""
_ANY_PEER = re.compile(r"RA_TLS_(MRENCLAVE|MRSIGNER|ISV_PROD_ID|ISV_SVN)=any|RA_TLS_\w+_INSECURE=1")


def check(manifest: Sound, layout: Layout) -> Iterator[Hit]:
    """Every variable by its name and value, and the file that sets others."""
    at = ("loader", "env")
    uri = manifest.get("loader", "env_src_file")
    if uri is not None:
        trusted = layout.is_trusted(normal(path_of(uri)))
        yield Hit("env-file-early" if trusted else "env-file", ("loader", "env_src_file"), uri)
    variables = manifest.get("loader", "env") or {}
    for name, entry in variables.items():
        if not isinstance(entry, dict):
            yield from _variable(name, entry, layout)
        elif entry.keys() == {"passthrough"}:
            yield Hit("env-passthrough", (*at, name, "passthrough"), True)
        elif entry.keys() == {"value"}:
            yield from _variable(name, entry["value"], layout)
        elif not any(manifest.is_broken(*at, name, key) for key in ("value", "passthrough")):
            yield Hit("wrong-type", (*at, name), entry, "expected value or passthrough, not both")
    path = (*at, "LD_LIBRARY_PATH")
    if path[-1] not in variables and uri is None and not manifest.is_broken(*path):
        yield Hit("no-library-path", path)


def _variable(name: str, value: str, layout: Layout) -> Iterator[Hit]:
    at: Path = ("loader", "env", name)
    if not value:
        return
    if _PRELOAD.fullmatch(name):
        yield Hit("env-preload", at, value)
    elif name == "LD_LIBRARY_PATH":
        bad = next((one for one in value.split(":") if _is_open(one, layout)), None)
        if bad is not None:
            yield Hit("env-path", at, value, f"the host writes {bad!a}")
    elif _TRUSTED.fullmatch(name):
        parts = value.split(":")
        bad = next((one for one in parts if not _is_trusted(one, layout)), None)
        if bad is not None:
            yield Hit("env-path", at, value, f"nothing is trusted at {bad!a}")
    elif name == "PYTHONINSPECT":
        yield Hit("env-interactive", at, value)
    elif name == "SSLKEYLOGFILE":
        yield Hit("env-keylog", at, value)
    elif _ANY_PEER.fullmatch(f"{name}={value}"):
        yield Hit("env-ratls", at, value)


def _is_trusted(path: str, layout: Layout) -> bool:
    """Whether trusted files are found at a path inside, and nothing that the host writes."""
    host = layout.on_host(path) if path.startswith("/") else None
    if host is None or layout.is_allowed(host):
        return False
    return layout.first_trusted(host) is not None


def _is_open(path: str, layout: Layout) -> bool:
    """Whether libraries are looked for where the host writes, or in the folder of the moment."""
    host = layout.on_host(path) if path.startswith("/") else "."
    return host is not None and (host == "." or layout.is_allowed(host))
