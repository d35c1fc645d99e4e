# SPDX-License-Identifier: Apache-2.0
"""Sealed files against plain ones and against AES-256-GCM alone, in one run.

    python benchmarks/vault.py

Writes and reads a file of ``--size`` MiB as the engine does (``engine.medium``: temporary file,
SHA-256, fsync, rename), plain and sealed in turn, and seals and opens the same bytes in memory in
chunks of 1 MiB. Best of ``--repeat``. Reads are from the page cache. A journal is saved whole with
each transaction: its last table says what that takes as it grows.
"""

import argparse
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedclave.engine.medium import PLAIN, Medium, Sealed
from fedclave.trust.vault import CHUNK, Vault

MIB = 2**20
SCHEMA = "create table if not exists r (n integer primary key, t text)"


def best(repeat: int, *calls: Callable[[], object]) -> list[float]:
    """Seconds of each call, interleaved."""
    found = [float("inf")] * len(calls)
    for _ in range(repeat):
        for number, call in enumerate(calls):
            begun = perf_counter()
            call()
            found[number] = min(found[number], perf_counter() - begun)
    return found


def written(medium: Medium, folder: Path, data: bytes) -> Path:
    """A file of these bytes."""
    view = memoryview(data)
    pieces = (view[at : at + MIB] for at in range(0, len(data), MIB))
    digest = medium.write(folder, pieces)
    return folder / f"{digest}{medium.suffix}"


def read(medium: Medium, path: Path) -> int:
    """All of it; how many bytes."""
    buffer, total = bytearray(MIB), 0
    with medium.opens(path) as file:
        while got := file.readinto(buffer):
            total += got
    return total


def files(folder: Path, size: int, repeat: int) -> None:
    """The first table."""
    data = secrets.token_bytes(size)
    sealed = Sealed(Vault(secrets.token_bytes(32)), folder)
    cipher = AESGCM(secrets.token_bytes(32))
    chunks = [memoryview(data)[at : at + CHUNK] for at in range(0, size, CHUNK)]
    nonces = [number.to_bytes(12, "big") for number in range(len(chunks))]
    closed = [cipher.encrypt(n, c, None) for n, c in zip(nonces, chunks, strict=True)]

    def encrypt() -> None:
        for nonce, chunk in zip(nonces, chunks, strict=True):
            cipher.encrypt(nonce, chunk, None)

    def decrypt() -> None:
        for nonce, chunk in zip(nonces, closed, strict=True):
            cipher.decrypt(nonce, chunk, None)

    plain_path, sealed_path = (written(medium, folder, data) for medium in (PLAIN, sealed))
    spent = best(
        repeat,
        lambda: written(PLAIN, folder, data),
        lambda: written(sealed, folder, data),
        encrypt,
        lambda: read(PLAIN, plain_path),
        lambda: read(sealed, sealed_path),
        decrypt,
    )
    head = "plain MB/s   sealed MB/s   to plain   AES-GCM MB/s   of it"
    print(f"{f'{size // MIB} MiB':18} {head}")
    for what, (plain, own, raw) in {"write": spent[:3], "read": spent[3:]}.items():
        rates = [size / seconds / 1e6 for seconds in (plain, own, raw)]
        print(
            f"{what:16} {rates[0]:12.0f} {rates[1]:13.0f} {rates[1] / rates[0]:9.2f}x"
            f" {rates[2]:14.0f} {rates[1] / rates[2]:6.2f}x"
        )


def journals(folder: Path, repeat: int) -> None:
    """The second table."""
    sealed = Sealed(Vault(secrets.token_bytes(32)), folder)
    print("\njournal of    plain ms   sealed ms   for a transaction")
    for rows in (100, 1000, 10_000):
        spent = []
        for medium in (PLAIN, sealed):
            database = medium.database(medium.journal(folder, f"j{rows}"), SCHEMA, "")
            with database.writing() as writing:
                values = ((number, "x" * 300) for number in range(rows))
                writing.executemany("insert into r values (?, ?)", values)

            def one(opened: object = database) -> None:
                with opened.writing() as writing:  # type: ignore[attr-defined]
                    writing.execute("update r set t = hex(randomblob(150)) where n = 1")

            spent += best(repeat, one)
            database.close()
        print(f"{rows:6} rounds {spent[0] * 1e3:10.2f} {spent[1] * 1e3:11.2f}")


def main() -> None:
    """Both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", type=int, default=256, help="MiB")
    parser.add_argument("--repeat", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files(Path(folder), given.size * MIB, given.repeat)
        journals(Path(folder), given.repeat)


if __name__ == "__main__":
    main()
