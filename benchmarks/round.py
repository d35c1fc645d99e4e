# SPDX-License-Identifier: Apache-2.0
"""Rounds in which nothing is computed, over mutual TLS between separate processes.

    python benchmarks/round.py --megabytes 1 10 100 --collaborators 2 4 8

For each setting, real ``fx`` processes run a few rounds of a model of float32 in 20 tensors, then,
in the same run, plain gRPC streams of the same bytes (down and up, over the same mutual TLS, chunk
size and options; received and dropped) give the limit. The same streams with a SHA-256 of every
model on both sides, as content-addressed transfers need it, tell how much of the rest is hashing.
Printed: seconds per round (median), times the limit, times the hashed streams, CPU seconds of the
aggregator per round, and its peak resident memory, also as models. MB is 10**6 bytes. All processes
share this machine's cores.
"""

import argparse
import asyncio
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

FX = str(Path(sys.executable).with_name("fx"))
TENSORS = 20

PLAN = """schema: 1
name: benchmark
rounds: {rounds}
learner: {{build: "src.learner:build", settings: {{count: {count}}}}}
tasks:
  train: {{run: fit}}
"""

LEARNER = '''
import numpy as np

from fedclave.messages import Fit


class Nothing:
    """Answers with what it received but for one element, so that each round has a new model."""

    def __init__(self, count):
        self.count = count

    def weights(self):
        return {f"t{i:02}": np.zeros(self.count, np.float32) for i in range(20)}

    def run(self, task, params, pull):
        first = params["t00"].copy()
        first[0] += 1
        return Fit(params={**params, "t00": first}, examples=1)


def build(site, count):
    return Nothing(count)
'''


@dataclass(frozen=True)
class Result:
    """Figures of one setting."""

    seconds: float
    limit: float
    hashed: float
    cpu: float
    peak: float  # MB


def names(collaborators: int) -> list[str]:
    """Names of the parties."""
    return [f"site{i}" for i in range(collaborators)]


def prepare(folder: Path, megabytes: int, collaborators: int, rounds: int) -> None:
    """A workspace with a CA, the certificates of all parties, and an initial model."""
    from fedclave.trust import keys, pki
    from fedclave.trust.credentials import Credentials
    from fedclave.trust.names import Role

    count = megabytes * 10**6 // 4 // TENSORS
    (folder / "plan").mkdir()
    (folder / "src").mkdir()
    (folder / "plan/plan.yaml").write_text(PLAN.format(rounds=rounds, count=count))
    (folder / "plan/cols.yaml").write_text(json.dumps({"collaborators": names(collaborators)}))
    shards = dict.fromkeys(names(collaborators), "data")
    (folder / "plan/data.yaml").write_text("".join(f"{n}: {p}\n" for n, p in shards.items()))
    (folder / "data").mkdir()
    (folder / "src/learner.py").write_text(LEARNER)
    now = datetime.now(UTC)
    authority = pki.Authority.create(folder / "cert", "benchmark", b"benchmark", now)
    roles: dict[str, Role] = {"aggregator": "aggregator"}
    for name, role in (roles | dict.fromkeys(names(collaborators), "collaborator")).items():
        key = keys.generate()
        request = pki.make_request(
            key, federation="benchmark", role=role, name=name, hosts=["localhost"]
        )
        leaf = authority.issue(request, role=role, name=name, now=now)
        chain = pki.bundle(leaf, authority.anchors)
        Credentials(key=keys.encode(key), chain=chain).replace(folder / "cert", name)
    subprocess.run([FX, "plan", "initialize", "-C", folder, "--json"], check=True, stdout=-3)


def federation(folder: Path, collaborators: int) -> tuple[list[float], float, float]:
    """Run it: seconds of each round, CPU seconds and peak MB of the aggregator."""
    command = [FX, "aggregator", "start", "-C", str(folder), "--listen", "localhost:0", "--json"]
    aggregator = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    parties: list[subprocess.Popen[bytes]] = []
    seconds: list[float] = []
    assert aggregator.stdout is not None
    try:
        for line in aggregator.stdout:
            event = json.loads(line)
            if event.get("event") == "listening":
                parties = [start(folder, name, event["address"]) for name in names(collaborators)]
            elif event.get("event") == "round_closed":
                seconds.append(event["seconds"])
        _, status, usage = os.wait4(aggregator.pid, 0)
        aggregator.returncode = os.waitstatus_to_exitcode(status)
        if aggregator.returncode:
            raise SystemExit(f"the aggregator ended with {aggregator.returncode}")
        for party in parties:
            party.wait(30)
    finally:
        every: list[subprocess.Popen[Any]] = [aggregator, *parties]
        for process in every:
            if process.poll() is None:
                process.kill()
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6


def start(folder: Path, name: str, address: str) -> "subprocess.Popen[bytes]":
    """Start one collaborator."""
    command = [FX, "collaborator", "start", "-C", str(folder), "-n", name, "--address", address]
    return subprocess.Popen([*command, "--json"], stdout=subprocess.DEVNULL)


def limit(
    folder: Path, megabytes: int, collaborators: int, rounds: int, kind: str = "plain"
) -> list[float]:
    """Seconds that plain (or hashed) streams of the same bytes take, all collaborators at once."""
    base = [sys.executable, __file__, "--streams", kind]
    server = Talker(*base, "server", str(folder), str(megabytes))
    port = server.hear()
    clients = [
        Talker(*base, "client", str(folder), str(megabytes), name, port)
        for name in names(collaborators)
    ]
    seconds = []
    try:
        for client in clients:
            client.hear()  # connected
        for _ in range(rounds):
            begun = perf_counter()
            for client in clients:
                client.say("go")
            for client in clients:
                client.hear()
            seconds.append(perf_counter() - begun)
    finally:
        for one in [*clients, server]:
            one.end()
    return seconds


