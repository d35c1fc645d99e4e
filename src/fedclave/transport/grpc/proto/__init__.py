# SPDX-License-Identifier: Apache-2.0
"""The wire schemas, and what protoc makes of them (scripts/generate)."""
