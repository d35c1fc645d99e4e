# SPDX-License-Identifier: Apache-2.0
"""Questions are asked at a terminal only; passphrases come from file, environment or terminal."""

import io
from pathlib import Path

import pytest
import typer

from fedclave.cli import console, options
from fedclave.errors import UserError


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def at_terminal(monkeypatch: pytest.MonkeyPatch, *answers: str) -> None:
    given = iter(answers)
    monkeypatch.setattr("sys.stdin", Terminal("".join(f"{a}\n" for a in answers)))
    monkeypatch.setattr("getpass.getpass", lambda prompt: next(given))
    monkeypatch.delenv(console.PASSPHRASE, raising=False)


def test_passphrase_file_comes_before_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(console.PASSPHRASE, "from environment")
    (tmp_path / "p").write_text("from file\n")
    assert console.passphrase(tmp_path / "p") == b"from file"
    assert console.passphrase(None) == b"from environment"


def test_new_passphrase_is_asked_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    at_terminal(monkeypatch, "one horse, two", "one horse, two")
    assert console.passphrase(None, new=True) == b"one horse, two"
    at_terminal(monkeypatch, "short", "short")
    with pytest.raises(UserError, match="12 characters"):
        console.passphrase(None, new=True)
    at_terminal(monkeypatch, "one", "two")
    with pytest.raises(UserError, match="differ"):
        console.passphrase(None, new=True)


def test_without_a_terminal_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(console.PASSPHRASE, raising=False)
    monkeypatch.setattr("sys.stdin", io.StringIO("secret\n"))
    with pytest.raises(UserError, match="--passphrase-file"):
        console.passphrase(None)
    with pytest.raises(UserError, match="--yes"):
        console.confirm("Same?", yes=False)


def test_empty_passphrase_and_unreadable_file_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "p").write_text("\n")
    with pytest.raises(UserError, match="empty"):
        console.passphrase(tmp_path / "p")
    with pytest.raises(UserError, match="cannot be read"):
        console.passphrase(tmp_path / "none")


@pytest.mark.parametrize(("answer", "goes_on"), [("y", True), ("YES", True), ("", False)])
def test_only_a_yes_goes_on(monkeypatch: pytest.MonkeyPatch, answer: str, goes_on: bool) -> None:
    at_terminal(monkeypatch, answer)
    if goes_on:
        console.confirm("Same?", yes=False)
    else:
        with pytest.raises(UserError, match="nothing was done"):
            console.confirm("Same?", yes=False)


@pytest.mark.parametrize("text", ["", "foo", "foo:", ":1", "a:b", "h:65536", "::1:1", "a b:1"])
def test_what_is_no_address_is_misuse(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        options.address(text)


@pytest.mark.parametrize("text", ["", "24", "h", "-1h", "1.5h", "2w", "999999d", "0h"])
def test_other_spans_of_time_are_misuse(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        options.duration(text)
