# SPDX-License-Identifier: Apache-2.0
"""What a manifest's files and mounts leave to the host."""

from collections.abc import Iterator, Sequence

from fedclave.errors import UserError
from fedclave.trust import manifest_keys
from fedclave.trust.manifest_form import Sound
from fedclave.trust.manifest_layout import (
    SYSTEM,
    Layout,
    Mount,
    is_code,
    normal,
    path_of,
    rows,
    under,
    uri_of,
)
from fedclave.trust.manifest_rule import Hit, Path, Rule, refused, warned

ROOT = ("fs", "root")

RULES: tuple[Rule, ...] = (
    refused(
        "file-policy",
        "sgx.file_check_policy",
        "Replaces every file that is not trusted, code included: all others are as good as"
        " allowed.",
        'Write sgx.file_check_policy = "strict"',
        lambda value: value is not None and value != "strict",
    ),
    refused(
        "allowed-trusted",
        "sgx.allowed_files",
        "Replaces trusted files: what is allowed is allowed first, and no hash is compared.",
        "Allow a folder of its own, outside of all that is trusted",
    ),
    refused(
        "allowed-code",
        "sgx.allowed_files",
        "Replaces programs, libraries or the system's settings (ld.so.preload, resolver, CA"
        " certificates), and runs what it likes in an enclave that attests as before.",
        "List it in sgx.trusted_files",
    ),
    refused(
        "allowed-file",
        "sgx.allowed_files",
        "Reads and replaces it at any moment: no hash, no encryption. A key or data in it is"
        " public, a plan or a checkpoint in it is the host's to write.",
        "List it in sgx.trusted_files, or put it on an encrypted mount; accept a folder of public"
        " outputs with --allow-output",
    ),
    refused(
        "trusted-unhashed",
        "sgx.trusted_files",
        "Chooses the file's bytes: this manifest is final, and has no hash of it.",
        "Sign the manifest anew (gramine-sgx-sign fills in the hashes)",
    ),
    refused(
        "trusted-folder",
        "sgx.trusted_files",
        "Chooses what is in the folder: this manifest is final, and lists none of its files.",
        "Sign the manifest anew (gramine-sgx-sign lists the files)",
    ),
    refused(
        "trusted-conflict",
        "sgx.trusted_files",
        "Hides behind the other entry: only the first hash of a file counts, a reader may have"
        " checked the second.",
        "List each file once",
    ),
    refused(
        "uri-dotdot",
        "several",
        "Profits from a name that does not say which file it is: what was examined, and what is"
        " opened, may differ.",
        "Write the path without '..'",
    ),
    warned(
        "uri-relative",
        "several",
        "Chooses the folder in which the name is looked up: the one in which it starts Gramine.",
        "Write an absolute path",
    ),
    refused(
        "host-root",
        "fs.root",
        "Chooses what is at /: the folder in which it starts Gramine.",
        'Write fs.root = {type = "tmpfs"}',
    ),
    refused(
        "host-mount",
        "fs.mounts",
        "Shows the enclave its whole disk, or its own /dev, /proc or /sys: which files there are,"
        " and what kernel and hardware say of themselves, is its invention.",
        "Mount the folders that are needed; Gramine has its own /dev, /proc and /sys",
    ),
    refused(
        "mount-over-system",
        "fs.mounts",
        "Puts files of its own over Gramine's /dev, /proc or /sys: /dev/attestation says what it"
        " wants.",
        "Mount it elsewhere; a tmpfs may be there",
    ),
    refused(
        "mount-path",
        "fs.mounts",
        "May start it with another version of Gramine, which mounts it somewhere; 1.9 does not"
        " start.",
        "Write an absolute path other than /; for that one there is fs.root",
    ),
    refused(
        "untrusted-shm",
        "fs.mounts",
        "Reads and changes what is in it while the enclave works: it is memory outside.",
        "Mount a tmpfs, and run one process",
    ),
    refused(
        "signer-key",
        "fs.mounts",
        "Starts another enclave of the same signer, an old or a careless one, that opens these"
        " files.",
        'Use key_name = "_sgx_mrenclave", or a key that is released to attested code only',
    ),
    refused(
        "keys-in-manifest",
        "fs.insecure__keys",
        "Reads the keys of the encrypted files: the manifest is public.",
        "Leave it out; have the keys released to attested code",
        bool,
    ),
)


def outputs(uris: Sequence[str]) -> tuple[str, ...]:
    """The host's folders or files that somebody accepts as public. Raises ``UserError``.

    >>> outputs(["file:/srv/run/models"])
    ('/srv/run/models',)
    """
    return tuple(map(_output, uris))


