# SPDX-License-Identifier: Apache-2.0
"""Hypothesis does not judge speed: a loaded machine is not a failed law."""

from hypothesis import HealthCheck, settings

settings.register_profile("fedclave", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fedclave")
