# SPDX-License-Identifier: Apache-2.0
"""Nothing here is collected: ``observed`` is the text of a program, and takes notes when loaded."""

collect_ignore = ["observed.py"]
