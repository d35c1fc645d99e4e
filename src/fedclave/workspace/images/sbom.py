# SPDX-License-Identifier: Apache-2.0
"""What is in an image, as a CycloneDX 1.6 document (ECMA-424): the same for the same image."""

import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from fedclave.workspace.images import tree, wheels
from fedclave.workspace.images.tree import File, Tree
from fedclave.workspace.images.wheels import Wheel

_SPACE = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")  # RFC 9562 6.6: names that are URLs
_STATUS = "/var/lib/dpkg/status"


@dataclass(frozen=True, kw_only=True)
class About:
    """The image itself, and what it stands on."""

    name: str
    version: str
    base: str  # the base's name
    base_id: str  # SHA-256 (hex) of its config
    created: str  # RFC 3339


def document(about: About, wheels_: Iterable[Wheel], base: Tree) -> bytes:
    """The document's bytes: the wheels with their SHA-256, the base and its Debian packages."""
    components = [*_base(about), *map(_wheel, wheels_), *_packages(base)]
    body: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": about.created,
            "component": {
                "type": "container",
                "bom-ref": "image",
                "name": about.name,
                "version": about.version,
            },
        },
        "components": components,
        "dependencies": [
            {"ref": "image", "dependsOn": sorted(one["bom-ref"] for one in components)}
        ],
    }
    text = json.dumps(body, sort_keys=True)
    body["serialNumber"] = f"urn:uuid:{uuid.uuid5(_SPACE, text)}"
    return (json.dumps(body, sort_keys=True, indent=1) + "\n").encode()


def _base(about: About) -> list[dict[str, Any]]:
    return [
        {
            "type": "container",
            "bom-ref": "base",
            "name": about.base,
            "hashes": [{"alg": "SHA-256", "content": about.base_id}],
        }
    ]


def _wheel(wheel: Wheel) -> dict[str, Any]:
    purl = f"pkg:pypi/{wheel.name}@{quote(wheel.version, safe='.-')}"
    made = {
        "type": "library",
        "bom-ref": purl,
        "name": wheel.name,
        "version": wheel.version,
        "purl": purl,
        "hashes": [{"alg": "SHA-256", "content": wheel.sha256}],
    }
    said = wheels.licence(wheel)
    return {**made, "licenses": [{"license": {"name": said}}]} if said else made


def _packages(base: Tree) -> list[dict[str, Any]]:
    """The base's Debian packages, as ``dpkg`` noted them (deb-control(5))."""
    found = tree.find(base, _STATUS)
    if found is None or not isinstance(found[1], File):
        return []
    text = tree.content(found[1]).decode("utf-8", "replace")
    packages = [_fields(paragraph) for paragraph in text.split("\n\n")]
    return [
        _package(fields)
        for fields in sorted(packages, key=lambda fields: fields.get("Package", ""))
        if fields.get("Status", "").endswith(" installed")
    ]


def _package(fields: Mapping[str, str]) -> dict[str, Any]:
    name, version = fields["Package"], fields.get("Version", "")
    architecture = fields.get("Architecture", "")
    purl = f"pkg:deb/debian/{quote(name)}@{quote(version, safe='.-')}?arch={architecture}"
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
    }


def _fields(paragraph: str) -> dict[str, str]:
    lines = (line for line in paragraph.splitlines() if line[:1] not in (" ", "\t", ""))
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
