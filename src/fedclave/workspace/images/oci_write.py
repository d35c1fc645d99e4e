# SPDX-License-Identifier: Apache-2.0
"""Container images as files are written: one tar that docker, podman and buildah take.

It is an OCI layout and an archive as ``docker save`` writes it, at once. Layers lie in it
uncompressed: Deflate's output differs between zlib versions, and a registry compresses them again
anyway. Names are sorted, dates and owners fixed, so equal trees give equal bytes.

Sources: OCI Image Format Specification 1.1 (image-layout.md, manifest.md, config.md, layer.md).
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from fedclave.workspace import output
from fedclave.workspace.images.oci import Image, Layer
from fedclave.workspace.images.tree import File, Folder, Link, Node, Tree

_INDEX = "application/vnd.oci.image.index.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"


@dataclass(frozen=True, kw_only=True)
class Written:
    """What identifies an image that was written: SHA-256 (hex) of its manifest and its config."""

    digest: str
    id: str
    size: int  # bytes of the archive


def pack(tree: Tree, target: Path, epoch: int) -> Layer:
    """Write a layer: sorted by path, owned as said, all dated ``epoch`` (Unix seconds)."""
    state = hashlib.sha256()
    with target.open("wb") as file:
        sink = _Hashed(file, state)
        with tarfile.open(fileobj=sink, mode="w|", format=tarfile.PAX_FORMAT) as archive:
            for path, node in sorted(tree.items()):
                info = _info(path, node, epoch)
                if isinstance(node, File):
                    with node.read() as source:
                        archive.addfile(info, source)
                else:
                    archive.addfile(info)
    return Layer(diff_id=state.hexdigest(), path=target)


def write(
    target: Path, config: Mapping[str, Any], layers: Sequence[Layer], name: str, epoch: int
) -> Written:
    """Write an image as one archive under a name (``repository:tag``), atomically."""
    raw = _json(config)
    blobs = [(layer.diff_id, layer.path.stat().st_size) for layer in layers]
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": _descriptor(_CONFIG, _hash(raw), len(raw)),
            "layers": [_descriptor(_LAYER, digest, size) for digest, size in blobs],
        }
    )
    named = {
        **_descriptor(_MANIFEST, _hash(manifest), len(manifest)),
        "platform": {"architecture": config["architecture"], "os": config["os"]},
        "annotations": {
            "io.containerd.image.name": name,
            "org.opencontainers.image.ref.name": name.rpartition(":")[2],
        },
    }
    index = _json({"schemaVersion": 2, "mediaType": _INDEX, "manifests": [named]})
    saved = [
        {
            "Config": _blob(_hash(raw)),
            "RepoTags": [name],
            "Layers": [_blob(digest) for digest, _ in blobs],
        }
    ]
    small = {
        "index.json": index,
        "manifest.json": _json(saved),
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
        _blob(_hash(manifest)): manifest,
        _blob(_hash(raw)): raw,
    }
    large = {_blob(layer.diff_id): layer.path for layer in layers}
    with output.new_file(target) as path, tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for folder in ("blobs", "blobs/sha256"):
            tar.addfile(_info(f"/{folder}", Folder(), epoch))
        for inner in sorted({*small, *large}):
            _put(tar, inner, small.get(inner), large.get(inner), epoch)
    return Written(digest=_hash(manifest), id=_hash(raw), size=target.stat().st_size)


def configured(base: Image, layers: Sequence[Layer], own: Mapping[str, Any], epoch: int) -> Any:
    """The config of an image with more layers on a base; ``own`` is config.md's ``config``."""
    return {
        "architecture": base.config["architecture"],
        "os": base.config["os"],
        "created": time_of(epoch),
        "config": dict(own),
        "rootfs": {
            "type": "layers",
            "diff_ids": [f"sha256:{layer.diff_id}" for layer in (*base.layers, *layers)],
        },
    }


def time_of(epoch: int) -> str:
    """RFC 3339 of Unix seconds.

    >>> time_of(315532800)
    '1980-01-01T00:00:00Z'
    """
    return f"{datetime.fromtimestamp(epoch, UTC):%Y-%m-%dT%H:%M:%SZ}"


class _Hashed(io.RawIOBase):
    """A file that is written, and hashed as it is."""

    def __init__(self, file: IO[bytes], state: "hashlib._Hash") -> None:
        self._file, self._state = file, state

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._state.update(data)
        return self._file.write(data)


def _info(path: str, node: Node, epoch: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(path.lstrip("/"))
    info.mtime = epoch
    match node:
        case Folder(mode=mode, owner=owner):
            info.type, info.mode, info.uid, info.gid = tarfile.DIRTYPE, mode, owner, owner
        case Link(target=target):
            info.type, info.mode, info.linkname = tarfile.SYMTYPE, 0o777, target
        case File(mode=mode, owner=owner, size=size):
            info.mode, info.uid, info.gid, info.size = mode, owner, owner, size
    return info


def _put(
    tar: tarfile.TarFile, name: str, data: bytes | None, path: Path | None, epoch: int
) -> None:
    info = tarfile.TarInfo(name)
    info.mtime, info.mode = epoch, 0o644
    if data is not None:
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    elif path is not None:
        info.size = path.stat().st_size
        with path.open("rb") as file:
            tar.addfile(info, file)


def _descriptor(kind: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": kind, "digest": f"sha256:{digest}", "size": size}


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _blob(digest: str) -> str:
    return f"blobs/sha256/{digest}"


def _hash(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
