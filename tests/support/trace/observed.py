# SPDX-License-Identifier: Apache-2.0
"""The text of ``python -c`` in place of ``-m fedclave.cli.main``: the same, and notes are taken.

Into the folder ``$TRACE_NOTES``: ``python-PID``, each environment variable that Python code asks
for, ``*`` where it goes through all of them; ``early-PID`` and ``late-PID``, the modules that were
loaded when the process first had to do with the network, and at its end.
"""

import atexit
import os
import runpy
import socket
import sys

NOTES = os.path.join(os.environ["TRACE_NOTES"], "")  # noqa: PTH118 - nothing more is imported
PID = os.getpid()


class Noted(type(os.environ)):
    """``os.environ``, which says what it is asked for."""

    def __getitem__(self, name):
        note("python", name)
        return super().__getitem__(name)

    def __iter__(self):
        note("python", "*")
        return super().__iter__()


def note(kind, *lines):
    """Write lines; not by ``open``, which would be seen as the program's own."""
    if os.getpid() == PID:
        os.write(files[kind], "".join(f"{line}\n" for line in lines).encode())


def hook(event, args):
    """A network address of somebody else's is on its way, or a port of our own."""
    global listening
    if listening or event not in ("socket.bind", "socket.connect"):
        return
    if args[0].family in (socket.AF_INET, socket.AF_INET6):
        listening = True
        note("early", *sorted(sys.modules))


listening = False
flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
files = {kind: os.open(f"{NOTES}{kind}-{PID}", flags) for kind in ("python", "early", "late")}
atexit.register(lambda: note("late", *sorted(sys.modules)))
os.environ.__class__ = Noted
sys.addaudithook(hook)
sys.argv[0] = "fx"
runpy.run_module("fedclave.cli.main", run_name="__main__", alter_sys=True)
