# SPDX-License-Identifier: Apache-2.0
"""Small images, wheels and locks, made by hand, for tests that need no network."""

import base64
import gzip
import hashlib
import io
import json
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
STDLIB = f"usr/lib/python{VERSION}"
ROOT: dict[str, str | bytes] = {
    f"usr/bin/python{VERSION}": b"\x7fELF interpreter",
    "usr/bin/python3": f"-> python{VERSION}",
    "bin": "-> usr/bin",
    f"{STDLIB}/os.py": b"import sys\n",
    f"{STDLIB}/test/test_os.py": b"x = 1\n",
    f"{STDLIB}/json/__init__.py": b"y = 2\n",
    "var/lib/dpkg/status": b"Package: libc6\nStatus: install ok installed\n"
    b"Version: 2.36-9+deb12u14\nArchitecture: amd64\n",
}
"""A base's files: bytes, or '-> target' for a link."""


def layer(files: Mapping[str, str | bytes], **members: str) -> bytes:
    """A layer's tar; in ``members`` are whiteouts and other odd names, with their types."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, what in files.items():
            info = tarfile.TarInfo(name)
            if isinstance(what, str):
                info.type, info.linkname = tarfile.SYMTYPE, what.removeprefix("-> ")
                archive.addfile(info)
            else:
                info.size, info.mode = len(what), 0o644
                archive.addfile(info, io.BytesIO(what))
    return out.getvalue()


def digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def config(layers: list[bytes], **own: Any) -> bytes:
    value = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["PATH=/usr/bin:/bin", "LANG=C.UTF-8"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest(one)}" for one in layers]},
        **own,
    }
    return json.dumps(value).encode()


def oci(folder: Path, layers: list[bytes], *, compress: bool = True, **own: Any) -> Path:
    """An OCI layout with these layers."""
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True)

    def blob(raw: bytes, kind: str) -> dict[str, Any]:
        (blobs / digest(raw)).write_bytes(raw)
        return {"mediaType": kind, "digest": f"sha256:{digest(raw)}", "size": len(raw)}

    packed = [gzip.compress(one) if compress else one for one in layers]
    manifest = {
        "schemaVersion": 2,
        "config": blob(config(layers, **own), "application/vnd.oci.image.config.v1+json"),
        "layers": [blob(one, "application/vnd.oci.image.layer.v1.tar+gzip") for one in packed],
    }
    index = {
        "schemaVersion": 2,
        "manifests": [
            blob(json.dumps(manifest).encode(), "application/vnd.oci.image.manifest.v1+json")
        ],
    }
    (folder / "index.json").write_text(json.dumps(index))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return folder


def docker(target: Path, layers: list[bytes]) -> Path:
    """An archive as ``docker save`` writes it."""
    raw = config(layers)
    named = {f"{digest(one)}/layer.tar": one for one in layers}
    saved = [{"Config": f"{digest(raw)}.json", "RepoTags": ["x:1"], "Layers": list(named)}]
    files = {f"{digest(raw)}.json": raw, "manifest.json": json.dumps(saved).encode(), **named}
    target.write_bytes(layer(files))
    return target


def wheel(
    folder: Path, name: str, files: Mapping[str, bytes], *, version: str = "1.0", **changed: bytes
) -> Path:
    """A wheel with its RECORD; ``changed`` are files whose bytes RECORD does not know."""
    info = f"{name}-{version}.dist-info"
    told = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\n"
        f"Version: {version}\nLicense: MIT\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},sha256={_urlsafe(data)},{len(data)}\n" for path, data in told.items())
    target = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(target, "w") as archive:
        for path, data in {**told, **changed}.items():
            archive.writestr(zipfile.ZipInfo(path), data)
        archive.writestr(zipfile.ZipInfo(f"{info}/RECORD"), record + f"{info}/RECORD,,\n")
    return target


def _urlsafe(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
