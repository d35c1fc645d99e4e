# SPDX-License-Identifier: Apache-2.0
"""Whether an enclave is what its recipe says: made again from one's own inputs, file by file.

Whoever holds the workspace has the contract, and the wheels that its lock names, and makes each of
their files again. With the base image and Gramine's package they make all. What they do not make
again they believe; ``Checked`` says what that is. No file may pass for one that is believed: those
of the base lie where a base has them, those of Gramine in its folder.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fedclave.errors import Code, Refused
from fedclave.trust import manifest as manifests
from fedclave.trust import manifest_lint, sigstruct
from fedclave.workspace.gramine import measured, runtime
from fedclave.workspace.gramine import recipe as recipes
from fedclave.workspace.gramine.manifest import OUTPUT, ROLES, Role
from fedclave.workspace.gramine.measured import ENCLAVE, PYTHON, WHEEL, Measured, Sources
from fedclave.workspace.gramine.recipe import Recipe
from fedclave.workspace.gramine.runtime import Runtime
from fedclave.workspace.images import tree
from fedclave.workspace.images.content import PREFIX, STATE, WORKSPACE, Content
from fedclave.workspace.images.tree import File, Tree

KINDS = (
    measured.CONTRACT,
    "wheel",
    measured.MADE,
    measured.FEDERATION,
    measured.BASE,
    measured.GRAMINE,
)
"""Of origins, in the order in which they are told."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """How many files of each kind were made again, and how many are believed."""

    made: Mapping[str, int]
    believed: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a verifier holds. None: he does not, and believes."""

    parts: Content
    root: bytes | None
    base: Tree | None
    runtime: Runtime | None


def check(recipe: Recipe, inputs: Inputs) -> Checked:
    """Make again what can be; ``Refused(ATT_MRENCLAVE)`` names the first file that differs."""
    mine, folders = _again(recipe, inputs)
    known = {_kind(one.origin) for one in mine}
    if inputs.root is None:
        known.discard(measured.FEDERATION)
    _check_places(recipe, known)
    theirs = [one for one in recipe.files if _kind(one.origin) in known]
    _compare(theirs, [one for one in mine if _kind(one.origin) in known])
    if folders is not None and folders != recipe.folders:
        raise _differs(
            f"its libraries are looked for in {':'.join(recipe.folders)}; the base image has them"
            f" in {':'.join(folders)}"
        )
    for role in ROLES:
        _check_closed(recipe, role)
    counts = dict.fromkeys(KINDS, 0)
    for one in recipe.files:
        counts[_kind(one.origin)] += 1
    return Checked(
        made={kind: n for kind, n in counts.items() if n and kind in known},
        believed={kind: n for kind, n in counts.items() if n and kind not in known},
    )


def check_measurements(recipe: Recipe, libpal: bytes) -> dict[str, str]:
    """MRENCLAVE (hex) by role, computed. ``Refused``: the recipe claims another."""
    found: dict[str, str] = {}
    for role in ROLES:
        found[role] = recipes.measure(recipe, role, libpal)
        if recipe.measurements[role] != found[role]:
            raise _differs(
                f"it claims {recipe.measurements[role]} for the {role}, and its own files make"
                f" {found[role]}"
            )
    return found


def check_signature(raw: bytes, role: Role, mr_enclave: str, name: str) -> str:
    """MRSIGNER (hex) of a SIGSTRUCT over this measurement. ``Refused``: it is over another."""
    found = sigstruct.parse(raw)
    said = found.body.mrenclave.hex()
    if said != mr_enclave:
        raise Refused(
            Code.ATT_MRENCLAVE,
            f"{name} signs {said}, and the {role} is {mr_enclave}. Something was changed after it"
            " was signed; have it made and signed anew",
        )
    if found.body.allows_debug:
        raise Refused(
            Code.ATT_MRENCLAVE,
            f"{name} lets the host start the {role} in debug mode, and read its memory. Have it"
            " signed anew, with fedclave",
        )
    return found.mrsigner.hex()


def check_image(recipe: Recipe, image: Tree, name: str) -> None:
    """Hold an image to a recipe: manifests, signatures, every file that is measured, Gramine."""
    for one in recipe.files:
        _check_file(image, one.path, one.sha256, name)
    _check_file(image, runtime.LIBPAL, recipe.gramine.libpal, name)
    _check_file(image, runtime.LIBOS, recipe.gramine.libos, name)
    for role in ROLES:
        path = f"{ENCLAVE}/{role}.manifest.sgx"
        text, expected = _content(image, path, name), recipe.manifest(role)
        if text != expected:
            raise Refused(
                Code.ATT_MRENCLAVE,
                f"{name}: {path} is not what the recipe makes: {_first_line(text, expected)}. It"
                " was edited after it was made; make the image anew",
            )
        signature = f"{ENCLAVE}/{role}.sig"
        raw = _content(image, signature, name)
        check_signature(raw, role, recipe.measurements[role], f"{name}: {signature}")


