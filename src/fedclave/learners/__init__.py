# SPDX-License-Identifier: Apache-2.0
"""Local training, one file for each framework."""
