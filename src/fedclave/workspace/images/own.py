# SPDX-License-Identifier: Apache-2.0
"""The running fedclave as a wheel: the same code gives the same bytes, wherever it was installed.

It is what an image runs, so it stands in the lock like every other wheel, by its SHA-256. Two
parties that hold the same release make the same file; one changed line makes another.
"""

import base64
import hashlib
import re
import zipfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import fedclave
from fedclave.trust import measure
from fedclave.workspace import output
from fedclave.workspace.images import wheels
from fedclave.workspace.images.wheels import Wheel

NAME = "fedclave"
_WHEEL = "Wheel-Version: 1.0\nGenerator: fedclave\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_NO_PACKAGE = "0" * 64  # no contract: only the files count here


def build(folder: Path) -> Wheel:
    """Write ``fedclave-VERSION-py3-none-any.whl`` into a folder. ``UserError``: it cannot be."""
    root = Path(fedclave.__file__).parent
    listed = measure.measure({NAME: root}, _NO_PACKAGE)
    version = fedclave.__version__
    info = f"{NAME}-{version}.dist-info"
    with output.blamed_on(folder):
        folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{NAME}-{version}-py3-none-any.whl"
    added = {f"{info}/METADATA": _metadata(version).encode(), f"{info}/WHEEL": _WHEEL.encode()}
    with (
        output.new_file(target) as path,
        zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive,
    ):
        record = []
        for name in listed.files:
            record.append(_add(archive, name, (root.parent / name).read_bytes()))
        for name, data in added.items():
            record.append(_add(archive, name, data))
        lines = "".join([*record, f"{info}/RECORD,,\n"])
        _add(archive, f"{info}/RECORD", lines.encode())
    return wheels.open_(target)


def _metadata(version: str) -> str:
    """The core metadata that pip resolves by; each requirement in one spelling."""
    lines = ["Metadata-Version: 2.1", f"Name: {NAME}", f"Version: {version}"]
    lines += ["License: Apache-2.0", "Requires-Python: >=3.11"]
    requires = [re.sub(r"\s+", "", _spelled(one)) for one in metadata.requires(NAME) or ()]
    extras = {match[1] for one in requires if (match := re.search(r"extra=='([^']+)'", one))}
    lines += [f"Provides-Extra: {extra}" for extra in sorted(extras)]
    lines += [f"Requires-Dist: {one}" for one in _ordered(requires)]
    return "\n".join(lines) + "\n"


def _spelled(requirement: str) -> str:
    return requirement.replace('"', "'")


def _ordered(requires: Iterable[str]) -> list[str]:
    return sorted(set(requires))


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> str:
    """Add a file; returns its line of RECORD."""
    info = zipfile.ZipInfo(name)  # dated 1980-01-01
    info.create_system = 3
    info.external_attr = 0o100644 << 16
    archive.writestr(info, data)
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(data)}\n"