def _again(recipe: Recipe, inputs: Inputs) -> tuple[tuple[Measured, ...], tuple[str, ...] | None]:
    """The files that can be made again, and, with a base, the folders of its libraries."""
    root = inputs.root or b""
    if inputs.base is None:
        own = measured.own_files(inputs.parts, root)
        if inputs.runtime is not None:
            own |= {
                path: (file, measured.GRAMINE) for path, file in inputs.runtime.measured.items()
            }
        return measured.hashed(own), None
    listing = measured.listing(
        Sources(
            parts=inputs.parts,
            python=recipe.python,
            base=inputs.base,
            runtime=inputs.runtime or Runtime(release=recipe.gramine.release, files={}),
            root=root,
        )
    )
    return listing.files, listing.folders


def _check_places(recipe: Recipe, known: Iterable[str]) -> None:
    """What is believed lies only where such files lie."""
    cache = f"{PREFIX}/pycache{recipe.python.stdlib}/"
    for one in recipe.files:
        kind = _kind(one.origin)
        if kind not in KINDS:
            raise _differs(f"{one.path} is of the origin {one.origin!r:.40}, which none is")
        if kind in known:
            continue
        ours = one.path.startswith((f"{PREFIX}/", f"{WORKSPACE}/", f"{STATE}/"))
        fits = {
            measured.BASE: not ours or one.path == PYTHON or one.path.startswith(cache),
            measured.GRAMINE: one.path.startswith(f"{runtime.LIBRARIES}/"),
            measured.FEDERATION: one.path == measured.ROOT,
        }
        if not fits.get(kind, False):
            raise _differs(f"it says that {one.path} is from {kind}, which has nothing there")


def _compare(theirs: list[Measured], mine: list[Measured]) -> None:
    """The first path at which two lists differ."""
    left = {one.path: one for one in theirs}
    right = {one.path: one for one in mine}
    for path in sorted(left.keys() | right.keys()):
        if path not in right:
            raise _differs(f"it has {path}, which these inputs do not make")
        if path not in left:
            raise _differs(f"it lacks {path}, which comes from {right[path].origin}")
        if left[path].sha256 != right[path].sha256:
            raise _differs(
                f"{path} ({right[path].origin}) is another: {left[path].sha256[:16]} in the recipe,"
                f" {right[path].sha256[:16]} from these inputs"
            )
        if left[path].origin != right[path].origin:
            raise _differs(f"{path} comes from {right[path].origin}, not from {left[path].origin}")


def _check_closed(recipe: Recipe, role: Role) -> None:
    """The manifest that a recipe makes leaves nothing to the host."""
    value = manifests.parse(recipe.manifest(role), f"the manifest of the {role}")
    found = manifest_lint.lint(value, allow_outputs=(OUTPUT,), final=True)
    refused = [one for one in found if one.rule.severity is manifest_lint.Severity.REFUSED]
    if refused:
        raise _differs(f"its manifest of the {role} is open to the host: {refused[0]}")


def _check_file(image: Tree, path: str, sha256: str, name: str) -> None:
    match tree.find(image, path):
        case (_, File() as file):
            found = tree.sha256(file)
        case _:
            raise Refused(Code.ATT_MRENCLAVE, f"{name} has no {path}. Make the image anew")
    if found != sha256:
        raise Refused(
            Code.ATT_MRENCLAVE,
            f"{name}: {path} has the SHA-256 {found[:16]}, and is measured as {sha256[:16]}. The"
            " enclave would not open it; make the image anew",
        )


def _content(image: Tree, path: str, name: str) -> bytes:
    match tree.find(image, path):
        case (_, File() as file):
            return tree.content(file)
        case _:
            raise Refused(
                Code.ATT_MRENCLAVE,
                f"{name} has no {path}: nobody signed it. Make it with -s KEY",
            )


def _first_line(text: bytes, expected: bytes) -> str:
    """Where two manifests differ first, in words."""
    left, right = (raw.decode("utf-8", "replace").splitlines() for raw in (text, expected))
    for number, (one, other) in enumerate(zip(left, right, strict=False), 1):
        if one != other:
            return f"line {number} says {one.strip()[:100]!a}, not {other.strip()[:100]!a}"
    return f"it has {len(left)} lines, not {len(right)}"


def _kind(origin: str) -> str:
    return "wheel" if origin.startswith(WHEEL) else origin


def _differs(reason: str) -> Refused:
    return Refused(
        Code.ATT_MRENCLAVE,
        f"the recipe of the enclaves (plan/enclave.json) is not of these inputs: {reason}. Ask who"
        " made it, and accept nothing before you know why",
    )
