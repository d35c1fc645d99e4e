# SPDX-License-Identifier: Apache-2.0
"""Federated algorithms as values: pure functions over tensors, and the exact fold."""
