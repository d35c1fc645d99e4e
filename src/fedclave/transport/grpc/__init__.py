# SPDX-License-Identifier: Apache-2.0
"""The wire: gRPC over mutual TLS 1.3.

grpcio cannot be told the least version of TLS. So it is left no cipher suite of TLS 1.2 that could
be agreed on: the only one here is for servers with RSA keys, and every key of a federation is
ECDSA (``trust.profiles``). Those of TLS 1.3 are not chosen by this setting (BoringSSL). gRPC's core
reads it when it first makes credentials, which cannot be before this module is imported.
"""

import os

os.environ["GRPC_SSL_CIPHER_SUITES"] = "ECDHE-RSA-AES256-GCM-SHA384"
