# SPDX-License-Identifier: Apache-2.0
"""The federation's own code: every party runs on its data."""
