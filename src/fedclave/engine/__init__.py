# SPDX-License-Identifier: Apache-2.0
"""Running a federation: rounds, the two roles, storage and events. No sockets here."""
