# SPDX-License-Identifier: Apache-2.0
"""The command ``fx``. The only place that prints errors and sets exit codes.

    0    done
    1    nobody read the output to its end
    2    the user's mistake: command, file, plan, passphrase
    3    refused: by a peer, or a peer by us
    4    unavailable: the network, the disk, a party that is away
    70   a bug of ours; the traceback goes to a file
    130  interrupted (Ctrl-C); 143: ended by SIGTERM

With ``--json`` an error is one object on stdout, ``{"error": {kind, code, message, problems}}``.
"""

import os
import sys
import tempfile
import traceback
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

import fedclave
from fedclave.cli import (
    aggregator,
    attest,
    audit,
    audit_heads,
    ca,
    collaborator,
    console,
    data,
    demo,
    doctor,
    enclave_role,
    invite,
    join,
    model,
    plan,
    workspace,
)
from fedclave.cli.signals import Stopped
from fedclave.errors import FedclaveError, PlanError, Refused, Unavailable, UserError

USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]  # click's, which typer does not export
SIGINT = 2
INTERRUPTED = 128 + SIGINT

app = typer.Typer(
    name="fx",
    help="Federated learning that every party can check.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _noun in (
    workspace,
    plan,
    ca,
    aggregator,
    collaborator,
    data,
    model,
    attest,
    audit,
    enclave_role,
):
    app.add_typer(_noun.app)
audit_heads.add_to(audit.app)
invite.add_to(app)
join.add_to(app)
demo.add_to(app)
doctor.add_to(app)


def main() -> None:
    """Run a command and exit with its code."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its C core would write into our screen
    # What a peer's certificate says oddly, and we bear with, is no message of ours either.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(fedclave|cryptography)\.")
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run a command; returns its exit code."""
    as_json = "--json" in arguments
    try:
        code = app(args=arguments, prog_name="fx", standalone_mode=False)
        sys.stdout.flush()
        if code == INTERRUPTED:  # what typer makes of Ctrl-C; older ones raise Abort
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except FedclaveError as error:
        return _failed(error, as_json)
    except USAGE_ERROR as error:
        return _misused(error, as_json)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads any more
        return 1  # as typer, which catches most of these
    except OSError as error:
        if _is_stdout_broken():
            return _unwritten(error)
        where = f"{error.filename}: " if error.filename else ""
        reason = error.strerror or str(error)
        return _failed(
            Unavailable(f"{where}{reason}. Check the path, its owner, the disk"), as_json
        )
    except Stopped as stopped:
        return _stopped(stopped, as_json)
    except (KeyboardInterrupt, typer.Abort):
        return _stopped(Stopped(SIGINT), as_json)
    except Exception as error:  # a bug of ours: said shortly, kept for a report
        return _bug(error, as_json)


def _is_stdout_broken() -> bool:
    """Whether what is left in stdout's buffer cannot be written: a full disk, say."""
    try:
        sys.stdout.flush()
    except OSError:
        return True
    return False


def _unwritten(error: OSError) -> int:
    console.note(f"error: the output cannot be written ({error.strerror}). Free space, run again.")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left goes nowhere
    return Unavailable.exit_code


def _version(asked: bool) -> None:
    if asked:
        print(f"fedclave {fedclave.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_version, is_eager=True),
    ] = False,
    state: Annotated[
        Path | None,
        typer.Option(
            "--state",
            metavar="DIR",
            help="In an image: the party's own folder (keys, data, models, logs), apart from the"
            " workspace that is measured.",
            show_default="the workspace",
        ),
    ] = None,
) -> None:
    """Federated learning that every party can check."""
    from fedclave.workspace import layout

    layout.keep_state_in(state)


def _failed(error: FedclaveError, as_json: bool) -> int:
    if error.exit_code == FedclaveError.exit_code:
        return _bug(error, as_json)
    kind = next(name for kind, name in _KINDS if isinstance(error, kind))
    code = str(error.code) if isinstance(error, Refused) else kind
    problems = [asdict(one) for one in error.problems] if isinstance(error, PlanError) else []
    _say(kind, code, str(error), problems, as_json)
    return error.exit_code


_KINDS = ((PlanError, "plan"), (UserError, "user"), (Unavailable, "unavailable"),
          (FedclaveError, "refused"))  # fmt: skip


def _misused(error: Any, as_json: bool) -> int:
    _say("user", "usage", error.format_message(), [], as_json)
    context = getattr(error, "ctx", None)
    if not as_json and context is not None:
        console.note(f"Help: {context.command_path} --help")
    return UserError.exit_code


def _stopped(stopped: Stopped, as_json: bool) -> int:
    _say("interrupted", "interrupted", " ".join(("stopped.", stopped.advice)).strip(), [], as_json)
    return 128 + stopped.number


def _bug(error: BaseException, as_json: bool) -> int:
    descriptor, name = tempfile.mkstemp(prefix="fx-traceback-", suffix=".txt")
    with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor
        file.write(f"fedclave {fedclave.__version__}\n")
        file.write("".join(traceback.format_exception(error)))
    message = (
        f"a bug in fedclave: {type(error).__name__}: {error}. Please report it with {Path(name)},"
        " which holds the traceback"
    )
    _say("bug", "bug", message, [], as_json)
    return FedclaveError.exit_code


def _say(kind: str, code: str, message: str, problems: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        error = {"kind": kind, "code": code, "message": message, "problems": problems}
        console.emit({"error": error})
    elif kind == "interrupted":
        console.note(message)
    else:
        console.note(f"error: {message}" + ("" if message.endswith(".") else "."))


if __name__ == "__main__":
    main()
