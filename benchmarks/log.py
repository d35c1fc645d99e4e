# SPDX-License-Identifier: Apache-2.0
"""The transparency log at 1,000,000 entries: appends, proofs, and what it costs to open it.

    python benchmarks/log.py

An append alone is durable when it returns (one fsync each); a batch shares its fsyncs. Both limits
are measured in the same run: the disk's fsync of as many bytes, and SHA-256 over the entry and the
nodes that it completes. Proofs are of random entries and of random older sizes; the median is
printed. Memory is the peak of this process beside what it had before the log was opened.
"""

import argparse
import hashlib
import os
import random
import resource
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

from fedclave.trust import checkpoint, merkle, signing
from fedclave.trust.log import Log
from fedclave.trust.log_files import FRAME, Reader

ORIGIN = "example.org/benchmark"
MB = 10**6


def entry(number: int) -> bytes:
    """As long as a typical record."""
    return f'{{"round":{number},"type":"round"'.encode().ljust(400, b".")


def median(calls: int, call: Callable[[], object]) -> float:
    """Seconds of one call."""
    spent = []
    for _ in range(calls):
        begun = perf_counter()
        call()
        spent.append(perf_counter() - begun)
    return statistics.median(spent)


def fsyncs(folder: Path, calls: int) -> float:
    """Seconds that the disk takes for as many bytes as one append writes."""
    data, at = bytes(FRAME.size + len(entry(0))), 0
    with (folder / "fsync").open("wb", 0) as file:

        def one() -> None:
            nonlocal at
            os.pwrite(file.fileno(), data, at)
            os.fsync(file.fileno())
            at += len(data)

        return median(calls, one)


def hashing(calls: int) -> float:
    """Seconds for the two hashes that an entry costs on average."""
    data, two = b"\x00" + entry(0), bytes(65)
    begun = perf_counter()
    for _ in range(calls):
        hashlib.sha256(data).digest()
        hashlib.sha256(two).digest()
    return (perf_counter() - begun) / calls


def peak() -> int:
    """Bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def appends(folder: Path, size: int, alone: int) -> list[tuple[str, str]]:
    """Fill a log."""
    key = signing.load(folder / "key")
    with Log(folder / "log", key, ORIGIN) as log:
        one = median(alone, lambda: log.append(entry(log.size)))
        begun = perf_counter()
        log.extend(entry(number) for number in range(alone, size))
        batch = (perf_counter() - begun) / (size - alone)
    limit, least = fsyncs(folder, alone), hashing(alone)
    return [
        ("append alone", f"{1 / one:12,.0f} a second, {limit / one:.0%} of what fsync allows"),
        ("append in batches", f"{1 / batch:12,.0f} a second, {least / batch:.0%} of SHA-256's"),
    ]


def proofs(folder: Path, size: int, calls: int) -> list[tuple[str, str]]:
    """Make and verify them."""
    key, random_ = signing.load(folder / "key"), random.Random(7)
    with Log(folder / "log", key, ORIGIN) as log:
        head = checkpoint.verified(log.checkpoint(), ORIGIN, key.public_key())
        indices = [random_.randrange(size) for _ in range(calls)]
        paths = [log.inclusion(index, size) for index in indices]
        growths = [log.consistency(index, size) for index in indices]
        roots = [merkle.root_at(index, log._files.node) for index in indices]
        leaves = [merkle.leaf_hash(next(log.entries(index, index + 1))) for index in indices]
        turn = iter(range(10 * calls))

        def pick() -> int:
            return next(turn) % calls

        def include() -> None:
            at = pick()
            merkle.check_inclusion(leaves[at], indices[at], paths[at], size=size, root=head.root)

        def follow() -> None:
            at = pick()
            merkle.check_consistency((indices[at], roots[at]), (size, head.root), growths[at])

        spent = {
            "inclusion: make": median(calls, lambda: log.inclusion(indices[pick()], size)),
            "inclusion: verify": median(calls, include),
            "consistency: make": median(calls, lambda: log.consistency(indices[pick()], size)),
            "consistency: verify": median(calls, follow),
            "head: sign": median(calls, lambda: checkpoint.sign(head, key)),
            "head: verify": median(
                calls, lambda: checkpoint.verified(log.checkpoint(), ORIGIN, key.public_key())
            ),
        }
    longest = {"inclusion": max(map(len, paths)), "consistency": max(map(len, growths))}
    rows = [(name, f"{1e6 * one:12,.0f} us") for name, one in spent.items()]
    return rows + [
        (f"{name}: size", f"{merkle.HASH * most:12,} bytes at most, {most} hashes")
        for name, most in longest.items()
    ]


def whole(folder: Path) -> list[tuple[str, str]]:
    """Open it, and audit it."""
    key = signing.load(folder / "key")
    opening = median(9, lambda: Log(folder / "log", key, ORIGIN).close())
    begun = perf_counter()
    with Reader(folder / "log") as reader:
        reader.verify(key.public_key())
    audit = perf_counter() - begun
    files = {path.name: path.stat().st_size for path in (folder / "log").iterdir()}
    return [
        ("open", f"{1000 * opening:12.2f} ms"),
        ("verify all", f"{audit:12.2f} s"),
        ("entries file", f"{files['entries'] / MB:12.1f} MB"),
        ("tree file", f"{files['tree'] / MB:12.1f} MB"),
    ]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--alone", type=int, default=2000, help="appends with an fsync each")
    parser.add_argument("--calls", type=int, default=2000, help="per kind of proof")
    parser.add_argument("--folder", type=Path, help="on the disk to measure", default=None)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        signing.save(folder / "key", signing.generate())
        before = peak()
        rows = appends(folder, args.entries, args.alone)
        rows += proofs(folder, args.entries, args.calls)
        rows += whole(folder)
        rows.append(("peak of memory", f"{(peak() - before) / MB:12.1f} MB"))
    print(f"{args.entries:,} entries of {len(entry(0))} bytes")
    for label, value in rows:
        print(f"{label:22} {value}")
    most = 2 * merkle.HASH * args.entries.bit_length()
    sizes = [int(value.split()[0].replace(",", "")) for label, value in rows if "size" in label]
    met = max(sizes) <= most
    print(f"aim: proofs of at most 2 log2(n) hashes: {'met' if met else 'MISSED'} ({max(sizes)} B)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
