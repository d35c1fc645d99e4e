# SPDX-License-Identifier: Apache-2.0
"""What became of a collaborator's requests, one a round, told by its own notices."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedclave.cli.console import count
from fedclave.errors import Code, UserError


class Tally:
    """Counts requests, one a round: answered, failed here, refused by the aggregator."""

    def __init__(self, name: str, tracebacks: Path) -> None:
        self.answered: set[int] = set()
        self.failed: dict[int, str] = {}
        self.refused: dict[int, str] = {}
        self._name = name
        self._tracebacks = tracebacks
        self._round = 0

    def take(self, event: Mapping[str, Any]) -> None:
        """One notice. What was asked again counts as it ended."""
        if event["event"] == "request":
            self._round = event["round"]
        elif event["event"] == "failure":
            self.failed[event["round"]] = f"{event['code']}: {event['message']}"
        elif event["event"] == "verdict" and event["code"] in (None, Code.DUPLICATE):
            self.answered.add(self._round)
            self.failed.pop(self._round, None)
            self.refused.pop(self._round, None)
        elif event["event"] == "verdict" and self._round not in self.failed:
            self.refused[self._round] = f"{event['code']}: {event['message']}"

    def repeats(self, event: Mapping[str, Any]) -> bool:
        """Whether a notice only says again that a request failed here."""
        return event["event"] == "verdict" and self._round in self.failed

    def lines(self) -> list[str]:
        """The summary for people; nothing if nothing was asked."""
        counts = ((self.answered, "answered"), (self.failed, "failed here"),
                  (self.refused, "refused by the aggregator"))  # fmt: skip
        parts = [f"{len(rounds)} {what}" for rounds, what in counts if rounds]
        if not parts:
            return []
        said = [f"requests: {', '.join(parts)}"]
        if self.failed and self.answered:  # else the error below says it
            said += [f"last failure: {self._last_failure()}", *self._where()]
        if self.refused:
            last = max(self.refused)
            said.append(f"last refusal: round {last}: {self.refused[last]}")
        return said

    def require_an_answer(self) -> None:
        """Raise ``UserError`` if all that this party did was fail: the model has nothing of it."""
        if self.answered or not self.failed:
            return
        asked = count(len(self.failed) + len(self.refused), "request")
        said = ". ".join(
            [
                f"{self._name} answered no round ({asked}), so the model has nothing of its data:"
                " its own code failed",
                f"The last time in {self._last_failure()}",
                *self._where(),
                "Correct src/ or the data, then start again",
            ]
        )
        raise UserError(said)

    def _last_failure(self) -> str:
        last = max(self.failed)
        return f"round {last}: {self.failed[last]}"

    def _where(self) -> list[str]:
        path = self._tracebacks
        return [f"tracebacks: {path}"] if path.is_file() else []
