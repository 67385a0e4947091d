"""Figures of AWS Lambda by which fanout uses it: what it takes, and what an invocation costs.

Pure, and for the client only: how large a message may be is in `lambda_wire`, which workers import.
"""

from __future__ import annotations

from typing import Final

from fanout.grouping import GroupPolicy
from fanout.token_bucket import RateLimit

# Environments of a function: so many at once, then so many a second (Lambda, "Understanding how
# functions scale", 2026-10).
GROWTH: Final = RateLimit(per_s=100.0, burst=990)  # ten less: the clocks are two
# An environment's start is billed, too, and may take so long (Lambda runtime environment, 2026-10).
INIT_S: Final = 10.0
# The lines START, END and REPORT that Lambda writes to the log for an invocation, bytes, about.
LOG_BYTES: Final = 300
# An invocation of a warm environment takes some 25 ms on the way (median of Wang et al., ATC'18);
# and Lambda takes no more than ten a second for each environment (Lambda quotas, 2026-10). What a
# minute of work is lost with is lost to a crash, or to a slow environment. A thousand launches a
# second is what the first wave costs, with a connection for each (see docs/performance.md). Init is
# billed; that it takes 2 s is assumed.
GROUPING: Final = GroupPolicy(
    least_s=2.0,
    most_s=60.0,
    tail_s=0.5,
    tail_shares=1,
    max_bytes=3 * 2**20,
    growth=64,
    newest=0.1,
    probes=16,
    launches_per_s=1000.0,
    start_s=2.0,
)


def requests_of(concurrency: int) -> RateLimit:
    """Requests that AWS takes: ten a second for each unit of concurrency (quotas, 2026-10).

    Half a second's worth at once: in no second there is then much more than that.
    """
    return RateLimit(per_s=10.0 * concurrency, burst=5 * concurrency)
