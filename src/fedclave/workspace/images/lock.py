# SPDX-License-Identifier: Apache-2.0
r"""``requirements.lock``: every wheel of an image, by exact version and SHA-256.

    # python 3.11
    --extra-index-url https://download.pytorch.org/whl/cpu
    numpy==2.4.6 \
        --hash=sha256:5f...

It is in pip's own format (hash-checking mode), and part of the contract. It names the indexes that
``requirements.txt`` names, so that others find the same wheels. ``make`` resolves
``requirements.txt`` with pip, for the Python and the platform of the image, from wheels alone: what
would have to be built is refused, for building runs its code. ``gather`` brings the wheels that a
lock names, and no others.
"""

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedclave.errors import Unavailable, UserError
from fedclave.tensors import file_digest
from fedclave.workspace import output
from fedclave.workspace.images import own, requirements, wheels
from fedclave.workspace.images.wheels import Wheel

PLATFORMS = (
    *(f"manylinux_2_{minor}_x86_64" for minor in range(36, 4, -1)),
    "manylinux2014_x86_64",
    "manylinux2010_x86_64",
    "manylinux1_x86_64",
    "linux_x86_64",
)
"""Wheels that run on Debian 12 (glibc 2.36) and later (PEP 600)."""

_LINE = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(\[[^]]*\])?==(?P<version>[A-Za-z0-9.!+_-]+)"
    r"(?P<hashes>( +--hash=sha256:[0-9a-f]{64})*)"
)
_PYTHON = re.compile(r"# python (3\.[0-9]{1,2})")
_GPU = re.compile(r"nvidia-|cuda-")
_LOCK = "Lock them: fx workspace lock"
_TIMEOUT_S = 1800


@dataclass(frozen=True, kw_only=True)
class Pin:
    """One line of a lock."""

    name: str
    version: str
    sha256: frozenset[str]  # any of these; the wheels of other platforms may be among them


@dataclass(frozen=True, kw_only=True)
class Lock:
    """What an image is made of, besides the workspace. ``python`` is a minor version: 3.11."""

    python: str
    pins: tuple[Pin, ...]
    indexes: tuple[str, ...] = ()  # options of pip's: besides its own, where wheels are looked for

    @property
    def for_gpus(self) -> tuple[str, ...]:
        """The names of wheels that only a GPU needs: PyPI's torch for Linux brings gigabytes."""
        return tuple(pin.name for pin in self.pins if _GPU.match(pin.name))


def read(path: Path) -> Lock:
    """The lock in a file. ``UserError``, with its line: it is not there, or pins something not."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} is missing: requirements without hashes. {_LOCK}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}). {_LOCK}") from error
    python = _PYTHON.match(text)
    if python is None:
        raise UserError(f"{path}:1: the first line is not '# python 3.N'. {_LOCK}")
    pins, indexes = [], []
    for number, line in requirements.logical(text):
        if (named := requirements.index(path, number, line)) is not None:
            indexes.append(named)
        else:
            pins.append(_pin(path, number, line))
    names = [pin.name for pin in pins]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{path}: {name} stands in it twice. {_LOCK}")
    return Lock(python=python[1], pins=tuple(pins), indexes=tuple(indexes))


def make(path: Path, python: str, folder: Path, extras: Sequence[str] = ()) -> Lock:
    """Resolve the requirements in a file; their wheels lie in ``folder`` afterwards.

    ``extras`` of fedclave are wanted besides those that the file names. ``UserError``: pip finds no
    wheels that fit; ``Unavailable``: it does not end.
    """
    asked = requirements.read(path)
    mine = own.build(folder)
    text = "".join(f"{line}\n" for line in (*asked.indexes, *asked.lines))
    text += _own_line(mine, {*asked.extras, *extras})
    wanted = folder / "requirements.in"
    with output.blamed_on(wanted):
        wanted.write_text(text, encoding="utf-8")
    fetched = folder / "resolved"
    with output.blamed_on(fetched):
        fetched.mkdir(exist_ok=True)
        for old in fetched.glob("*.whl"):
            old.unlink()
    _pip(path, python, fetched, "--find-links", str(folder), "-r", str(wanted))
    found = []
    for file in sorted(fetched.glob("*.whl")):
        wheel = wheels.open_(file)
        if wheel.name == own.NAME and wheel.sha256 != mine.sha256:
            raise UserError(
                f"pip took another fedclave than the one that runs here for {path}. Name it"
                " as 'fedclave', or 'fedclave[EXTRA]', without a version"
            )
        found.append(wheel)
        with output.blamed_on(folder):
            file.replace(folder / file.name)
    with output.blamed_on(folder):
        fetched.rmdir()
        wanted.unlink()
    pins = tuple(_pinned(wheel) for wheel in found)
    return Lock(python=python, pins=pins, indexes=asked.indexes)


def text_of(lock: Lock) -> str:
    """The file's text; ``read`` gives the lock back."""
    lines = [f"# python {lock.python}\n", "# Made by 'fx workspace lock' from requirements.txt.\n"]
    lines += [f"{one}\n" for one in lock.indexes]
    for pin in sorted(lock.pins, key=lambda pin: pin.name):
        hashes = [f"    --hash=sha256:{one}" for one in sorted(pin.sha256)]
        lines.append(" \\\n".join([f"{pin.name}=={pin.version}", *hashes]) + "\n")
    return "".join(lines)


