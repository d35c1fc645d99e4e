#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
"""Throws inputs at every parser of others' bytes in ``fedclave.trust`` (``targets``).

    python fuzz/fuzz.py --runs 20000                 each target, so many inputs
    python fuzz/fuzz.py --target quote --seed 7

With ``atheris`` (pip install atheris) the inputs are guided by coverage; without it, or with
``--engine mutation``, they are the known ones with changes, and one seed gives one sequence of
changes (what the code makes anew, certificates say, has new keys each time). Each target runs in a
process of its own. What must not be is anything but the target's refusal (``Refused``;
where a person names the file, ``UserError``), or more than 250 ms of CPU time: the input is saved
under ``--save``, and the exit status is 1.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # in place of this folder: ``fuzz`` is the package

HEADS = ("target", "inputs", "accepted", "refused", "slowest", "")
MOST = 2**16  # bytes of an input


def main() -> int:
    """Run what the command line says."""
    options = _options()
    if options.child:
        return _child(options)
    names = options.target or _names()
    engine = options.engine or ("atheris" if _has_atheris() else "mutation")
    print(
        f"{options.runs} inputs for each of {len(names)} targets; {engine}, seed {options.seed}\n"
    )
    print("{:12} {:>9} {:>9} {:>9} {:>10}  {}".format(*HEADS))
    totals, found = [0, 0, 0], 0
    for name in names:
        report = _run(name, engine, options)
        counts = [report[key] for key in ("inputs", "accepted", "refused")]
        totals = [a + b for a, b in zip(totals, counts, strict=True)]
        found += bool(report["finding"])
        slowest = f"{report['slowest_ms']:.1f} ms"
        print(f"{name:12} {counts[0]:9} {counts[1]:9} {counts[2]:9} {slowest:>10}  "
              f"{report['finding']}", flush=True)  # fmt: skip
    print(f"{'all':12} {totals[0]:9} {totals[1]:9} {totals[2]:9}")
    return 1 if found else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Fuzz the parsers of fedclave.trust")
    parser.add_argument("--runs", type=int, default=20_000, help="inputs for each target")
    parser.add_argument("--target", action="append", help="only this one; may be repeated")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--engine", choices=("atheris", "mutation"))
    parser.add_argument("--save", type=Path, default=Path("fuzz-findings"))
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _has_atheris() -> bool:
    return importlib.util.find_spec("atheris") is not None


def _names() -> list[str]:
    from fuzz.targets import TARGETS

    return list(TARGETS)


def _run(name: str, engine: str, options: argparse.Namespace) -> dict[str, Any]:
    """The report of a process that runs one target."""
    command = [sys.executable, __file__, "--child", "--target", name, "--engine", engine]
    command += ["--runs", str(options.runs), "--seed", str(options.seed)]
    command += ["--save", str(options.save)]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    if not lines or not lines[-1].startswith("{"):  # it died: the interpreter, or an engine
        return {
            "inputs": 0, "accepted": 0, "refused": 0, "slowest_ms": 0.0,
            "finding": f"ended with {done.returncode}: {done.stderr[-800:]}",
        }  # fmt: skip
    report: dict[str, Any] = json.loads(lines[-1])
    return report


def _child(options: argparse.Namespace) -> int:
    (name,) = options.target
    if options.engine == "atheris":
        import atheris

        with atheris.instrument_imports(include=["fedclave"]):
            from fuzz import targets
    else:
        from fuzz import targets
    from fuzz import mutation, parties
    from fuzz.watch import Watch

    target = targets.TARGETS[name]
    seeds = target.seeds()
    watch = Watch(name, target, options.engine, slow_ms=float("inf"))
    is_well = all(map(watch.one, seeds))
    if is_well:  # what was imported and made once is not an input's cost
        watch = Watch(name, target, options.engine)

    def finish() -> None:
        report = watch.report
        if watch.input is not None:
            options.save.mkdir(parents=True, exist_ok=True)
            path = options.save / f"{name}-{options.seed}-{report.inputs}.bin"
            path.write_bytes(watch.input)
            report.finding = f"{path}: {report.finding}"
        parties.clean()
        print(json.dumps(report.plain), flush=True)

    if not is_well:
        finish()
        return 0
    if options.engine == "mutation":
        watch.all(mutation.inputs(seeds, f"{options.seed}/{name}", options.runs))
        finish()
        return 0

    def one(data: bytes) -> None:
        if not watch.one(data) or watch.report.inputs >= options.runs:
            finish()
            os._exit(0)  # libFuzzer has its own ideas of how a process ends

    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(seeds):
            (Path(corpus) / f"{number:03}").write_bytes(seed)
        words = Path(corpus).with_suffix(".dict")
        escaped = ["".join(f"\\x{byte:02x}" for byte in one[:64]) for one in mutation.TOKENS]
        words.write_text("".join(f'"{one}"\n' for one in escaped))
        flags = [f"-seed={options.seed}", f"-max_len={MOST}", f"-dict={words}", "-timeout=60"]
        flags += ["-rss_limit_mb=0", "-verbosity=0", "-use_value_profile=1"]
        atheris.Setup([sys.argv[0], *flags, corpus], one)
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
