# SPDX-License-Identifier: Apache-2.0
"""Files and folders that a user asked for, at a path of the user's choice.

Errors speak of that path, never of a temporary one beside it.
"""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedclave.errors import Unavailable, UserError
from fedclave.tensors import sync_folder

_WORLD = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE)  # may be better another time


@contextmanager
def blamed_on(target: Path) -> Iterator[None]:
    """Every ``OSError`` within is one of writing the target; reading is guarded by itself.

    ``UserError``: nothing can be written there. ``Unavailable``: the disk is full or broken.
    """
    try:
        yield
    except OSError as error:
        reason = f"{target} cannot be written ({error.strerror})"
        if error.errno in _WORLD:
            remedy = "Free space or repair the disk, then run again"
            raise Unavailable(f"{reason}. {remedy}") from error
        raise UserError(f"{reason}. Name another place, or make this one writable") from error


def check(target: Path) -> None:
    """Raise ``UserError`` unless a file could lie there; an existing one could be replaced."""
    with blamed_on(target):
        if target.exists() and not target.is_file():
            what = "a folder" if target.is_dir() else "not a regular file"
            raise UserError(f"{target} is {what}. Name a file to write")
        if not target.absolute().parent.is_dir():
            raise UserError(
                f"there is no folder {target.parent} to write {target.name} to. Make it first, or"
                " name another"
            )


@contextmanager
def new_file(target: Path, mode: int = 0o666) -> Iterator[Path]:
    """An empty file that becomes ``target`` once the block has written it without an error."""
    check(target)
    temporary = target.absolute().with_name(f".{secrets.token_hex(8)}.tmp")
    with blamed_on(target):
        try:
            os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.replace(target)
            sync_folder(temporary.parent)
        finally:
            temporary.unlink(missing_ok=True)
