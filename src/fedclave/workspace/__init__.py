# SPDX-License-Identifier: Apache-2.0
"""A directory becomes live objects."""
