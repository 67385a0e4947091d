"""Figures that AWS publishes about Lambda, each with its page and date.

Everything else in this folder takes its figures as arguments; these are the defaults and the
shapes' limits. Pages are those of the AWS Lambda Developer Guide unless another is named.
"""

from __future__ import annotations

from typing import Final

# "Lambda quotas": payload of a synchronous invocation, 6 MB each way. The exact number is the one
# in AWS's own messages ("... exceeded maximum allowed payload size (6291556 bytes)"), 2026-11.
SYNC_PAYLOAD_BYTES: Final = 6_291_556
# "Lambda quotas": asynchronous invocation, 1 MB since October 2025 (256 KB before).
EVENT_PAYLOAD_BYTES: Final = 1_048_576
# API reference, Invoke, X-Amz-Client-Context: 3,583 bytes of base64, 2026-11.
CLIENT_CONTEXT_BYTES: Final = 3_583
# API reference, Invoke, X-Amz-Log-Result: the last 4 KB of the log, 2026-11.
LOG_TAIL_BYTES: Final = 4_096

# "Lambda quotas": concurrent executions of an account in a region, by default, 2026-10.
ACCOUNT_CONCURRENCY: Final = 1_000
# "Lambda quotas": synchronous requests a second for each unit of concurrency, 2026-10.
REQUESTS_PER_S_PER_CONCURRENCY: Final = 10
# "Lambda scaling behavior": 1,000 environments every 10 s per function, refilled continuously,
# never more than 1,000 at once. AWS news blog 2023-11-26.
NEW_ENVIRONMENTS_PER_S: Final = 100.0
NEW_ENVIRONMENTS_BURST: Final = 1_000

# "Lambda quotas", 2026-10.
MEMORY_MB_MIN: Final = 128
MEMORY_MB_MAX: Final = 10_240
TIMEOUT_S_MAX: Final = 900.0
OPEN_FILES: Final = 1_024
# "Configure Lambda function memory": 1,769 MB come with the equivalent of one vCPU, 2026-10.
MEMORY_MB_OF_ONE_CPU: Final = 1_769
# "Understanding the Lambda execution environment lifecycle": what Init may take, 2026-10.
INIT_TIMEOUT_S: Final = 10.0

# "Signature Version 4": how far the date of a request may be off, IAM User Guide, 2026-10.
CLOCK_SKEW_S: Final = 300.0
