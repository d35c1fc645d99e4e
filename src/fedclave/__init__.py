# SPDX-License-Identifier: Apache-2.0
"""Federated learning that every party can check."""

__version__ = "0.1.0"
__all__ = ["__version__"]
