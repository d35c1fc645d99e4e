# SPDX-License-Identifier: Apache-2.0
"""``fx data``: data that only a collaborator can open which has proved what it runs."""

from pathlib import Path
from typing import Annotated

import typer

from fedclave.cli import console, options
from fedclave.cli.options import (
    AllowSimulated,
    Json,
    KeyPassphraseFile,
    Member,
    SigningKey,
    WorkspaceDir,
    command,
    noun,
)

app = noun("data", "Seal data, and release its key to verified code.")

DataKey = Annotated[
    Path | None,
    typer.Option(
        "--data-key",
        metavar="FILE",
        help="The key that the data is sealed to.",
        show_default="cert/data.key",
    ),
]


@command(app, "seal", "fx data seal alice.npz alice.npz.sealed -n alice")
def seal(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The data: one file.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Where to write it sealed.")],
    name: Member,
    data_key: DataKey = None,
    workspace: WorkspaceDir = Path(),
    as_json: Json = False,
) -> None:
    """Seal a party's data to a key of its owner, which is made when it is first needed.

    Who operates the collaborator holds the sealed file alone. Keep the key away from that machine,
    and a copy of it somewhere else: nothing but it opens the data.
    """
    from fedclave import tensors
    from fedclave.cli.release_commands import data_key_path
    from fedclave.cli.releasing import data_purpose
    from fedclave.errors import UserError
    from fedclave.trust import release, sealed
    from fedclave.workspace import layout, output

    opened = layout.open_(workspace)
    if out.exists():
        raise UserError(f"{out} exists. Choose another name")
    if not file.is_file():
        raise UserError(f"{file} is not a file. Pack a folder into one first, or name a file")
    output.check(out)
    path = data_key or data_key_path(opened)
    made = not path.exists()
    if made:
        release.save(path, release.generate())
    pair = release.load(path)
    context = release.Context.at_rest(data_purpose(name))
    sealed.seal_file(pair.public, file, out, context=context)
    value = {"out": out, "sha256": tensors.file_digest(out), "data_key": path, "made": made}
    lines = [f"Made a key: {path}. Keep a copy of it apart from here.", ""] if made else []
    lines += [f"{out} is {file}, sealed to {path}."]
    lines += console.steps(
        f"give {out} to the operator of {name}, who runs:",
        f"  fx collaborator start -n {name} -d {out.name}",
        f"fx data release HOST:PORT {out} -n {name}     with the address that this prints",
    )
    console.answer(value, lines, as_json)


@command(app, "release", "fx data release 127.0.0.1:40123 alice.npz.sealed -n alice")
def release(
    address: Annotated[
        str,
        typer.Argument(
            metavar="HOST:PORT", help="As the collaborator printed it.", callback=options.address
        ),
    ],
    file: Annotated[Path, typer.Argument(metavar="SEALED", help="The sealed data.")],
    name: Member,
    key: SigningKey = None,
    passphrase_file: KeyPassphraseFile = None,
    data_key: DataKey = None,
    allow_simulated: AllowSimulated = False,
    workspace: WorkspaceDir = Path(),
    as_json: Json = False,
) -> None:
    """Give the key of sealed data to a collaborator, once it has proved what it runs.

    Run by the data's owner, with the key that accepted the contract. Only the key of this one file
    is given. The release is noted in logs/releases before it goes out.
    """
    from fedclave.cli import release_commands

    release_commands.data(
        workspace,
        name,
        file,
        address,
        key,
        passphrase_file,
        data_key,
        allow_simulated,
        as_json,
    )
