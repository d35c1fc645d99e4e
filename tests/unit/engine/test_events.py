# SPDX-License-Identifier: Apache-2.0
"""Events: one whole JSON line each, of the documented fields, whatever cut the file before."""

import json
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from fedclave.engine import events
from fedclave.engine.events import BLOCK, Events
from fedclave.errors import Bug

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
LEFT: dict[str, Any] = {"member": "anna", "reason": "it closed the connection"}


def sink(path: Path | None, *listeners: Any) -> Events:
    return Events(path, lambda: NOW, *listeners)


def test_a_line_is_in_the_file_as_soon_as_it_is_emitted(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "events.jsonl"
    opened = sink(path)
    opened.emit("member_left", **LEFT)
    written = path.read_text()
    opened.close()
    head = {"v": 1, "time": "2030-01-01T12:00:00+00:00", "event": "member_left"}
    assert json.loads(written) == {**head, **LEFT}
    assert written.endswith("\n") and written.count("\n") == 1


def test_listeners_hear_what_the_file_holds(tmp_path: Path) -> None:
    heard: list[Any] = []
    opened = sink(tmp_path / "e", heard.append)
    opened.emit("member_left", **LEFT)
    opened.close()
    assert list(events.read(tmp_path / "e")) == heard


def test_without_a_file_there_are_only_listeners() -> None:
    heard: list[Any] = []
    opened = sink(None, heard.append)
    opened.emit("member_left", **LEFT)
    opened.close()
    assert len(heard) == 1


@pytest.mark.parametrize(
    ("event", "fields"),
    [
        ("member_left", {"member": "anna"}),
        ("member_left", {**LEFT, "more": 1}),
        ("member_vanished", LEFT),
        ("member_vanished", {}),
    ],
)
def test_an_event_that_is_not_in_the_schema_is_a_bug(event: str, fields: Any) -> None:
    with pytest.raises(Bug):
        sink(None).emit(event, **fields)


@pytest.mark.parametrize("cut", [b'{"v": 1, "ti', b"x" * (3 * BLOCK + 5), b"{", b""])
@pytest.mark.parametrize("whole", [0, 1, 3])
def test_a_line_that_was_cut_short_does_not_swallow_the_next(
    whole: int, cut: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "events.jsonl"
    opened = sink(path)
    for _ in range(whole):
        opened.emit("member_left", **LEFT)
    opened.close()
    with path.open("ab") as file:
        file.write(cut)
    assert len(list(events.read(path))) == whole  # a reader leaves it out
    opened = sink(path)
    opened.emit("member_left", **LEFT)
    opened.close()
    assert len(list(events.read(path))) == whole + 1


def test_text_that_is_no_unicode_is_escaped(tmp_path: Path) -> None:
    opened = sink(tmp_path / "e")
    odd = "caf\udce9 \U0001f600 é"  # a file's name in Latin-1, as Python shows it
    opened.emit("member_left", member="anna", reason=odd)
    opened.close()
    assert next(events.read(tmp_path / "e"))["reason"] == odd


def test_lines_of_many_threads_stay_whole(tmp_path: Path) -> None:
    opened = sink(tmp_path / "e")

    def emit() -> None:
        for _ in range(50):
            opened.emit("member_left", member="anna", reason="x" * 2000)

    threads = [Thread(target=emit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    opened.close()
    assert len(list(events.read(tmp_path / "e"))) == 200
