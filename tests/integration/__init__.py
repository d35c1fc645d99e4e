# SPDX-License-Identifier: Apache-2.0
"""What ``scripts/integration-test`` does: the same federation outside containers and inside."""
