# SPDX-License-Identifier: Apache-2.0
"""What an enclave was made of: all that somebody else needs to make its manifests again.

    plan/enclave.json    the recipe
    plan/libpal.so       the part of Gramine that is measured page by page
    plan/ROLE.sig        the signature over each role's measurement, if somebody signed

They travel with the workspace and vouch for nothing by themselves: a recipe is a claim, and
``measure`` computes what follows from it. It is not part of the contract, whose digest it names.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

from fedclave import canonical
from fedclave.errors import Code, Refused, UserError
from fedclave.trust import elf, mrenclave
from fedclave.workspace.gramine import manifest
from fedclave.workspace.gramine.manifest import ROLES, Framework, Role, Settings
from fedclave.workspace.gramine.measured import Measured
from fedclave.workspace.images.content import Interpreter

VERSION = 1
MAX_SIZE = 32 * 2**20  # bytes; a file takes 170
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Gramine:
    """The release, and the SHA-256 (hex) of its two parts that run inside."""

    release: str
    libpal: str
    libos: str


@dataclass(frozen=True, kw_only=True)
class BaseImage:
    """The base image: its name, for people, and its ID (hex)."""

    name: str
    id: str


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """``files`` are sorted by path; ``measurements`` are MRENCLAVE (hex) by role."""

    contract: str  # Contract.measured_id
    base: BaseImage
    python: Interpreter
    gramine: Gramine
    settings: Settings
    folders: tuple[str, ...]
    files: tuple[Measured, ...]
    measurements: Mapping[str, str]

    @property
    def encoded(self) -> bytes:
        """The canonical bytes: what lies in plan/enclave.json."""
        value = {"v": VERSION, **asdict(self)}
        value["files"] = [[one.path, one.sha256, one.origin] for one in self.files]
        return canonical.encode(value)

    def manifest(self, role: Role, *, protected: bool = True) -> bytes:
        """The final manifest of a role; see ``manifest.render``."""
        return manifest.render(
            role,
            self.settings,
            self.files,
            self.gramine.libos,
            self.folders,
            protected=protected,
        )


def derive(
    *,
    contract: str,
    base: BaseImage,
    python: Interpreter,
    gramine: Gramine,
    settings: Settings,
    folders: Sequence[str],
    files: Sequence[Measured],
    libpal: bytes,
) -> Recipe:
    """The recipe of these inputs, measured. ``libpal`` are the bytes of Gramine's binary for SGX.

    ``UserError``: sizes that no enclave can have. ``Refused``: another libpal than ``gramine``'s.
    """
    manifest.check(settings)
    draft = Recipe(
        contract=contract,
        base=base,
        python=python,
        gramine=gramine,
        settings=settings,
        folders=tuple(folders),
        files=tuple(sorted(files, key=lambda one: one.path)),
        measurements={},
    )
    return replace(draft, measurements={role: measure(draft, role, libpal) for role in ROLES})


def measure(recipe: Recipe, role: Role, libpal: bytes) -> str:
    """MRENCLAVE (hex) of a role, computed from the recipe; what it claims is not looked at."""
    if hashlib.sha256(libpal).hexdigest() != recipe.gramine.libpal:
        raise Refused(
            Code.ATT_MRENCLAVE,
            "libpal.so is not the one that the recipe names (SHA-256"
            f" {recipe.gramine.libpal[:16]}). Take it from Gramine {recipe.gramine.release}",
        )
    release = mrenclave.RELEASES.get(recipe.gramine.release)
    if release is None:
        known = ", ".join(mrenclave.RELEASES)
        raise UserError(
            f"the layout of Gramine {recipe.gramine.release} is not known here. Known: {known}"
        )
    shape = mrenclave.Shape(
        size=mrenclave.size_of(recipe.settings.size), threads=recipe.settings.max_threads
    )
    pal = elf.parse(libpal, "libpal.so")
    return mrenclave.measure(recipe.manifest(role), pal, shape, release).hex()


def parse(raw: bytes, name: str) -> Recipe:
    """The recipe in canonical bytes; ``name`` is where they come from. ``Refused(MALFORMED)``."""
    if len(raw) > MAX_SIZE:
        raise _wrong(name, f"it has more than {MAX_SIZE >> 20} MiB")
    try:
        value = canonical.decode(raw)
        if not isinstance(value, dict) or value.pop("v", None) != VERSION:
            raise ValueError(f"it is not of version {VERSION}")
        found = _recipe(value)
    except Refused as refused:
        raise _wrong(name, refused.message) from refused
    except (TypeError, KeyError, ValueError) as error:
        raise _wrong(name, str(error)) from error
    return found


def _recipe(value: dict[str, Any]) -> Recipe:
    files = tuple(_file(row) for row in value.pop("files"))
    paths = [one.path for one in files]
    if paths != sorted(set(paths)):
        raise ValueError("its files are not sorted, or one stands twice")
    settings = Settings(**_of(Settings, value.pop("settings")))
    if settings.framework not in get_args(Framework):
        raise ValueError(f"it is of the framework {settings.framework!r:.40}")
    recipe = Recipe(
        contract=_hex(value.pop("contract")),
        base=BaseImage(**_of(BaseImage, value.pop("base"))),
        python=Interpreter(**_of(Interpreter, value.pop("python"))),
        gramine=Gramine(**_of(Gramine, value.pop("gramine"))),
        settings=settings,
        folders=tuple(map(_path, value.pop("folders"))),
        files=files,
        measurements={str(role): _hex(one) for role, one in value.pop("measurements").items()},
    )
    if value or set(recipe.measurements) != set(ROLES):
        raise ValueError("it says more, or of other roles, than a recipe does")
    return recipe


def _file(row: Any) -> Measured:
    path, sha256, origin = row
    if not isinstance(origin, str):
        raise ValueError("a file's origin is no text")
    return Measured(path=_path(path), sha256=_hex(sha256), origin=origin)


def _of(kind: type, value: Any) -> dict[str, Any]:
    """The fields of a dataclass of texts and numbers, each of its type."""
    fields = kind.__dataclass_fields__  # type: ignore[attr-defined]
    if not isinstance(value, dict) or value.keys() != fields.keys():
        raise ValueError(f"{kind.__name__.lower()} has other fields than {', '.join(fields)}")
    for name, field in fields.items():
        wanted = int if field.type is int else str
        if type(value[name]) is not wanted:
            raise ValueError(f"{name} is no {wanted.__name__}")
    return value


def _path(value: Any) -> str:
    if not isinstance(value, str) or not value.startswith("/") or ".." in value.split("/"):
        raise ValueError(f"{json.dumps(value)[:80]} is no absolute path")
    return value


def _hex(value: Any) -> str:
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise ValueError(f"{json.dumps(value)[:80]} is no SHA-256")
    return value


def _wrong(name: str, reason: str) -> Refused:
    return Refused(Code.MALFORMED, f"{name} is no recipe of an enclave: {reason}. Get it again")
