"""The Invoke call of Lambda, made thousands of times a second.

botocore decides everything that is decided once (credentials, region, endpoint, trust, proxy:
`target`); what is paid for each invocation is ours: one signature (`signing`), one write, one
parsed answer (`http1`, `pool`), one table of what it means (`answers`).
"""

from fanout.invoke.http1 import Answer, ConnectionLostError
from fanout.invoke.invoker import Invoker
from fanout.invoke.pool import CertificateError

__all__ = ["Answer", "CertificateError", "ConnectionLostError", "Invoker"]
