# SPDX-License-Identifier: Apache-2.0
"""Whether a manifest has the form of Gramine 1.9's: its keys, their types, and nothing else.

``sound`` gives the part that has, so that other checks need not look at types.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from fedclave.trust.manifest_keys import MANIFEST, Either, Leaf, Names, Rows, Shape, Table
from fedclave.trust.manifest_rule import Hit, Path, Rule, refused

_KNOWN = "Leave it out, or write a key of Gramine 1.9"
RULES: tuple[Rule, ...] = (
    refused(
        "removed-key",
        "several",
        "Gets a manifest for an old Gramine, whose checks and defaults were others; 1.9 builds"
        " nothing from it.",
        "Write the manifest for Gramine 1.9",
    ),
    refused(
        "insecure-key",
        "*.insecure__*",
        "Gets whatever a switch gives that its makers call insecure, and that this lint does not"
        " know.",
        _KNOWN,
    ),
    refused(
        "debug-key",
        "*.debug__*",
        "Gets whatever a switch for debugging shows or changes that this lint does not know.",
        _KNOWN,
    ),
    refused(
        "experimental-key",
        "*.experimental__*",
        "Attacks code that its makers do not call finished, and that this lint does not know.",
        _KNOWN,
    ),
    refused(
        "unknown-key",
        "*",
        "May start it with another version of Gramine, in which the key means something; 1.9"
        " builds nothing from it.",
        _KNOWN,
    ),
    refused(
        "missing-key",
        "several",
        "May start it with another version of Gramine, which fills in what is missing; 1.9 builds"
        " nothing from it.",
        "Write the key",
    ),
    refused(
        "wrong-type",
        "*",
        "May start it with another version of Gramine, which reads the value as something else;"
        " 1.9 does not start.",
        "Write a value of the type that is expected",
    ),
)

_UNSAFE = {
    "insecure__": "insecure-key",
    "debug__": "debug-key",
    "experimental__": "experimental-key",
}
_REMOVED = {
    ("fs", "mount"): "fs.mounts, a list, takes its place",
    ("loader", "argv0_override"): "the first element of loader.argv takes its place",
    ("loader", "debug_type"): "loader.log_level takes its place",
    ("loader", "exec"): "libos.entrypoint takes its place",
    ("loader", "pal_internal_mem_size"): "nothing takes its place",
    ("loader", "preload"): "loader.entrypoint takes its place",
    ("sgx", "nonpie_binary"): "nothing takes its place",
    ("sgx", "protected_files"): 'a mount of type "encrypted" takes its place',
    ("sgx", "protected_mrenclave_files"): 'a mount of type "encrypted" takes its place',
    ("sgx", "protected_mrsigner_files"): 'a mount of type "encrypted" takes its place',
    ("sgx", "ra_client_linkable"): 'sgx.remote_attestation = "dcap" takes its place',
    ("sgx", "ra_client_spid"): 'sgx.remote_attestation = "dcap" takes its place',
    ("sgx", "sigfile"): "the signer's option takes its place",
    ("sgx", "thread_num"): "sgx.max_threads takes its place",
    **{
        ("sgx", f"require_{name}"): "sgx.cpu_features takes its place"
        for name in ("avx", "avx512", "amx", "mpx", "pkru", "exinfo")
    },
}
_FORMER: dict[tuple[str, ...], tuple[type, str]] = {
    ("loader", "entrypoint"): (str, "a table with uri takes the text's place"),
    ("sgx", "allowed_files"): (dict, "a list takes the table's place"),
    ("sgx", "remote_attestation"): (bool, '"dcap" takes the place of true'),
    ("sgx", "trusted_files"): (dict, "a list takes the table's place"),
}
"""Known keys whose values once had another form."""


@dataclass(frozen=True, kw_only=True)
class Sound:
    """The part of a manifest that has the right form, and what the rest is.

    ``broken`` are the places of values of a wrong type: what stands there is not "not set".
    """

    value: dict[str, Any]
    hits: tuple[Hit, ...]
    broken: frozenset[Path]

    def get(self, *path: str) -> Any:
        """A value of its right type, or None."""
        inner: Any = self.value
        for key in path:
            inner = inner.get(key) if isinstance(inner, dict) else None
        return inner

    def is_broken(self, *path: str | int) -> bool:
        """Whether this, or a table around it, has a wrong type."""
        return any(path[:length] in self.broken for length in range(len(path) + 1))


def sound(manifest: Mapping[str, object]) -> Sound:
    """Divide a manifest into what has the right form, and findings about what has not."""
    hits: list[Hit] = []
    value = _read(MANIFEST, dict(manifest), (), hits)
    broken = frozenset(hit.path for hit in hits if hit.rule == "wrong-type" or hit.path in _FORMER)
    return Sound(value=value, hits=tuple(hits), broken=broken)


_DROPPED = object()


def _read(shape: Shape, value: object, path: Path, hits: list[Hit]) -> Any:
    former = _FORMER.get(path)  # type: ignore[arg-type]  # a path with an index is in no table
    if former is not None and isinstance(value, former[0]):
        hits.append(Hit("removed-key", path, value, former[1]))
        return _DROPPED
    if isinstance(shape, Either):
        shape = shape.table if isinstance(value, dict) else shape.leaf
    if isinstance(shape, Leaf) and shape.fits(value):
        return value
    if isinstance(shape, Rows) and isinstance(value, list | tuple):
        rows = enumerate(value)
        return [_kept(_read(shape.each, one, (*path, at), hits)) for at, one in rows]
    if isinstance(shape, Names) and isinstance(value, dict):
        return _table(value, dict.fromkeys(value, shape.each), path, hits)
    if isinstance(shape, Table) and isinstance(value, dict):
        hits += _missing(shape, value, path)
        return _table(value, shape.keys, path, hits)
    hits.append(Hit("wrong-type", path, value, f"expected {_expected(shape)}"))
    return _DROPPED


def _table(
    value: Mapping[str, object], keys: Mapping[str, Shape], path: Path, hits: list[Hit]
) -> dict[str, Any]:
    found = {}
    for key, inner in value.items():
        at = (*path, str(key))
        if key not in keys:
            hits.append(_unknown(at, inner, keys))
        elif (read := _read(keys[key], inner, at, hits)) is not _DROPPED:
            found[key] = read
    return found


def _kept(read: Any) -> Any:
    """An element of a list; None in the place of a dropped one, so that indices stay right."""
    return None if read is _DROPPED else read


def _missing(shape: Table, value: Mapping[str, object], path: Path) -> Iterator[Hit]:
    yield from (Hit("missing-key", (*path, key)) for key in shape.required if key not in value)


def _unknown(path: Path, value: object, known: Mapping[str, Shape]) -> Hit:
    if path in _REMOVED:
        return Hit("removed-key", path, value, _REMOVED[path])
    name = str(path[-1])
    for prefix, rule in _UNSAFE.items():
        if name.startswith(prefix):
            return Hit(rule, path, value)
    near = get_close_matches(name, known, n=1) if len(name) < 50 else []
    return Hit("unknown-key", path, value, f"did you mean {near[0]}?" if near else "")


def _expected(shape: Shape) -> str:
    if isinstance(shape, Leaf):
        return shape.expected
    return "a list" if isinstance(shape, Rows) else "a table"
