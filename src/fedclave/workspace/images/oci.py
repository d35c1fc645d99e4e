# SPDX-License-Identifier: Apache-2.0
"""Container images as files are read: OCI image layout, and the archives of ``docker save``.

Either may be a folder or a tar, and nothing in it is believed: each blob must have the digest that
names it, each layer the one that the config names.

Sources: OCI Image Format Specification 1.1 (image-layout.md, manifest.md, config.md, layer.md).
"""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedclave.errors import Code, Refused, UserError
from fedclave.workspace.images.tree import File, Folder, Link, Node, Tree

_MAX_JSON = 16 * 2**20  # bytes of a manifest or config
_BLOCK = 2**20
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer: an uncompressed tar on this machine, and the SHA-256 (hex) of it."""

    diff_id: str
    path: Path


@dataclass(frozen=True, kw_only=True)
class Image:
    """A config (OCI config.md) and the layers that it names, lowest first."""

    config: Mapping[str, Any]
    layers: tuple[Layer, ...]
    id: str  # SHA-256 (hex) of the config's bytes: what docker calls the image's ID


def read(source: Path, into: Path) -> Image:
    """The image for linux/amd64 in a layout folder or an archive; layers are unpacked to a folder.

    ``UserError``: there is none, or it is no image. ``Refused``: it is damaged.
    """
    if source.is_dir():
        return _image(source, source, into)
    if not source.is_file():
        raise UserError(f"there is no image at {source}. Name an OCI layout, or a saved image")
    blobs = into / "archive"
    blobs.mkdir(parents=True, exist_ok=True)
    _extract(source, blobs)
    return _image(source, blobs, into)


def files(image: Image) -> dict[str, Node]:
    """Everything in an image, its layers laid over each other (layer.md, whiteouts)."""
    merged: dict[str, Node] = {}
    for layer in image.layers:
        with tarfile.open(layer.path, "r:") as archive:
            _lay_all(merged, archive.getmembers(), layer.path)
    return merged


class _Slice(io.RawIOBase):
    """A part of a file, as a file."""

    def __init__(self, path: Path, offset: int, size: int) -> None:
        self._file = path.open("rb")
        self._file.seek(offset)
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)[: self._left]
        count = self._file.readinto(view)
        self._left -= count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _image(source: Path, folder: Path, into: Path) -> Image:
    if (folder / "index.json").is_file():
        raw, blobs = _from_layout(source, folder)
    elif (folder / "manifest.json").is_file():
        raw, blobs = _from_docker(source, folder)
    else:
        raise UserError(
            f"{source} is not an image: it has no index.json and no manifest.json. Save one with"
            " 'docker save', or 'buildah push NAME oci-archive:FILE'"
        )
    config = _parsed(raw, source)
    platform = (config.get("os"), config.get("architecture"))
    if platform != ("linux", "amd64"):
        raise UserError(f"{source} is for {platform[0]}/{platform[1]}. Name one for linux/amd64")
    ids = [str(one).removeprefix("sha256:") for one in config["rootfs"]["diff_ids"]]
    if len(ids) != len(blobs):
        raise _damaged(source, "its config and its manifest count other layers")
    layers = tuple(
        _unpacked(source, blob, diff_id, into) for blob, diff_id in zip(blobs, ids, strict=True)
    )
    return Image(config=config, layers=layers, id=_hash(raw))


def _from_layout(source: Path, folder: Path) -> tuple[bytes, list[Path]]:
    index = _parsed(_small(folder / "index.json", source), source)
    for _ in range(3):  # an index may name an index
        described = _chosen(index["manifests"], source)
        document = _parsed(_checked(folder, described, source), source)
        if "manifests" not in document:
            config = _checked(folder, document["config"], source)
            return config, [_located(folder, one, source) for one in document["layers"]]
        index = document
    raise _damaged(source, "its indexes name each other")


def _chosen(manifests: Sequence[Mapping[str, Any]], source: Path) -> Mapping[str, Any]:
    def fits(one: Mapping[str, Any]) -> bool:
        platform = one.get("platform", {"os": "linux", "architecture": "amd64"})
        return (platform.get("os"), platform.get("architecture")) == ("linux", "amd64")

    fitting = [one for one in manifests if fits(one)]
    if len(fitting) != 1:
        raise UserError(
            f"{source} holds {len(fitting)} images for linux/amd64, and one is needed. Save one"
            " image alone"
        )
    return fitting[0]


def _from_docker(source: Path, folder: Path) -> tuple[bytes, list[Path]]:
    saved = json.loads(_small(folder / "manifest.json", source))
    if not isinstance(saved, list) or len(saved) != 1:
        raise UserError(f"{source} holds several images, and one is needed. Save one image alone")
    raw = _small(folder / saved[0]["Config"], source)
    return raw, [folder / name for name in saved[0]["Layers"]]


def _unpacked(source: Path, blob: Path, diff_id: str, into: Path) -> Layer:
    """A layer without its compression; its bytes must be those that the config names."""
    into.mkdir(parents=True, exist_ok=True)
    target = into / f"{diff_id[:64]}.tar"
    state = hashlib.sha256()
    try:
        with blob.open("rb") as file:
            start = file.read(4)
            file.seek(0)
            if start == _ZSTD:
                raise UserError(
                    f"{source} has layers in zstd, which this Python cannot read. Save it anew with"
                    " 'docker save', which leaves them uncompressed"
                )
            plain = gzip.GzipFile(fileobj=file) if start.startswith(_GZIP) else file
            with target.open("wb") as out:
                while block := plain.read(_BLOCK):
                    state.update(block)
                    out.write(block)
    except FileNotFoundError:
        raise _damaged(source, f"the layer {blob.name[:16]} is missing") from None
    except (EOFError, gzip.BadGzipFile) as error:
        raise _damaged(source, f"a layer does not unpack ({error})") from error
    if state.hexdigest() != diff_id:
        raise _damaged(source, f"a layer is not the {diff_id[:16]} that its config names")
    return Layer(diff_id=diff_id, path=target)


def _extract(source: Path, folder: Path) -> None:
    """The regular files of an archive, by their own names and nowhere else."""
    try:
        with tarfile.open(source) as archive:
            for member in archive:
                if member.isreg() or member.islnk() or member.issym():
                    archive.extract(member, folder, filter="data")
    except (tarfile.TarError, EOFError, gzip.BadGzipFile) as error:
        raise UserError(f"{source} is not a saved image ({error}). Save it again") from error


def _lay_all(merged: dict[str, Node], members: Sequence[tarfile.TarInfo], layer: Path) -> None:
    """Lay a layer over those below it. Its whiteouts are about those alone, wherever they stand."""
    placed = [(above, name, one) for one in members for above, name in _parts(one)]
    for above, name, _ in placed:
        if name == ".wh..wh..opq":
            _forget(merged, above, inside_only=True)
        elif name.startswith(".wh."):
            _forget(merged, f"{above.rstrip('/')}/{name[4:]}")
    for above, name, member in placed:
        if not name.startswith(".wh."):
            _lay(merged, f"{above.rstrip('/')}/{name}", member, layer)


def _parts(member: tarfile.TarInfo) -> Iterator[tuple[str, str]]:
    parts = [part for part in member.name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise Refused(Code.MALFORMED, f"a layer names {member.name!r}. Use another base image")
    if parts:
        yield "/" + "/".join(parts[:-1]), parts[-1]


def _lay(merged: dict[str, Node], path: str, member: tarfile.TarInfo, layer: Path) -> None:
    node = _node(merged, member, layer)
    if isinstance(merged.get(path), Folder) and not isinstance(node, Folder):
        _forget(merged, path)
    if node is not None:
        merged[path] = node


def _node(merged: Tree, member: tarfile.TarInfo, layer: Path) -> Node | None:
    if member.isdir():
        return Folder(mode=member.mode & 0o7777, owner=member.uid)
    if member.issym():
        return Link(target=member.linkname)
    if member.islnk():
        return merged.get("/" + member.linkname.removeprefix("./").lstrip("/"))
    if not member.isreg():
        return None  # a device: nothing that we read
    offset, size = member.offset_data, member.size
    return File(
        size=size,
        read=lambda: io.BufferedReader(_Slice(layer, offset, size)),
        mode=member.mode & 0o7777,
        owner=member.uid,
    )


def _forget(merged: dict[str, Node], path: str, *, inside_only: bool = False) -> None:
    below = "/" if path == "/" else f"{path}/"
    for one in [one for one in merged if one.startswith(below)]:
        del merged[one]
    if not inside_only:
        merged.pop(path, None)


def _checked(folder: Path, described: Mapping[str, Any], source: Path) -> bytes:
    path = _located(folder, described, source)
    raw = _small(path, source)
    if _hash(raw) != path.name:
        raise _damaged(source, f"the blob {path.name[:16]} has other bytes")
    return raw


def _located(folder: Path, described: Mapping[str, Any], source: Path) -> Path:
    kind, _, digest = str(described.get("digest", "")).partition(":")
    if kind != "sha256" or len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise _damaged(source, f"{described.get('digest')!r:.80} is not a SHA-256")
    return folder / "blobs" / "sha256" / digest


def _small(path: Path, source: Path) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_JSON + 1)
    except OSError as error:
        raise _damaged(source, f"{path.name} cannot be read ({error.strerror})") from error
    if len(raw) > _MAX_JSON:
        raise _damaged(source, f"{path.name} is larger than {_MAX_JSON >> 20} MiB")
    return raw


def _parsed(raw: bytes, source: Path) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise _damaged(source, f"its JSON does not parse ({error})") from error
    if not isinstance(value, dict):
        raise _damaged(source, "its JSON is no object")
    return value


def _hash(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def _damaged(source: Path, reason: str) -> Refused:
    return Refused(Code.MALFORMED, f"{source}: {reason}. Save or pull the image again")
