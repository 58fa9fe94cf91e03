"""Measures a latency table again where other work on this machine disturbs it."""

from __future__ import annotations

import logging

from latency.config import LatencyConfig
from latency.table import LatencyTable

log = logging.getLogger("proxyless_nas")
MOST_TABLES = 3
"""The most tables that are measured, until one is undisturbed."""


def calmest_table(config: LatencyConfig, *, seed: int, verify: int) -> LatencyTable:
    """Measures up to MOST_TABLES latency tables, and returns the one that other work has disturbed least.

    seed: the seed of the networks and their order. verify: the number of fresh networks that a table's error is
    computed from. Raises ConfigError if the device or the runtime is not here.
    """
    from engine.progress import Stages
    from latency.measure import measure_table
    from latency.summary import summary
    from latency.verification import NOISY_PERCENT
    from supernet.space import Space

    tables = []
    for attempt in range(MOST_TABLES):
        with Stages() as progress:
            table = measure_table(Space(config.space), config.measure, seed=seed, verify=verify, report=progress)
        verification = table.verification
        assert verification is not None  # asked for
        log.info("latency table: %s", summary(verification))
        tables.append((verification.noise_mape_percent, table))
        if verification.noise_mape_percent <= NOISY_PERCENT:
            break
        log.info("other work on this machine disturbs the measuring (table %d of %d)", attempt + 1, MOST_TABLES)
    return min(tables, key=lambda pair: pair[0])[1]
