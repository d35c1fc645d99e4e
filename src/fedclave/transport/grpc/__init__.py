# SPDX-License-Identifier: Apache-2.0
"""gRPC over mutual TLS 1.3."""
