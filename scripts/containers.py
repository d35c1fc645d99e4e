# SPDX-License-Identifier: Apache-2.0
"""What ``scripts/integration-test`` does: one run outside containers, one inside, one digest."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedclave.workspace.images import content, engines
from fedclave.workspace.images.engines import Engine

FX = [sys.executable, "-m", "fedclave.cli.main"]
PARTIES = ("alice", "bob")
ENTRY = [f"{content.PREFIX}/bin/python", *content.START]
CHROOT = {"BUILDAH_ISOLATION": "chroot", "STORAGE_DRIVER": "vfs"}
ENVIRONMENT = {**os.environ, "FX_CA_PASSPHRASE": "integration test"}
SUITE = "bookworm"


class Impossible(SystemExit):
    """No containers run on this machine; nothing is wrong with the project."""


def say(text: str) -> None:
    """Tell the user what goes on."""
    print(text, flush=True)


def fx(*command: str) -> dict[str, Any]:
    """Run a command of fx to its good end; the object that it printed."""
    done = subprocess.run(
        [*FX, *command, "--json"], capture_output=True, text=True, env=ENVIRONMENT, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"fx {' '.join(command)}: {done.stdout}{done.stderr}")
    value: dict[str, Any] = json.loads(done.stdout)
    return value


@dataclass(frozen=True, kw_only=True)
class Town:
    """The center and the parties, each in a folder of its own."""

    folder: Path

    @property
    def center(self) -> Path:
        """Where the CA and the aggregator are."""
        return self.folder / "center"

    def home(self, name: str) -> Path:
        """Where a role is."""
        return self.center if name == "aggregator" else self.folder / name

    def build(self, template: str) -> None:
        """A workspace, its lock, contract and CA."""
        at = ("-C", str(self.center))
        fx("workspace", "create", str(self.center), "--template", template)
        plan = self.center / "plan/plan.yaml"
        plan.write_text(plan.read_text().replace("rounds: 20", "rounds: 3"))
        data = [sys.executable, "-m", "src.data", "data", *PARTIES]
        subprocess.run(data, cwd=self.center, check=True)
        fx("plan", "initialize", *at)
        say("Locking the requirements ...")
        fx("workspace", "lock", *at)
        fx("plan", "sign", *at)
        fx("workspace", "certify", *at)
        fx("aggregator", "generate-cert-request", "--host", "localhost", *at)
        fx("aggregator", "certify", "--yes", *at)
        for name in PARTIES:
            self._join(name)

    def _join(self, name: str) -> None:
        home, archive = self.home(name), self.folder / "workspace.zip"
        fx("workspace", "export", "--out", str(archive), "-C", str(self.center))
        fx("workspace", "import", str(archive), "--into", str(home))
        shutil.copy(self.center / f"data/{name}.npz", home / "data")
        at = ("-n", name, "-C", str(home))
        fx("collaborator", "create", "-d", str(home / f"data/{name}.npz"), *at)
        request = fx("collaborator", "generate-cert-request", *at)["request"]
        sign = ("collaborator", "certify", "-n", name, "--request", request, "--yes")
        answer = fx(*sign, "-C", str(self.center))["response"]
        fx("collaborator", "certify", "--import", answer, "--yes", *at)
        author = str(home / "plan/author.pub")
        fx("plan", "accept", *at, "--author", author, "--yes")

    def forget_run(self) -> None:
        """Leave no trace of a run, so that another one begins."""
        for home in (self.center, *map(self.home, PARTIES)):
            for path in (home / "save").iterdir():
                if path.name not in ("initial.safetensors", "initial.json"):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            shutil.rmtree(home / "logs")
            (home / "logs").mkdir()
        fx("plan", "initialize", "--force", "-C", str(self.center))


def run(town: Town, commands: dict[str, list[str]]) -> tuple[str, float]:
    """A whole run; the digest of its model, and its seconds from the first round to the last."""
    with ExitStack() as stack:
        processes: dict[str, subprocess.Popen[str]] = {}

        def start(name: str) -> subprocess.Popen[str]:
            log = stack.enter_context((town.folder / f"{name}.stderr").open("w"))
            process = subprocess.Popen(
                commands[name], stdout=subprocess.PIPE, stderr=log, text=True, env=ENVIRONMENT
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)
            processes[name] = process
            return process

        aggregator = start("aggregator")
        began = ended = 0.0
        digest = ""
        for event in _events(aggregator):
            match event.get("event"):
                case "listening":
                    for name in PARTIES:
                        start(name)
                case "round_opened":
                    began = began or time.monotonic()
                case "run_finished":
                    digest, ended = event["model"], time.monotonic()
        for name, process in processes.items():
            if process.wait(120) != 0:
                said = (town.folder / f"{name}.stderr").read_text()
                left = process.stdout.read() if process.stdout else ""
                raise SystemExit(f"{name} ended with {process.returncode}: {left}{said}")
    if not digest:
        raise SystemExit("the run did not finish")
    return digest, ended - began


def _events(process: "subprocess.Popen[str]") -> Iterator[dict[str, Any]]:
    for line in process.stdout or ():
        if line.startswith("{"):
            yield json.loads(line)


def command_of(name: str, port: int) -> list[str]:
    """What a role is told, inside and outside."""
    if name == "aggregator":
        return ["aggregator", "start", "--listen", f"localhost:{port}", "--json"]
    return ["collaborator", "start", "-n", name, "--address", f"localhost:{port}", "--json"]


def outside(town: Town, port: int) -> dict[str, list[str]]:
    """How each role starts on this machine itself."""
    return {
        name: [*FX, *command_of(name, port), "-C", str(town.home(name))]
        for name in ("aggregator", *PARTIES)
    }


@contextmanager
def inside(town: Town, engine: Engine, image: str, port: int) -> Iterator[dict[str, list[str]]]:
    """How each role starts in a container, whose only writable folder is the party's own."""
    names = ("aggregator", *PARTIES)
    if engine.name != "buildah":
        user = f"{os.getuid()}:{os.getgid()}"
        yield {
            name: [
                engine.name, "run", "--rm", "--init", "--read-only", "--tmpfs", "/tmp",
                "--network", "host", "--user", user, "--cap-drop", "ALL",
                "-v", f"{town.home(name)}:{content.STATE}", image, *command_of(name, port),
            ]
            for name in names
        }  # fmt: skip
        return
    made = {name: _output("buildah", "from", "--pull-never", image) for name in names}
    try:
        yield {
            name: [
                "buildah", "run", "--isolation", "chroot", "--user", str(content.USER),
                "--workingdir", content.WORKSPACE, "-v", f"{town.home(name)}:{content.STATE}",
                made[name], "--", *ENTRY, *command_of(name, port),
            ]
            for name in names
        }  # fmt: skip
    finally:
        _output("buildah", "rm", *made.values())


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: {done.stderr}")
    return done.stdout.strip()


