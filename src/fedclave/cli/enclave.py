# SPDX-License-Identifier: Apache-2.0
"""``fx attest measure --manifest``: what an enclave measures, and whether that is expected."""

from pathlib import Path

import typer

from fedclave.cli import console
from fedclave.errors import Code, Refused, UserError


def measure(
    manifest: Path, libpal: Path | None, version: str, compare: list[Path], as_json: bool
) -> None:
    """Compute MRENCLAVE, and print it. ``Refused(ATT_MRENCLAVE)``: something says another."""
    from fedclave.trust import elf, files, mrenclave
    from fedclave.trust import manifest as manifests

    if libpal is None:
        raise typer.BadParameter(
            "Name Gramine's binary for SGX, which is measured too (sgx/libpal.so of its package).",
            param_hint="'--libpal'",
        )
    if version not in mrenclave.RELEASES:
        known = ", ".join(mrenclave.RELEASES)
        raise UserError(f"the layout of Gramine {version} is not known here. Known: {known}")
    text = files.read(manifest, "Name a final manifest")
    shape = mrenclave.shape_of(manifests.parse(text, str(manifest)))
    pal = elf.parse(files.read(libpal, "Name Gramine's libpal.so"), str(libpal))
    found = mrenclave.measure(text, pal, shape, mrenclave.RELEASES[version])
    for path in compare:
        _compare(path, found)
    value = {
        "mr_enclave": found.hex(),
        "manifest": manifest,
        "gramine": version,
        "enclave_size": shape.size,
        "max_threads": shape.threads,
        "edmm": shape.edmm,
        "same": compare,
    }
    lines = console.rows(
        {
            "mr_enclave": found.hex(),
            "enclave": f"{shape.size >> 20} MiB, {console.count(shape.threads, 'thread')}"
            + (", grows as it runs (EDMM)" if shape.edmm else ""),
            "Gramine": version,
        }
    )
    lines += ["", *(f"{path} says the same." for path in compare)] if compare else []
    console.answer(value, lines, as_json)


def said(path: Path) -> bytes:
    """MRENCLAVE of a .sig or a quote in a file; what a quote says is not verified here."""
    from fedclave.trust import files, quotes, sigstruct
    from fedclave.trust.quotes import SgxReport

    raw = files.read(path, "Name a .sig or a quote")
    if raw.startswith(sigstruct.HEADER):
        return sigstruct.parse(raw).body.mrenclave
    body = quotes.parse(raw).body
    if not isinstance(body, SgxReport):
        raise UserError(f"{path} is a quote of a TDX guest, which has no MRENCLAVE")
    return body.mr_enclave


def _compare(path: Path, found: bytes) -> None:
    if (other := said(path)) != found:
        raise Refused(
            Code.ATT_MRENCLAVE,
            f"{path} says {other.hex()}, and these files make {found.hex()}. Something of them is"
            " another: the manifest (each trusted file's hash stands in it), libpal.so or release",
        )
