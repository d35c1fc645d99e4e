# SPDX-License-Identifier: Apache-2.0
"""A Gramine package by its shape: each of its files is an ELF file made by hand, none is Gramine's.

So what is made with it is made as with the real one, and starts nowhere.
"""

import io
import tarfile
from pathlib import Path

from tests.support import elves

from fedclave.workspace.gramine.runtime import RELEASES

FOLDER = "usr/lib/x86_64-linux-gnu/gramine"
ABOUT = "usr/lib/python3/dist-packages/graminelibos.dist-info/METADATA"


def files(version: str = "1.9") -> dict[str, bytes]:
    """By path below /, as the package of 1.9 lays them out."""
    layout = RELEASES["1.9"]
    found = {f"{FOLDER}/{name}": elves.library([name]) for name in layout.programs}
    found |= {f"{FOLDER}/{name}": elves.library([name, "x"]) for name in layout.parts}
    found[f"{FOLDER}/sgx/libpal.so"] = elves.PAL
    found |= {
        f"{FOLDER}/runtime/glibc/{name}": elves.library([f"of {name}"]) for name in layout.libraries
    }
    found[ABOUT] = f"Metadata-Version: 2.1\nName: graminelibos\nVersion: {version}\n".encode()
    return found


def folder(root: Path, version: str = "1.9") -> Path:
    """Unpacked below a folder."""
    for name, data in files(version).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def package(target: Path, *, compression: str = "xz", **more: bytes) -> Path:
    """As a .deb; ``more`` are further members of its data.tar."""
    data = io.BytesIO()
    mode = {"xz": "w:xz", "gz": "w:gz", "": "w"}.get(compression, "w")
    with tarfile.open(fileobj=data, mode=mode) as archive:
        for name, content in {**files(), **more}.items():
            info = tarfile.TarInfo(f"./{name}" if not name.startswith("..") else name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    suffix = f".{compression}" if compression else ""
    members = (("debian-binary", b"2.0\n"), (f"data.tar{suffix}", data.getvalue()))
    target.write_bytes(b"!<arch>\n" + b"".join(_member(*one) for one in members))
    return target


def _member(name: str, data: bytes) -> bytes:
    head = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode()
    return head + data + b"\n" * (len(data) % 2)
