# SPDX-License-Identifier: Apache-2.0
"""How what a party keeps of a run lies on its disk: as it is, or sealed (``--seal-state``).

A run goes on as it was begun. The key is ``cert/vault.key``; without it, nothing of a sealed run
can be read.
"""

from pathlib import Path

from fedclave.engine import journal, notebook, store
from fedclave.engine.medium import PLAIN, Medium, Sealed
from fedclave.errors import UserError
from fedclave.trust.vault import Vault
from fedclave.workspace.layout import Workspace


def of_run(workspace: Workspace, *, seal: bool) -> Medium:
    """The aggregator's way for its run. ``UserError``: the run was begun in the other one."""
    save = workspace.save
    if not seal and _sealed(save, store.NAME).exists():
        raise UserError(_SEALED.format(where=save))
    if seal and not _sealed(save, store.NAME).exists():
        plain = journal.read(save)
        if plain is not None and plain.opened:  # what only 'fx plan initialize' made is no secret
            raise UserError(f"{_PLAIN.format(where=save)}, or {store.ANEW}")
    return _medium(workspace, save, store.NAME) if seal else PLAIN


def of_member(workspace: Workspace, folder: Path, *, seal: bool) -> Medium:
    """A collaborator's way for its notebook. ``UserError``: it was begun in the other one."""
    if not seal and _sealed(folder, notebook.NAME).exists():
        raise UserError(_SEALED.format(where=folder))
    if seal and PLAIN.journal(folder, notebook.NAME).exists():
        raise UserError(f"{_PLAIN.format(where=folder)}, or move that folder away")
    return _medium(workspace, folder, notebook.NAME) if seal else PLAIN


def found(workspace: Workspace) -> Medium:
    """How the aggregator's run in a workspace lies there."""
    if _sealed(workspace.save, store.NAME).exists():
        return _medium(workspace, workspace.save, store.NAME)
    return PLAIN


def both(workspace: Workspace) -> tuple[Medium, ...]:
    """The ways in which an update that was kept may lie somewhere."""
    if not workspace.vault.exists():
        return (PLAIN,)
    return (PLAIN, Sealed(Vault.existing(workspace.vault), workspace.own))


def _medium(workspace: Workspace, folder: Path, name: str) -> Sealed:
    begun = _sealed(folder, name).exists()
    vault = Vault.existing(workspace.vault) if begun else Vault.open(workspace.vault)
    return Sealed(vault, workspace.own)


def _sealed(folder: Path, name: str) -> Path:
    return folder / f"{name}{Sealed.suffix}"


_SEALED = "{where} holds a run whose state is sealed. Go on with --seal-state"
_PLAIN = "{where} holds a run whose state is not sealed. Go on without --seal-state"
