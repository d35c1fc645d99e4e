# SPDX-License-Identifier: Apache-2.0
"""Secrets and data that lie where code belongs: an image carries them to whoever gets it.

The names and marks are those that people's tools give to such files. What is found is refused by
name; a lookup table that the code needs belongs in its code, or in the data folder of each party.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from fedclave.errors import UserError

_SECRET_NAME = re.compile(
    r"(\.env(\..*)?|\.netrc|\.pgpass|\.pypirc|\.npmrc|\.htpasswd|id_(rsa|dsa|ecdsa|ed25519)"
    r"|credentials(\.json)?|service-account.*\.json|kubeconfig"
    r"|.*\.(key|pem|p12|pfx|jks|keystore|kdbx|ppk|asc|gpg))",
    re.IGNORECASE,
)
_DATA_NAME = re.compile(
    r".*\.(csv|tsv|parquet|feather|arrow|orc|avro|xlsx?|ods|sav|dta|sas7bdat|rds|rdata|npy|npz|mat"
    r"|h5|hdf5|dcm|dicom|nii|nrrd|mha|edf|fasta|fastq|bam|vcf|sqlite3?|db|mdb|jsonl|ndjson"
    r"|pkl|pickle|joblib|pt|pth|ckpt|onnx|tfrecord|zip|gz|bz2|xz|zst|7z|tar)(\.gz)?",
    re.IGNORECASE,
)
_MARKS = (
    (re.compile(rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY( BLOCK)?-----"), "a private key"),
    (re.compile(rb"AGE-SECRET-KEY-1[0-9A-Z]{20}"), "an age key"),
    (re.compile(rb"\b(AKIA|ASIA)[0-9A-Z]{16}\b"), "an AWS access key"),
    (re.compile(rb"\bgh[pousr]_[A-Za-z0-9]{36}\b"), "a GitHub token"),
    (re.compile(rb"\bglpat-[A-Za-z0-9_-]{20}\b"), "a GitLab token"),
    (re.compile(rb"\bxox[abprs]-[A-Za-z0-9-]{20}"), "a Slack token"),
    (re.compile(rb"\bsk-(proj-)?[A-Za-z0-9_-]{40}"), "an API key"),
)
_MAX = 64 * 2**20  # bytes of one file that are looked through; a contract holds no larger code


def check(root: Path, names: Iterable[str]) -> None:
    """Raise ``UserError`` naming the first of a contract's files that is a secret, or data."""
    for name in names:
        if name.startswith("save/"):
            continue  # the initial model: the plan's own
        last = name.rpartition("/")[2]
        if _SECRET_NAME.fullmatch(last):
            raise _found(root / name, "has the name of a secret")
        if name.startswith("src/") and _DATA_NAME.fullmatch(last):
            raise _found(root / name, "is data, or a model")
        with (root / name).open("rb") as file:
            text = file.read(_MAX)
        for mark, what in _MARKS:
            if mark.search(text):
                raise _found(root / name, f"contains {what}")


def _found(path: Path, what: str) -> UserError:
    return UserError(
        f"{path} {what}, and an image carries it to whoever gets it. Move it to cert/ or data/,"
        " which stay here; then sign the contract anew"
    )