def gather(lock: Lock, folder: Path, path: Path) -> tuple[Wheel, ...]:
    """The wheels of a lock, in its order; what is not in ``folder`` yet, pip brings there.

    ``UserError``: fedclave here is not the one that was locked, or a wheel cannot be had.
    """
    mine = own.build(folder)
    for pin in lock.pins:
        if pin.name == own.NAME and mine.sha256 not in pin.sha256:
            raise UserError(
                f"{path} names another fedclave {pin.version} than the one that runs here"
                f" ({mine.sha256[:16]}). Run the one that was locked; or lock again, and sign anew"
            )
    present = _present(folder)
    if missing := [pin for pin in lock.pins if not _find(present, pin)]:
        text = text_of(Lock(python=lock.python, pins=tuple(missing), indexes=lock.indexes))
        wanted = folder / "requirements.in"
        with output.blamed_on(wanted):
            wanted.write_text(text, encoding="utf-8")
        _pip(path, lock.python, folder, "--no-deps", "--require-hashes", "-r", str(wanted))
        wanted.unlink()
        present = _present(folder)
    return tuple(_require(present, pin, path) for pin in lock.pins)


def _present(folder: Path) -> dict[str, Path]:
    return {file_digest(path): path for path in sorted(folder.glob("*.whl"))}


def _find(present: dict[str, Path], pin: Pin) -> Path | None:
    return next((present[one] for one in sorted(pin.sha256) if one in present), None)


def _require(present: dict[str, Path], pin: Pin, path: Path) -> Wheel:
    found = _find(present, pin)
    if found is None:
        raise UserError(f"{path}: pip brought no wheel of {pin.name} with its SHA-256. {_LOCK}")
    return wheels.open_(found)


def _pinned(wheel: Wheel) -> Pin:
    return Pin(name=wheel.name, version=wheel.version, sha256=frozenset([wheel.sha256]))


def _pin(path: Path, number: int, line: str) -> Pin:
    match = _LINE.fullmatch(re.sub(r"\s+", " ", line))
    if match is None:
        raise UserError(
            f"{path}:{number}: {line[:60]!r} is not 'NAME==VERSION --hash=sha256:...'. {_LOCK}"
        )
    hashes = frozenset(re.findall(r"sha256:([0-9a-f]{64})", match["hashes"]))
    if not hashes:
        raise UserError(f"{path}:{number}: {match['name']} has no hash. {_LOCK}")
    return Pin(name=wheels.normal(match["name"]), version=match["version"], sha256=hashes)


def _own_line(mine: Wheel, extras: set[str]) -> str:
    """The line for pip: fedclave is the wheel that was made here, from no registry."""
    shown = ",".join(sorted(extras))
    return f"{own.NAME}{f'[{shown}]' if shown else ''} @ {mine.path.resolve().as_uri()}\n"


def _pip(blamed: Path, python: str, folder: Path, *options: str) -> None:
    platforms = [part for one in PLATFORMS for part in ("--platform", one)]
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check"]
    command += ["--quiet", "--no-input", "--only-binary", ":all:", "--implementation", "cp"]
    command += ["--python-version", python, *platforms, "--dest", str(folder), *options]
    try:
        done = subprocess.run(  # noqa: S603 - our own Python, fixed options
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(
            f"pip did not end within {_TIMEOUT_S // 60} minutes. Look at the network, run it again"
        ) from None
    if done.returncode == 0:
        return
    if "No module named pip" in done.stderr:
        raise UserError(f"{sys.executable} has no pip. Install it: python -m ensurepip")
    lines = (line.strip() for line in done.stderr.splitlines())
    said = [line for line in lines if line.startswith("ERROR: ") and line != "ERROR: Exception:"]
    why = "; ".join(said) or done.stderr.strip()[-500:] or f"exit code {done.returncode}"
    if "No space left" in done.stderr:
        raise Unavailable(f"{folder}: the disk is full. Free space, then run again")
    raise UserError(
        f"{blamed}: pip finds no wheels that fit Python {python} on x86-64 Linux: {why:.600}"
    )
