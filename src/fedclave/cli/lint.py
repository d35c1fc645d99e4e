# SPDX-License-Identifier: Apache-2.0
"""``fx attest lint``: what a Gramine manifest leaves to the host."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedclave.cli import console
from fedclave.cli.options import Json, command
from fedclave.errors import Refused

if TYPE_CHECKING:
    from fedclave.trust.manifest_lint import Finding, Severity

FINAL = ".manifest.sgx"


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    command(
        app,
        "lint",
        "fx attest lint aggregator.manifest.sgx",
        "fx attest lint node.manifest.sgx --allow-output file:/srv/run/models --json",
    )(lint)


def lint(
    path: Annotated[
        Path, typer.Argument(metavar="MANIFEST", help="A Gramine manifest, signed or not.")
    ],
    allow_output: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-output",
            metavar="URI",
            help="Accept that the host reads and writes what is under it. Can be repeated.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Refuse a Gramine manifest that leaves to the host what must be the enclave's.

    Each finding says what the host can do with it, and the remedy. The rules are those of Gramine
    1.9, and hold for anybody's manifest. Look at the one that was signed (.manifest.sgx): it has
    every file's hash. Exit code 3 if anything is refused.
    """
    from fedclave.trust import manifest, manifest_lint
    from fedclave.trust.manifest_lint import Severity

    value = manifest.read(path)
    final = path.name.endswith(FINAL) or manifest_lint.is_final(value)
    found = manifest_lint.lint(value, allow_outputs=allow_output or (), final=final)
    groups = {one: [f for f in found if f.rule.severity is one] for one in Severity}
    refused = groups[Severity.REFUSED]
    facts = {
        "manifest": path,
        "final": final,
        "verdict": "refused" if refused else "accepted",
        **{str(severity): list(map(_facts, some)) for severity, some in groups.items()},
    }
    console.answer(facts, _lines(groups, final), as_json)
    if refused:
        raise typer.Exit(Refused.exit_code)


def _facts(finding: "Finding") -> dict[str, str]:
    return {
        "rule": finding.rule.name,
        "key": finding.key,
        "value": finding.value,
        "detail": finding.detail,
        "host": finding.rule.host,
        "remedy": finding.rule.remedy,
    }


def _lines(groups: "dict[Severity, list[Finding]]", final: bool) -> Iterator[str]:
    for severity, findings in groups.items():
        if findings:
            yield f"{severity.value.capitalize()}"
            yield from _group(findings)
            yield ""
    if not final:
        yield "It is not signed yet. Look at what the signer makes of it as well (.manifest.sgx)."
    refused, warned = map(len, groups.values())
    if refused:
        yield f"REFUSED: {console.count(refused, 'finding')}, {console.count(warned, 'warning')}."
    else:
        yield (
            f"Nothing is refused, {console.count(warned, 'warning')}. Whether the files that it"
            " lists are good ones, a manifest does not say."
        )


def _group(findings: "Sequence[Finding]") -> Iterator[str]:
    for rule, some in groupby(findings, lambda finding: finding.rule):
        yield f"  {rule.name}"
        yield from (f"    {finding}" for finding in some)
        yield f"      The host {rule.host[0].lower()}{rule.host[1:]}"
        yield f"      Instead: {rule.remedy}."