class Talker:
    """A process that is told lines, and answers with lines."""

    def __init__(self, *command: str) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        self._command = " ".join(command)

    def say(self, line: str) -> None:
        """Tell it a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def hear(self) -> str:
        """Its next line."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"it ended: {self._command}")
        return line.strip()

    def end(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait()


async def serve(kind: str, folder: Path, megabytes: int) -> None:
    """Send and receive raw chunks over mutual TLS; keep nothing."""
    import grpc

    from fedclave.transport.grpc import frames, memory
    from fedclave.trust.credentials import Credentials
    from fedclave.trust.gate import Anchors

    memory.keep_freed_chunks()
    chunks = [os.urandom(frames.CHUNK)] * -(-megabytes * 10**6 // frames.CHUNK)

    async def down(request: bytes, context: Any) -> None:
        for chunk in chunks:
            await context.write(chunk)

    async def up(incoming: Any, context: Any) -> None:
        take = taker(kind)
        while (chunk := await context.read()) is not grpc.aio.EOF:
            take(chunk)
        await context.write(b"done")

    own, anchors = Credentials.read(folder / "cert", "aggregator"), Anchors.read(folder / "cert")
    server = grpc.aio.server(options=frames.OPTIONS)
    handlers = {
        "Down": grpc.unary_stream_rpc_method_handler(down),
        "Up": grpc.stream_stream_rpc_method_handler(up),
    }
    handler = grpc.method_handlers_generic_handler("plain", handlers)
    server.add_generic_rpc_handlers((handler,))
    credentials = grpc.ssl_server_credentials([(own.key, own.chain)], anchors.chain, True)
    print(server.add_secure_port("localhost:0", credentials), flush=True)
    await server.start()
    await server.wait_for_termination()


def taker(kind: str) -> Callable[[bytes], object]:
    """What is done with each chunk."""
    return hashlib.sha256().update if kind == "hashed" else lambda chunk: None


async def call(kind: str, folder: Path, megabytes: int, name: str, port: str) -> None:
    """For each line on stdin, receive the bytes once and send them once."""
    import grpc

    from fedclave.transport.grpc import frames, memory
    from fedclave.trust.credentials import Credentials
    from fedclave.trust.gate import Anchors
    from fedclave.trust.names import server_name

    memory.keep_freed_chunks()
    own, anchors = Credentials.read(folder / "cert", name), Anchors.read(folder / "cert")
    target = ("grpc.ssl_target_name_override", server_name("aggregator"))
    credentials = grpc.ssl_channel_credentials(anchors.chain, own.key, own.chain)
    chunk, count = os.urandom(frames.CHUNK), -(-megabytes * 10**6 // frames.CHUNK)
    options = [*frames.OPTIONS, target]
    async with grpc.aio.secure_channel(f"localhost:{port}", credentials, options) as channel:
        await channel.channel_ready()
        print("connected", flush=True)
        loop = asyncio.get_running_loop()
        while await loop.run_in_executor(None, sys.stdin.readline):
            take = taker(kind)
            async for received in channel.unary_stream("/plain/Down")(b""):
                take(received)
            take = taker(kind)
            for _ in range(count):  # an upload begins with its digest
                take(chunk)
            up = channel.stream_stream("/plain/Up")()
            for _ in range(count):
                await up.write(chunk)
            await up.done_writing()
            await up.read()
            print("done", flush=True)


def setting(megabytes: int, collaborators: int, rounds: int) -> Result:
    """Measure one setting: the federation, then the limit."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, megabytes, collaborators, rounds)
        seconds, cpu, peak = federation(folder, collaborators)
        floor = limit(folder, megabytes, collaborators, rounds)
        hashed = limit(folder, megabytes, collaborators, rounds, "hashed")
    return Result(
        seconds=statistics.median(seconds[1:] or seconds),  # the first has the late starters
        limit=statistics.median(floor),
        hashed=statistics.median(hashed),
        cpu=cpu / len(seconds),
        peak=peak,
    )


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--collaborators", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    head = ("MB", "N", "s/round", "plain s", "x plain", "x hashed", "agg CPU s", "agg MB", "models")
    print(" ".join(f"{title:>9}" for title in head))
    for megabytes in args.megabytes:
        for collaborators in args.collaborators:
            r = setting(megabytes, collaborators, args.rounds)
            row = (
                f"{megabytes}",
                f"{collaborators}",
                f"{r.seconds:.3f}",
                f"{r.limit:.3f}",
                f"{r.seconds / r.limit:.2f}",
                f"{r.seconds / r.hashed:.2f}",
                f"{r.cpu:.2f}",
                f"{r.peak:.0f}",
                f"{r.peak / megabytes:.2f}",
            )
            print(" ".join(f"{cell:>9}" for cell in row), flush=True)
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--streams"]:
        _, _, kind, side, where, size, *rest = sys.argv
        if side == "server":
            asyncio.run(serve(kind, Path(where), int(size)))
        else:
            asyncio.run(call(kind, Path(where), int(size), *rest))
    else:
        sys.exit(main())
