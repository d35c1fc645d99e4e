# SPDX-License-Identifier: Apache-2.0
"""The keys of a manifest of Gramine 1.9, and the type of each.

The table is closed, as Gramine's own is since 1.8: from a manifest with another key it builds
nothing. Source: gramine 1.9, Documentation/manifest-syntax.rst.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Leaf:
    """One value."""

    expected: str
    fits: Callable[[object], bool]


@dataclass(frozen=True)
class Table:
    """A table with these keys and no others."""

    keys: "Mapping[str, Shape]"
    required: tuple[str, ...] = ()


@dataclass(frozen=True)
class Names:
    """A table whose keys its author chooses."""

    each: "Shape"


@dataclass(frozen=True)
class Rows:
    """A list."""

    each: "Shape"


@dataclass(frozen=True)
class Either:
    """A value, or a table in its place."""

    leaf: Leaf
    table: Table


Shape = Leaf | Table | Names | Rows | Either


def _matching(expected: str, pattern: str) -> Leaf:
    form = re.compile(pattern, re.DOTALL)
    return Leaf(expected, lambda value: isinstance(value, str) and bool(form.fullmatch(value)))


def _one_of(*values: str) -> Leaf:
    listed = " or ".join(f'"{value}"' for value in values)
    return Leaf(listed, lambda value: isinstance(value, str) and value in values)


def _number(least: int, most: int = 2**63 - 1) -> Leaf:
    bounds = f"from {least} to {most}" if most < 2**63 - 1 else f"of at least {least}"
    return Leaf(f"a whole number {bounds}", lambda value: _is_int(value, least, most))


def _is_int(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


TEXT = Leaf("a text", lambda value: isinstance(value, str))
BOOL = Leaf("true or false", lambda value: isinstance(value, bool))
ANY = Leaf("anything", lambda value: True)
YES = Leaf("true", lambda value: value is True)
PATH = _matching("a path of at most 4096 characters", ".{1,4096}")
FILE = _matching("file:PATH", "file:.{1,4091}")  # URI_MAX is 4096
URI = _matching("file:PATH or dev:PATH", "(file|dev):.{1,4091}")
SIZE = _matching('a size as "8G"', "(0x[0-9a-fA-F]+|[0-9]+)[KMGkmg]?")
SHA256 = _matching("64 hex digits", "[0-9a-fA-F]{64}")
MASK64 = _matching("a mask of 8 bytes as 0x...", "0x[0-9a-fA-F]{16}")
MASK32 = _matching("a mask of 4 bytes as 0x...", "0x[0-9a-fA-F]{8}")

_MOUNT: dict[str, Shape] = {
    "type": _one_of("chroot", "encrypted", "tmpfs", "untrusted_shm"),
    "uri": TEXT,  # of a tmpfs it is ignored; else its form is for manifest_files to judge
    "key_name": TEXT,
    "enable_recovery": BOOL,
}
_OPTIONAL_FEATURE = _one_of("unspecified", "disabled", "required")
_HARDENING_FEATURE = _one_of("disabled", "required")

MANIFEST = Table(
    {
        "fs": Table(
            {
                "mounts": Rows(Table({**_MOUNT, "path": PATH}, required=("path",))),
                "root": Table(_MOUNT),
                "start_dir": PATH,
                "insecure__keys": Names(TEXT),
            },
            required=("mounts",),
        ),
        "libos": Table(
            {"entrypoint": PATH, "check_invalid_pointers": BOOL}, required=("entrypoint",)
        ),
        "loader": Table(
            {
                "entrypoint": Table({"uri": FILE, "sha256": SHA256}, required=("uri",)),
                "argv": Rows(TEXT),
                "argv_src_file": FILE,
                "env": Names(Either(TEXT, Table({"value": TEXT, "passthrough": YES}))),
                "env_src_file": FILE,
                "uid": _number(0, 2**32 - 1),
                "gid": _number(0, 2**32 - 1),
                "insecure__use_cmdline_argv": BOOL,
                "insecure__use_host_env": BOOL,
                "insecure__disable_aslr": BOOL,
                "log_file": TEXT,
                "log_level": _one_of("none", "error", "warning", "debug", "trace", "all"),
            }
        ),
        "sgx": Table(
            {
                "allowed_files": Rows(URI),
                "cpu_features": Table(
                    {
                        **dict.fromkeys(("avx", "avx512", "amx"), _OPTIONAL_FEATURE),
                        **dict.fromkeys(("mpx", "pkru"), _HARDENING_FEATURE),
                    }
                ),
                "debug": BOOL,
                "edmm_enable": BOOL,
                "enable_stats": BOOL,
                "enclave_size": SIZE,
                "file_check_policy": _one_of("strict", "allow_all_but_log"),
                "insecure__allow_memfaults_without_exinfo": BOOL,
                "insecure__rpc_thread_num": _number(0),
                "isvprodid": _number(0, 2**16 - 1),
                "isvsvn": _number(0, 2**16 - 1),
                "max_threads": _number(1),
                "preheat_enclave": BOOL,
                "profile": Table(
                    {
                        "enable": _one_of("none", "main", "all"),
                        "mode": _one_of("aex", "ocall_inner", "ocall_outer"),
                        "with_stack": BOOL,
                        "frequency": _number(1),
                    }
                ),
                "remote_attestation": TEXT,  # which ones are good is a rule's to say
                "seal_key": Table({"flags_mask": MASK64, "xfrm_mask": MASK64, "misc_mask": MASK32}),
                "trusted_files": Rows(
                    Either(FILE, Table({"uri": FILE, "sha256": SHA256}, required=("uri",)))
                ),
                "use_exinfo": BOOL,
                "vtune_profile": BOOL,
            }
        ),
        "sys": Table(
            {
                "allowed_ioctls": Rows(
                    Table({"request_code": _number(0), "struct": TEXT}, required=("request_code",))
                ),
                "brk": Table({"max_size": SIZE}),
                "debug__mock_syscalls": Rows(
                    Table({"name": TEXT, "return": _number(-(2**63))}, required=("name",))
                ),
                "disallow_subprocesses": BOOL,
                "enable_extra_runtime_domain_names_conf": BOOL,
                "enable_sigterm_injection": BOOL,
                "experimental__enable_flock": BOOL,
                "fds": Table({"limit": _number(1)}),
                "insecure__allow_eventfd": BOOL,
                "ioctl_structs": Names(ANY),
                "stack": Table({"size": SIZE}),
            }
        ),
    },
    required=("fs", "libos"),
)
