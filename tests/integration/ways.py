# SPDX-License-Identifier: Apache-2.0
"""How parties can run in containers here, and how each role of an image is then started.

    sgx              in enclaves, by the image's own Gramine: docker or podman, and the host has SGX
    gramine-direct   the same image without an enclave: docker or podman
    container        the image without Gramine: docker, podman; or buildah, with chroot isolation

The lines for docker and podman are those that ``fx`` prints for the image (``images.deploy_run``),
but that all parties share this machine's network. An image without Gramine brings no root of the CA
for ``fx enclave``: there it is mounted.
"""

import os
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from tests.integration.programs import Container, Process, Program, Start
from tests.integration.shell import output
from tests.integration.town import ALL

from fedclave.errors import UserError
from fedclave.workspace import host, readiness
from fedclave.workspace.gramine import runtime
from fedclave.workspace.images import content, deploy_run, deployment
from fedclave.workspace.images.deploy_run import Tool
from fedclave.workspace.images.deployment import Deployment, Kind, Role
from fedclave.workspace.images.engines import Engine

ENTRY = [f"{content.PREFIX}/bin/python", *content.START]
UNSHARED = "--network host"
ROOT = f"{content.WORKSPACE}/cert/root.pem"


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way, and what it lacks here."""

    kind: Kind
    missing: tuple[str, ...]


def ways(engine: Engine, gramine: Path | None) -> tuple[Way, ...]:
    """All, the best first."""
    return (
        Way(kind=Kind.SGX, missing=tuple(_sgx(engine, gramine))),
        Way(kind=Kind.DIRECT, missing=tuple(_direct(engine, gramine))),
        Way(kind=Kind.CONTAINER, missing=()),
    )


def _sgx(engine: Engine, gramine: Path | None) -> Iterator[str]:
    yield from _both(engine, gramine)
    judged = readiness.judge(host.survey(environ=os.environ))
    for way in judged.ways:
        if way.name == "sgx-image":
            yield from (one.what for one in way.missing)


def _direct(engine: Engine, gramine: Path | None) -> Iterator[str]:
    yield from _both(engine, gramine)
    profile = Path.home() / deployment.SECCOMP
    if not profile.is_file():
        yield f"Gramine's seccomp profile ({profile}; from {deployment.SECCOMP_URL})"


def _both(engine: Engine, gramine: Path | None) -> Iterator[str]:
    if engine.name == "buildah":
        yield "docker or podman"
    with tempfile.TemporaryDirectory() as scratch:
        try:
            with runtime.opened(gramine, Path(scratch)):
                pass
        except UserError as error:
            yield str(error)


@contextmanager
def starts(
    engine: Engine,
    made: Deployment,
    folders: dict[str, Path],
    arguments: dict[str, list[str]],
    root: Path | None = None,
) -> Iterator[Start]:
    """How each role of an image starts. ``arguments`` and ``root`` count in plain containers."""
    if engine.name == "buildah":
        with _buildah(made.image, folders, arguments, root) as by_buildah:
            yield by_buildah
        return

    def start(name: str) -> Program:
        own = f"fedclave-integration-{os.getpid()}-{name}"
        line = line_of(
            cast("Tool", engine.name), made, name, own, folders[name], arguments[name], root
        )
        return Container(engine.name, own, line)

    yield start


def line_of(
    tool: Tool,
    made: Deployment,
    name: str,
    container: str,
    folder: Path,
    arguments: list[str],
    root: Path | None,
) -> str:
    """The line that ``fx`` prints for a role; under a name of our own, on this network."""
    role: Role = "aggregator" if name == "aggregator" else "collaborator"
    printed = deploy_run.line(made, role, tool, folder=str(folder))
    own = f"--name {container} {UNSHARED}"
    line = printed.replace(f"--name {made.stem}-{role} --restart on-failure:10", own, 1)
    if made.kind is Kind.CONTAINER:
        told = shlex.join(deployment.arguments(made.kind, role, "NAME", "HOST"))
        line = line.removesuffix(told) + shlex.join(arguments)
        if root is not None:
            mount = shlex.quote(f"type=bind,src={root},dst={ROOT},readonly")
            line = line.replace(" --read-only ", f" --read-only --mount {mount} ", 1)
    return line


@contextmanager
def _buildah(
    image: str, folders: dict[str, Path], arguments: dict[str, list[str]], root: Path | None
) -> Iterator[Start]:
    made: dict[str, str] = {}
    more = [] if root is None else ["-v", f"{root}:{ROOT}:ro"]

    def start(name: str) -> Program:
        command = [
            "buildah", "run", "--isolation", "chroot", "--user", str(content.USER),
            "--workingdir", content.WORKSPACE, "-v", f"{folders[name]}:{content.STATE}",
            *more, made[name], "--", *ENTRY, *arguments[name],
        ]  # fmt: skip
        return Process(command, folders[name].parent / f"{name}.log")

    try:
        for name in ALL:
            made[name] = output("buildah", "from", "--pull-never", image)
            output("chown", "-R", str(content.USER), str(folders[name]))  # its user is the image's
        yield start
    finally:
        if made:
            output("buildah", "rm", *made.values())
