# SPDX-License-Identifier: Apache-2.0
"""Where the parties live: in this process, or at the other end of gRPC."""
