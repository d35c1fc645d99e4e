# SPDX-License-Identifier: Apache-2.0
"""Throughput of the exact fold, against numpy's own addition of the same arrays, on one core.

    python benchmarks/fold.py

Prints GB/s of float32 read in (1 GB = 2**30 bytes), best and median of paired repetitions.
"""

import argparse
import statistics
import sys
from time import perf_counter

import numpy as np

from fedclave.algorithms.folds import Range, blocks_of, check_values, exact_mean
from fedclave.tensors import layout_of

GB = 2**30
BOUNDS = Range(limit=256.0, max_weight=2**20, max_members=256, fraction_bits=26)


def measure(megabytes: int, tensors: int, repetitions: int) -> dict[str, list[float]]:
    """Seconds of each step over the same update, interleaved so that noise hits all alike."""
    rng = np.random.default_rng(7)
    count = megabytes * 10**6 // 4 // tensors
    update = {f"t{i}": rng.normal(0, 0.01, count).astype(np.float32) for i in range(tensors)}
    plain = {name: array.copy() for name, array in update.items()}
    fold = exact_mean(BOUNDS)
    acc = fold.add(fold.zero(layout_of(update)), blocks_of(update), 100)  # pages touched
    seconds: dict[str, list[float]] = {"numpy add": [], "check": [], "fold": []}
    for _ in range(repetitions):
        begun = perf_counter()
        for name, array in update.items():
            plain[name] += array
        added = perf_counter()
        check_values(blocks_of(update), BOUNDS)
        checked = perf_counter()
        fold.add(acc, blocks_of(update), 100)
        seconds["numpy add"].append(added - begun)
        seconds["check"].append(checked - added)
        seconds["fold"].append(perf_counter() - checked)
    both = zip(seconds["check"], seconds["fold"], strict=True)
    seconds["check + fold"] = [a + b for a, b in both]
    return seconds


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--tensors", type=int, default=20)
    parser.add_argument("--repetitions", type=int, default=15)
    args = parser.parse_args()
    size = args.megabytes * 10**6 / GB
    seconds = measure(args.megabytes, args.tensors, args.repetitions)
    floor = statistics.median(seconds["numpy add"])
    print(f"{args.megabytes} MB float32 in {args.tensors} tensors, {args.repetitions} repetitions")
    print(f"{'step':14} {'best GB/s':>10} {'median GB/s':>12} {'x numpy add':>12}")
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"{name:14} {size / min(values):10.2f} {size / median:12.2f} {floor / median:12.2f}")
    rate = size / statistics.median(seconds["check + fold"])
    print(f"aim: check + fold at least 1.0 GB/s: {'met' if rate >= 1 else 'MISSED'} ({rate:.2f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
