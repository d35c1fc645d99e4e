# SPDX-License-Identifier: Apache-2.0
"""The fx command: words over the library. Nobody imports it."""
