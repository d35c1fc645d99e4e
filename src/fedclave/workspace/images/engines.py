# SPDX-License-Identifier: Apache-2.0
"""The container tools of a machine: they bring base images, and take finished ones.

None of them builds: ``content`` and ``oci`` do, so that the same inputs give the same digest with
each, or with none.
"""

import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedclave.errors import Unavailable, UserError

_PULL_S, _COPY_S, _ASK_S = 1800, 900, 20
Run = Callable[[Sequence[str], float], "subprocess.CompletedProcess[str]"]


@dataclass(frozen=True, kw_only=True)
class Engine:
    """One tool: the arguments by which it does what is needed of it."""

    name: str
    answers: tuple[str, ...]  # exits 0 where it works
    has: tuple[str, ...]
    pull: tuple[str, ...]
    save: tuple[str, ...]
    load: tuple[str, ...]


ENGINES = (
    Engine(
        name="docker",
        answers=("docker", "version", "--format", "{{.Server.Version}}"),
        has=("docker", "image", "inspect", "{ref}"),
        pull=("docker", "pull", "--quiet", "--platform", "linux/amd64", "{ref}"),
        save=("docker", "save", "--output", "{file}", "{ref}"),
        load=("docker", "load", "--quiet", "--input", "{file}"),
    ),
    Engine(
        name="podman",
        answers=("podman", "version"),
        has=("podman", "image", "exists", "{ref}"),
        pull=("podman", "pull", "--quiet", "--arch", "amd64", "{ref}"),
        save=(
            "podman",
            "save",
            "--quiet",
            "--format",
            "oci-archive",
            "--output",
            "{file}",
            "{ref}",
        ),
        load=("podman", "load", "--quiet", "--input", "{file}"),
    ),
    Engine(
        name="buildah",
        answers=("buildah", "images"),
        has=("buildah", "inspect", "--type", "image", "{ref}"),
        pull=("buildah", "pull", "--quiet", "--arch", "amd64", "{ref}"),
        save=("buildah", "push", "--quiet", "{ref}", "oci-archive:{file}"),
        load=("buildah", "pull", "--quiet", "docker-archive:{file}"),
    ),
)
"""In the order in which they are looked for."""


def run(command: Sequence[str], timeout_s: float) -> "subprocess.CompletedProcess[str]":
    """Run a tool without a terminal; its output is kept. ``Unavailable``: it does not end."""
    try:
        return subprocess.run(  # noqa: S603 - an engine from PATH, arguments of the table
            list(command),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=timeout_s,
            check=False,
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(
            f"'{' '.join(command)[:120]}' did not end within {timeout_s:.0f} s. Run it by hand"
        ) from None


def find(ask: Run = run) -> Engine | None:
    """The first of docker, podman and buildah that is installed and answers."""
    for engine in ENGINES:
        if shutil.which(engine.name) and ask(engine.answers, _ASK_S).returncode == 0:
            return engine
    return None


def bring(engine: Engine, ref: str, target: Path, ask: Run = run) -> None:
    """Save the image that ``ref`` names, pulled where it is not here. ``UserError``: there is none.

    What begins with a dash is no name of an image.
    """
    if not ref or ref.startswith("-") or any(letter.isspace() for letter in ref):
        raise UserError(f"{ref!r} is not the name of an image. Name one: python:3.11-slim-bookworm")
    if ask(_filled(engine.has, ref, target), _ASK_S).returncode != 0:
        pulled = ask(_filled(engine.pull, ref, target), _PULL_S)
        if pulled.returncode != 0:
            raise UserError(
                f"{engine.name} has no image {ref}, and cannot pull it ({_said(pulled)}). Name"
                " another with --base-image, or the file of a saved one"
            )
    saved = ask(_filled(engine.save, ref, target), _COPY_S)
    if saved.returncode != 0:
        raise Unavailable(f"{engine.name} cannot save {ref} ({_said(saved)}). Try it by hand")


def load(engine: Engine, archive: Path, ask: Run = run) -> None:
    """Give a finished image to the engine. ``Unavailable``: it does not take it."""
    loaded = ask(_filled(engine.load, "", archive), _COPY_S)
    if loaded.returncode != 0:
        raise Unavailable(
            f"{engine.name} cannot load {archive} ({_said(loaded)}). Try it by hand:"
            f" {' '.join(_filled(engine.load, '', archive))}"
        )


def _filled(command: Sequence[str], ref: str, file: Path) -> list[str]:
    return [part.format(ref=ref, file=file) for part in command]


def _said(done: "subprocess.CompletedProcess[str]") -> str:
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return lines[-1][:300] if lines else f"exit code {done.returncode}"
