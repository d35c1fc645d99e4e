# SPDX-License-Identifier: Apache-2.0
"""What Python would run for given arguments (docs.python.org/3.11/using/cmdline.html)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

_PROMPT = re.compile(
    r"[bi]?pdb|pudb|debugpy|code|codeop|trace|c?[Pp]rofile|timeit|asyncio|idlelib|IPython|ipykernel"
    r"|jupyter(_core|lab)?|notebook|[bp]t?python"
)
"""Modules that run what is typed, or what their arguments or files say."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How Python starts: its one-letter options, and the program."""

    flags: frozenset[str]
    how: Literal["code", "module", "script", "stdin"]
    what: str = ""

    @property
    def reads_stdin(self) -> bool:
        """Whether Python runs what comes on its standard input, at once or in the end."""
        return self.how == "stdin" or "i" in self.flags

    @property
    def is_prompt(self) -> bool:
        """Whether the module is one that runs what somebody types."""
        return self.how == "module" and bool(_PROMPT.fullmatch(self.what.partition(".")[0]))

    @property
    def is_isolated(self) -> bool:
        """Whether neither the environment nor the script's folder adds modules."""
        return "I" in self.flags or {"E", "s", "P"} <= self.flags


def launch(argv: Sequence[str]) -> Launch:
    """What ``argv`` starts; its first word is Python's own name.

    >>> launch(["python", "-IBm", "fedclave.enclave", "-c", "x"])
    Launch(flags=frozenset({...}), how='module', what='fedclave.enclave')
    """
    flags: set[str] = set()
    words = iter(argv[1:])
    for word in words:
        if word == "-":
            break
        if word == "--":
            return _script(flags, next(words, None))
        if not word.startswith("-"):
            return _script(flags, word)
        if word.startswith("--"):
            if word == "--check-hash-based-pycs":
                next(words, None)
            continue
        for at, letter in enumerate(word[1:], 2):
            if letter in "cm":
                what = word[at:] or next(words, "")
                how: Literal["code", "module"] = "code" if letter == "c" else "module"
                return Launch(flags=frozenset(flags), how=how, what=what)
            if letter in "WX":
                if not word[at:]:
                    next(words, None)
                break
            flags.add(letter)
    return Launch(flags=frozenset(flags), how="stdin")


def _script(flags: set[str], what: str | None) -> Launch:
    if what in (None, "-"):
        return Launch(flags=frozenset(flags), how="stdin")
    return Launch(flags=frozenset(flags), how="script", what=what or "")