def _output(uri: str) -> str:
    path = path_of(uri)
    if not manifest_keys.FILE.fits(uri) or ".." in path.split("/"):
        raise UserError(f"{uri!r} is no file:PATH without '..'. Write it as the manifest does")
    path = normal(path)
    if path in (".", "/") or is_code(path) or any(under(path, one) for one in SYSTEM):
        raise UserError(
            f"{uri!r} cannot be accepted as an output: it is too wide, or where code, settings or"
            " devices are. Name a folder that holds nothing else, and write there"
        )
    return path


def check(manifest: Sound, layout: Layout, accepted: Sequence[str], final: bool) -> Iterator[Hit]:
    """Everything about files and mounts that takes more than one value to judge."""
    yield from _allowed(manifest, layout, accepted)
    yield from _trusted(manifest, final)
    yield from _root(manifest, layout)
    for mount in layout.mounts:
        if mount.at:
            yield from _mount(mount)
    for path, uri in _uris(manifest, layout):
        parts = path_of(uri).split("/")
        if ".." in parts:
            yield Hit("uri-dotdot", path, uri)
        elif parts[0] != "":
            yield Hit("uri-relative", path, uri)


def _allowed(manifest: Sound, layout: Layout, accepted: Sequence[str]) -> Iterator[Hit]:
    for index, uri in rows(manifest, "allowed_files"):
        at, path = ("sgx", "allowed_files", index), normal(path_of(uri))
        if trusted := layout.first_trusted(path):
            yield Hit("allowed-trusted", at, uri, f"trusted there: {trusted!a}")
        elif is_code(path):
            yield Hit("allowed-code", at, uri)
        elif inside := next(filter(is_code, layout.insides(path)), None):
            yield Hit("allowed-code", at, uri, f"the enclave sees it at {inside!a}")
        elif uri.startswith("dev:") or not any(under(path, one) for one in accepted):
            yield Hit("allowed-file", at, uri)


def _trusted(manifest: Sound, final: bool) -> Iterator[Hit]:
    hashes: dict[str, str] = {}
    for index, entry in rows(manifest, "trusted_files"):
        at, uri = ("sgx", "trusted_files", index), uri_of(entry)
        digest = entry.get("sha256", "").lower() if isinstance(entry, dict) else ""
        if final and uri.endswith("/"):
            yield Hit("trusted-folder", at, uri)
        elif final and not digest and not manifest.is_broken(*at, "sha256"):
            yield Hit("trusted-unhashed", at, uri)
        if digest and hashes.setdefault(normal(path_of(uri)), digest) != digest:
            yield Hit("trusted-conflict", at, entry)


def _root(manifest: Sound, layout: Layout) -> Iterator[Hit]:
    root = layout.mounts[0]
    if root.source == "." and not manifest.is_broken(*ROOT):
        yield Hit("host-root", ROOT, manifest.get(*ROOT))


def _mount(mount: Mount) -> Iterator[Hit]:
    uri, at = mount.uri, (*mount.at, "uri")
    if mount.at != ROOT and (mount.path == "/" or not mount.path.startswith("/")):
        yield Hit("mount-path", (*mount.at, "path"), mount.path)
    if mount.kind == "untrusted_shm":
        yield Hit("untrusted-shm", (*mount.at, "type"), mount.kind)
    if mount.kind == "encrypted" and mount.key_name == "_sgx_mrsigner":
        yield Hit("signer-key", (*mount.at, "key_name"), mount.key_name)
    if mount.kind == "tmpfs":
        return
    if uri is None:
        yield Hit("missing-key", at)
    elif not manifest_keys.URI.fits(uri):
        yield Hit("wrong-type", at, uri, f"expected {manifest_keys.URI.expected}")
    elif mount.kind != "untrusted_shm":
        source = mount.source or ""
        if source == "/" or any(under(source, one) for one in SYSTEM):
            yield Hit("host-mount", at, uri)
        elif any(under(mount.path, one) for one in SYSTEM):
            yield Hit("mount-over-system", (*mount.at, "path"), mount.path)


def _uris(manifest: Sound, layout: Layout) -> Iterator[tuple[Path, str]]:
    """Every URI by which Gramine finds a file, and where it stands."""
    for key in ("allowed_files", "trusted_files"):
        for index, entry in rows(manifest, key):
            yield ("sgx", key, index), uri_of(entry)
    for mount in layout.mounts:
        if mount.at == ROOT and mount.source == ".":  # told as host-root
            continue
        if mount.at and mount.source is not None and manifest_keys.URI.fits(mount.uri):
            yield (*mount.at, "uri"), mount.uri or ""
    for place in (("entrypoint", "uri"), ("argv_src_file",), ("env_src_file",)):
        if (uri := manifest.get("loader", *place)) is not None:
            yield ("loader", *place), uri
