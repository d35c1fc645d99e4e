# SPDX-License-Identifier: Apache-2.0
"""The wire: gRPC over mutual TLS 1.3.

grpcio cannot be told the least version of TLS. So it is left no cipher suite of TLS 1.2 that could
be agreed on: the only one here is for servers with RSA keys, and every key of a federation is
ECDSA (``trust.profiles``). Those of TLS 1.3 are not chosen by this setting (BoringSSL).

Names are resolved by the C library, as for the probe that comes before a channel (``channel``), and
gRPC does not prepare for forks: nothing here forks, and in an enclave nothing can.

gRPC's core reads these when it first makes credentials or channels, which cannot be before this
module is imported. What a host's environment says of them does not count.
"""

import os

os.environ["GRPC_SSL_CIPHER_SUITES"] = "ECDHE-RSA-AES256-GCM-SHA384"
os.environ["GRPC_DNS_RESOLVER"] = "native"
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
