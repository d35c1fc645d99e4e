# SPDX-License-Identifier: Apache-2.0
"""Who may take part: keys, certificates, and the one door that decides."""
