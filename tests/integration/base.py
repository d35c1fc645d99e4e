# SPDX-License-Identifier: Apache-2.0
"""A base image of Debian's packages alone, for machines that pull none (buildah)."""

import shutil
from pathlib import Path

from tests.integration.shell import Impossible, output, say

from fedclave.workspace.images.engines import Engine

SUITE = "bookworm"


def option(engine: Engine, folder: Path, cache: Path | None) -> list[str]:
    """The option that names the base; for buildah one is made, and kept in ``cache``."""
    if engine.name != "buildah":
        return []
    saved = (cache or folder) / f"base-{SUITE}.oci.tar"
    if not saved.exists():
        saved.parent.mkdir(parents=True, exist_ok=True)
        root = folder / "root.tar"
        try:
            _debian(root)
            _keep(root, folder / "base.oci.tar")
        except SystemExit as error:
            raise Impossible(error.code) from error
        root.unlink()
        partial = saved.with_suffix(".partial")
        shutil.move(folder / "base.oci.tar", partial)
        partial.replace(saved)
    return ["--base-image", str(saved)]


def _debian(target: Path) -> None:
    if shutil.which("mmdebstrap"):
        say("Making a base with mmdebstrap ...")
        output("mmdebstrap", "--variant=minbase", "--include=python3", SUITE, str(target))
        return
    if not shutil.which("debootstrap"):
        raise Impossible(
            "Nothing here makes a base image. Install docker or podman; or, on Debian and Ubuntu as"
            " root: apt-get install buildah mmdebstrap"
        )
    say("Making a base with debootstrap ...")
    folder = target.with_suffix(".root")
    output("debootstrap", "--variant=minbase", "--include=python3", SUITE, str(folder))
    output(
        "tar", "--numeric-owner", "--one-file-system", "-cf", str(target), "-C", str(folder), "."
    )
    shutil.rmtree(folder)


def _keep(root: Path, target: Path) -> None:
    """The image of a root file system, after something was seen to run in it."""
    container = output("buildah", "from", "scratch")
    try:
        output("buildah", "add", "-q", container, str(root), "/")
        output("buildah", "run", "--isolation", "chroot", container, "--", "/bin/true")
        image = output("buildah", "commit", "-q", container)
        try:
            output("buildah", "push", "-q", image, f"oci-archive:{target}")
        finally:
            output("buildah", "rmi", image)
    finally:
        output("buildah", "rm", container)
