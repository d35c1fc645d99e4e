# SPDX-License-Identifier: Apache-2.0
"""What came of an input: accepted, refused as the target's parser says it refuses, or a finding."""

import traceback
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from time import thread_time
from typing import Any

from fedclave.errors import Refused

SLOW_MS = 250.0
"""CPU time that no input may take. The slowest known one takes a tenth of it."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """One way in for bytes of others."""

    what: str
    seeds: Callable[[], list[bytes]]
    """Inputs that are known: of the vectors, and made by the code; the first is accepted."""
    run: Callable[[bytes], object]
    refusals: tuple[type[BaseException], ...] = (Refused,)
    """How it refuses; by ``Refused`` unless it reads what a person names (``UserError``)."""


@dataclass(kw_only=True)
class Report:
    """What has come of a target so far."""

    target: str
    engine: str
    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    slowest_ms: float = 0.0  # of CPU time
    finding: str = ""

    @property
    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Watch:
    """Runs one target, and keeps the report and the first input that must not be."""

    def __init__(self, name: str, target: Target, engine: str, slow_ms: float = SLOW_MS) -> None:
        self.report = Report(target=name, engine=engine)
        self.input: bytes | None = None
        self._target = target
        self._slow_ms = slow_ms

    def one(self, data: bytes) -> bool:
        """Whether all is well with this input."""
        report, begun, error = self.report, thread_time(), ""
        try:
            self._target.run(data)
            report.accepted += 1
        except self._target.refusals:
            report.refused += 1
        except BaseException as odd:  # a panic of Rust's is no Exception
            if isinstance(odd, KeyboardInterrupt):
                raise
            error = "".join(traceback.format_exception(odd)[-12:])
        spent_ms = (thread_time() - begun) * 1000
        report.inputs += 1
        report.slowest_ms = max(report.slowest_ms, spent_ms)
        if not error and spent_ms > self._slow_ms:
            error = f"{spent_ms:.0f} ms of CPU time, over {self._slow_ms:g}"
        if error and self.input is None:
            report.finding, self.input = error, data
        return not error

    def all(self, inputs: Iterable[bytes]) -> Report:
        """Run them until one must not be."""
        for data in inputs:
            if not self.one(data):
                break
        return self.report
