# SPDX-License-Identifier: Apache-2.0
"""Start-up: ``fx --help`` and ``import fedclave`` against a bare interpreter, as whole processes.

    python benchmarks/start.py

Prints the median wall and CPU seconds of interleaved runs; run it when the machine is quiet.
"""

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path
from time import perf_counter

FX = str(Path(sys.executable).with_name("fx"))
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import fedclave": [sys.executable, "-c", "import fedclave"],
    "fx --help": [FX, "--help"],
}


def run(command: list[str]) -> tuple[float, float]:
    """Wall and CPU seconds of one process."""
    before, begun = os.times(), perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall, after = perf_counter() - begun, os.times()
    used = after.children_user + after.children_system
    return wall, used - before.children_user - before.children_system


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=15)
    args = parser.parse_args()
    for command in COMMANDS.values():
        run(command)  # byte code and page cache
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for _ in range(args.repetitions):
        for name, command in COMMANDS.items():
            runs[name].append(run(command))
    wall = {name: statistics.median(w for w, _ in values) for name, values in runs.items()}
    cpu = {name: statistics.median(c for _, c in values) for name, values in runs.items()}
    bare = wall["python -c pass"]
    print(f"{'process':18} {'wall s':>8} {'CPU s':>8} {'x bare':>8} {'more s':>8}")
    for name in COMMANDS:
        row = f"{wall[name]:8.3f} {cpu[name]:8.3f} {wall[name] / bare:8.2f}"
        print(f"{name:18} {row} {wall[name] - bare:8.3f}")
    for name, most, value in (
        ("fx --help under 0.35 s", 0.35, wall["fx --help"]),
        ("import fedclave under 0.15 s more", 0.15, wall["import fedclave"] - bare),
    ):
        print(f"aim: {name}: {'met' if value < most else 'MISSED'} ({value:.3f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