def debian(target: Path) -> None:
    """A base of Debian's packages alone: Python and what it needs."""
    if shutil.which("mmdebstrap"):
        command = ["mmdebstrap", "--variant=minbase", "--include=python3", SUITE, str(target)]
        say("Making a base with mmdebstrap ...")
        _output(*command)
        return
    if not shutil.which("debootstrap"):
        raise Impossible(
            "Nothing here makes a base image. Install docker or podman; or, on Debian and Ubuntu as"
            " root: apt-get install buildah mmdebstrap"
        )
    say("Making a base with debootstrap ...")
    folder = target.with_suffix(".root")
    _output("debootstrap", "--variant=minbase", "--include=python3", SUITE, str(folder))
    _output(
        "tar", "--numeric-owner", "--one-file-system", "-cf", str(target), "-C", str(folder), "."
    )
    shutil.rmtree(folder)


def base_of(engine: Engine, folder: Path, cache: Path | None) -> list[str]:
    """The option that names the base; for buildah one is made, and kept in ``cache``."""
    if engine.name != "buildah":
        return []
    saved = (cache or folder) / f"base-{SUITE}.oci.tar"
    if not saved.exists():
        saved.parent.mkdir(parents=True, exist_ok=True)
        root = folder / "root.tar"
        try:
            debian(root)
            container = _output("buildah", "from", "scratch")
            _output("buildah", "add", "-q", container, str(root), "/")
            try_out(container)
        except SystemExit as error:
            raise Impossible(error.code) from error
        _output("buildah", "commit", "-q", container, "localhost/fedclave-base")
        made = folder / "base.oci.tar"
        _output("buildah", "push", "-q", "localhost/fedclave-base", f"oci-archive:{made}")
        _output("buildah", "rm", container)
        root.unlink()
        partial = saved.with_suffix(".partial")
        shutil.move(made, partial)
        partial.replace(saved)
    return ["--base-image", str(saved)]


def try_out(container: str) -> None:
    """See whether anything runs in a container here."""
    _output("buildah", "run", "--isolation", "chroot", container, "--", "/bin/true")


def main(arguments: Sequence[str]) -> None:
    """Both runs, compared. Exits with a message where something fails."""
    chosen = _chosen(arguments)
    try:
        compare(chosen)
    except Impossible as error:
        if not chosen.if_possible:
            raise
        say(f"LEFT OUT, as this machine runs no containers: {error.code}")


def _chosen(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/integration-test")
    parser.add_argument("--template", default="numpy-digits")
    parser.add_argument("--port", type=int, default=18443)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--base-cache", type=Path, help="keep the base for the next time")
    parser.add_argument("--if-possible", action="store_true", help="no error where none can run")
    return parser.parse_args(arguments)


def compare(chosen: argparse.Namespace) -> None:
    """Both runs in a folder that is gone afterwards, unless it is to be kept."""
    os.environ.update(CHROOT)
    ENVIRONMENT.update(CHROOT)
    engine = engines.find()
    if engine is None:
        raise Impossible(
            "Neither docker, podman nor buildah answers here. On Debian and Ubuntu: apt-get install"
            " buildah mmdebstrap"
        )
    say(f"Containers by {engine.name}.")
    folder = Path(tempfile.mkdtemp(prefix="fedclave-integration-"))
    folder.chmod(0o755)
    town = Town(folder=folder)
    try:
        base = base_of(engine, folder, chosen.base_cache)
        town.build(chosen.template)
        digest, seconds = run(town, outside(town, chosen.port))
        say(f"outside  {digest}  {seconds:.2f} s of rounds")
        town.forget_run()
        made = fx("workspace", "dockerize", *base, "-C", str(town.center))
        say(f"image    {made['image']}  {made['digest']}")
        if engine.name == "buildah":  # its user is the image's
            for name in ("aggregator", *PARTIES):
                _output("chown", "-R", str(content.USER), str(town.home(name)))
        with inside(town, engine, made["image"], chosen.port) as commands:
            contained, slower = run(town, commands)
        say(f"inside   {contained}  {slower:.2f} s of rounds")
        if contained != digest:
            raise SystemExit("The two models differ.")
        say(f"The same model, byte for byte; rounds took {slower / seconds:.2f} times as long.")
    finally:
        if not chosen.keep:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1:])
