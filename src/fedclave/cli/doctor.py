# SPDX-License-Identifier: Apache-2.0
"""``fx doctor``: what this host can do, and what is missing."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedclave.cli import console
from fedclave.cli.options import Json, command

if TYPE_CHECKING:
    from fedclave.workspace.host import Host, Tool
    from fedclave.workspace.host_files import Node
    from fedclave.workspace.readiness import Readiness


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    command(app, "doctor", "fx doctor", "fx doctor --online", "fx doctor --json")(doctor)


def doctor(
    online: Annotated[
        bool, typer.Option("--online", help="Also ask the PCCS whether it answers.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say what this host can do, and what is missing.

    For each way to run a party - in an SGX enclave, by Gramine without one, in a container, as a
    process - and for quotes: ready, or what is missing and what helps. Changes nothing. A report:
    the exit code is 0 whatever is missing.
    """
    import os
    from dataclasses import asdict

    from fedclave.workspace import host, readiness

    found = host.survey(environ=os.environ, folder=Path(), online=online)
    verdicts = readiness.judge(found)
    value = {"host": asdict(found), **verdicts.as_json()}
    console.answer(value, report(found, verdicts), as_json)


def report(host: "Host", verdicts: "Readiness") -> Iterator[str]:
    """The report for people: facts, verdicts, what is missing, notes."""
    yield "This host"
    yield from _indented(console.rows(dict(_facts(host))))
    yield ""
    yield "What it can do"
    wide = max(len(way.name) for way in verdicts.ways)
    for way in verdicts.ways:
        yield f"  {way.name:{wide}}  {way.verdict:7}  {way.what}"
    needed: dict[tuple[str, str], list[str]] = {}
    for way in verdicts.ways:
        for one in way.missing:
            needed.setdefault((one.what, one.fix), []).append(way.name)
    if needed:
        yield ""
        yield "What is missing"
        for (what, fix), names in needed.items():
            yield f"  {', '.join(names)}: {what}"
            yield f"      {fix}"
    if verdicts.notes:
        yield ""
        yield "Good to know"
        for note in verdicts.notes:
            yield f"  {note.what}"
            yield f"      {note.fix}"


def _facts(host: "Host") -> Iterator[tuple[str, str]]:
    sgx, vms, room = host.sgx, host.vms, host.room
    where = f" (in a container of {host.inside})" if host.inside else ""
    yield "system", (host.system or "cannot be told") + where
    yield "kernel", host.kernel or "cannot be told"
    yield "python", host.python
    machine = " (a VM's)" if host.cpu.virtual else ""
    yield "cpu", (host.cpu.model or host.cpu.vendor or "cannot be told") + machine
    yield "memory", f"{_size(room.memory_free)} free of {_size(room.memory)}"
    yield "disk", f"{_size(room.disk_free)} free here"
    yield "sgx", f"{_told(sgx.enabled, 'on', 'off')}; in the CPU: {_told(sgx.in_cpu)}"
    if sgx.in_cpu is not False:
        yield "launch control", _told(sgx.launch_control, "flexible", "not flexible")
        yield "edmm (sgx2)", _told(sgx.edmm)
        yield "epc", _size(sgx.epc_bytes)
        for node in (sgx.enclave, sgx.provision):
            yield node.path, _node(node)
        yield "aesm", "answers" if not host.aesm.problem else host.aesm.problem
        yield "pccs", _pccs(host)
    yield "tdx", f"guest: {_told(vms.tdx_guest)}, host of guests: {_told(vms.tdx_host)}"
    yield "sev-snp", f"guest: {_told(vms.snp_guest)}, host of guests: {_told(vms.snp_host)}"
    for tool in (*host.gramine.values(), *host.engines.values()):
        yield tool.name, _tool(tool)
    yield "clock", _told(host.clock, "synchronised", "not synchronised")


def _told(known: bool | None, yes: str = "yes", no: str = "no") -> str:
    return "cannot be told" if known is None else yes if known else no


def _node(node: "Node") -> str:
    owner = f" (group {node.group}, mode {node.mode})" if node.group else ""
    return node.state + owner


def _pccs(host: "Host") -> str:
    if host.qcnl.state != "found":
        return f"{host.qcnl.state}: its configuration"
    checked = "" if host.qcnl.secure else ", its certificate not verified"
    said = "not asked" if host.pccs is None else host.pccs.words
    return f"{host.qcnl.url} ({said}{checked})"


def _tool(tool: "Tool") -> str:
    if tool.path is None:
        return "not found"
    named = tool.version or "version cannot be told"
    return f"{named}; {tool.problem}" if tool.problem else named


def _size(number: int | None) -> str:
    return "cannot be told" if number is None else f"{number / 2**30:.1f} GiB"


def _indented(lines: list[str]) -> Iterator[str]:
    yield from (f"  {line}" for line in lines)
