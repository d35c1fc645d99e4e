# SPDX-License-Identifier: Apache-2.0
"""Images of workspaces, and what a container costs, against the same outside, in one run.

    python benchmarks/images.py --templates numpy-digits torch-digits

Of each template: files and bytes of its wheels before and after pruning, and of what the image adds
to its base; how long ``fx workspace dockerize`` takes with the wheels at hand; and whether a second
party, in a folder of its own, makes the same digest. Then ``fx --version``, the start of an
aggregator until it is ready for members, and rounds of training with two collaborators, outside and
in containers in turn: medians, and the ratio of each pair (least, median, most).

Docker or podman; or, as root, buildah with chroot isolation on a base of Debian's packages, which
needs mmdebstrap. Figures of different engines are not to be compared.
"""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.integration import base, ways
from tests.integration.__main__ import contained, outside
from tests.integration.programs import Process, Run
from tests.integration.shell import ENVIRONMENT, FX, Impossible, fx
from tests.integration.town import ALL, Town

from fedclave.workspace.images import engines
from fedclave.workspace.images.deployment import Deployment, Kind
from fedclave.workspace.images.engines import Engine


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what it returned."""
    begun = perf_counter()
    value = call()
    return perf_counter() - begun, value


def size(counted: dict[str, int]) -> str:
    """Files and bytes."""
    return f"{counted['files']:>7,} files {counted['bytes'] / 1e6:8.1f} MB"


def built(town: Town, on: list[str]) -> str:
    """The image by its author, and again by a collaborator; its name."""
    seconds, made = timed(lambda: fx("workspace", "dockerize", *on, "-C", str(town.center)))
    other = town.home("alice")
    (other / "image").mkdir(exist_ok=True)
    for wheel in (town.center / "image").glob("*.whl"):
        shutil.copy(wheel, other / "image")
    second = fx("workspace", "dockerize", *on, "-C", str(other))["digest"]
    for what, counted in (
        ("wheels, whole", made["wheels"]["before"]),
        ("wheels, what runs need", made["wheels"]["after"]),
        ("the image adds", {"files": made["files"], "bytes": made["bytes"]}),
    ):
        print(f"  {what:28} {size(counted)}")
    print(f"  {'dockerize':28} {seconds:7.1f} s")
    print(f"  {'the same in two folders':28} {'yes' if second == made['digest'] else 'NO'}")
    return str(made["image"])


def version(town: Town, engine: Engine, made: Deployment, repeat: int) -> None:
    """``fx --version``, outside and inside in turn."""
    folders = {name: town.home(name) for name in ALL}
    arguments = {name: ["--version"] for name in ALL}

    def done(program: Any) -> None:
        while program.ended() is None:
            sleep(0.01)
        if program.ended():
            raise SystemExit(program.said())
        program.stop()

    with ways.starts(engine, made, folders, arguments) as start:
        log = town.folder / "version.log"
        pairs = [
            (
                timed(lambda: done(Process([*FX, "--version"], log)))[0],
                timed(lambda: done(start("alice")))[0],
            )
            for _ in range(repeat)
        ]
    row("fx --version", pairs)


def runs(town: Town, engine: Engine, made: Deployment, repeat: int, rounds: int) -> None:
    """Whole runs, outside and inside in turn."""
    pairs: list[tuple[Run, Run]] = []
    for _ in range(repeat):
        own_files(town)
        one = outside(town)
        town.forget_run()
        other = contained(town, engine, made)
        town.forget_run()
        pairs.append((one, other))
    row("until the aggregator is ready", [(one.start, other.start) for one, other in pairs])
    row("a round", [(one.seconds / rounds, other.seconds / rounds) for one, other in pairs])
    same = all(one.digest == other.digest for one, other in pairs)
    print(f"  {'the same model':29} {'yes' if same else 'NO'}")


def own_files(town: Town) -> None:
    """Give the folders back to this user, after a container's user had them."""
    for name in ALL:
        home = town.home(name)
        for path in (home, *home.rglob("*")):
            os.chown(path, os.getuid(), os.getgid(), follow_symlinks=False)


def row(what: str, pairs: list[tuple[float, float]]) -> None:
    """Medians, and the ratio's spread."""
    ratios = sorted(inside / outside for outside, inside in pairs)
    spread = f"{ratios[0]:.2f} {median(ratios):.2f} {ratios[-1]:.2f}"
    print(
        f"  {what:29} {median(one for one, _ in pairs):9.2f} {median(two for _, two in pairs):9.2f}"
        f"   {spread}"
    )


def measured(template: str, engine: Engine, folder: Path, given: argparse.Namespace) -> None:
    """All of one template."""
    on = base.option(engine, folder, given.base_cache)
    town = Town(folder=folder, port=given.port)
    town.build(template, given.rounds)
    print(f"\n{template}")
    made = Deployment(image=built(town, on), kind=Kind.CONTAINER)
    print(f"  {'':29} outside s  inside s   least, median, most times as long")
    version(town, engine, made, 5 * given.repeat)
    runs(town, engine, made, given.repeat, given.rounds)


def main() -> None:
    """All tables; none where no container runs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--templates", nargs="+", default=["numpy-digits"])
    parser.add_argument("--rounds", type=int, default=20, help="of each run")
    parser.add_argument("--repeat", type=int, default=5, help="runs outside, and as many inside")
    parser.add_argument("--port", type=int, default=18444)
    parser.add_argument("--base-cache", type=Path, help="keep buildah's base for the next time")
    parser.add_argument("--if-possible", action="store_true", help="no error where none can run")
    given = parser.parse_args()
    os.environ.update(ENVIRONMENT)
    try:
        tables(given)
    except Impossible as error:
        if not given.if_possible:
            raise
        print(f"LEFT OUT, as this machine runs no containers: {error.code}")


def tables(given: argparse.Namespace) -> None:
    """A table for each template, in a folder that is gone afterwards."""
    engine = engines.find()
    if engine is None:
        raise Impossible("neither docker, podman nor buildah answers here. Install one")
    print(f"containers by {engine.name}")
    for template in given.templates:
        folder = Path(tempfile.mkdtemp(prefix="fedclave-images-"))
        folder.chmod(0o755)
        try:
            measured(template, engine, folder, given)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
