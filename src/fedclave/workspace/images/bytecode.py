# SPDX-License-Identifier: Apache-2.0
"""Compiled modules that are the same on every machine, and valid whatever a file system says.

Inside Gramine every file is dated 0, so that Python believes no ``.pyc`` that is valid by a date
and compiles each module anew at every start. These are valid by a hash that is not checked (PEP
552): they are measured themselves. ``marshal`` writes version 2, without references: later versions
write one where an object happens to be shared, so that two runs give other bytes (bpo-34093).
"""

import importlib.util
import marshal
import warnings

_UNCHECKED = (0b01).to_bytes(4, "little")  # PEP 552: by hash, and the source is not looked at


def compiled(source: bytes, path: str) -> bytes | None:
    """The ``.pyc`` of a module that will lie at ``path``; None for what does not compile.

    Wheels carry such files: templates, tests of syntax errors, another Python's syntax.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            code = compile(source, path, "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError, RecursionError):
        return None
    head = importlib.util.MAGIC_NUMBER + _UNCHECKED + importlib.util.source_hash(source)
    return head + marshal.dumps(code, 2)


def place(prefix: str, path: str, tag: str) -> str:
    """Where Python looks for it under ``-X pycache_prefix`` (PEP 304's heir; importlib).

    >>> place("/opt/pycache", "/usr/lib/python3.11/os.py", "cpython-311")
    '/opt/pycache/usr/lib/python3.11/os.cpython-311.pyc'
    """
    return f"{prefix}{path.removesuffix('.py')}.{tag}.pyc"
