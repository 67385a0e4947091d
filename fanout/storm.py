"""When a run shall not go on, since what it calls is dead: the guard against storms of retries.

Pure. Each task has its own bound on attempts (`retry.RetryPolicy`); but a hundred thousand tasks,
each tried three times on a function that can't start, are a bill. So failures of the whole run take
tokens out of one bucket and answers put them back, as in gRPC's retry throttling (proposal A6; rule
in SCHEDULING.md section 5). At half of the bucket hedges stop and retries slow down; when it is
empty the run ends.

gRPC's figures would end runs that are well. With -1 for each failed attempt and +0.1 for each
success, ten thousand tasks of which 5 % crash their worker in each of three attempts cost 1500 and
earn 950; every tenth attempt lost costs 1 for each 0.9 earned. Both empty a bucket of 100 sooner or
later. What tells a dead endpoint from tasks that are poison is not how often attempts fail, but how
many *different* tasks do. Hence:

- A task's first failure takes 1; further ones, which say something about the task, take 0.1, as
  does the crash of a group, which blames none of its tasks (each is sent again alone, and counts).
- An answer brings 1, whatever the kernel raised: it came from a worker that lives. So a run goes on
  while fewer than two in five tasks are poison: with a share p of them and a attempts for each, a
  task takes p (1 + 0.1 (a - 1)) and brings 1 - p. That is 0.24 to 0.8 for p = 0.2, a = 3 (gRPC's
  figures: 0.6 to 0.08).
- Poison fails fast, and what is healthy may take a minute. Filling a fleet of 1000 with 20 % poison
  takes 250 such tasks, so 300 tokens, before the first answer comes. So an attempt in flight, which
  has not failed yet, vouches for half a token when it comes to the end of the run.

What a dead endpoint costs then: what was in flight when it showed, which nobody could know, half as
many again, and 200 calls (up to 500 where all is lost, since tasks may be lost eight times). With
few tasks each fails more often, but about a thousand calls are the most, whatever a user's policy
allows.
Unavoidably, a hundred tasks in a row that fail while nothing else is in flight look like a dead
endpoint, too.

What never counts: refusals (`throttle.py` has its own patience with those), attempts that did not
run, exceptions of kernels, and timeouts that the user has set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fanout.retry import FailureKind

if TYPE_CHECKING:
    from fanout.retry import Failure

_TOKENS: Final = 100.0
_PER_ANSWER: Final = 1.0
_PER_REPEAT: Final = 0.1
_PER_IN_FLIGHT: Final = 0.5
# By how much retries slow down while the bucket is half empty (SCHEDULING.md section 5).
_SLOWER: Final = 5.0
_COUNTED: Final = frozenset(
    {
        FailureKind.CRASHED,
        FailureKind.OUT_OF_MEMORY,
        FailureKind.MAYBE_RAN,
        FailureKind.TIMED_OUT,  # by the service only: then the worker was silent
    }
)


class StormGuard:
    """Counts failures against answers, and says when to slow down and when to stop."""

    def __init__(self) -> None:
        self._tokens = _TOKENS

    def __repr__(self) -> str:
        return f"<StormGuard: {self._tokens:.1f} of {_TOKENS:g} tokens>"

    @property
    def tokens(self) -> float:
        """What is in the bucket; below 0 while attempts in flight vouch for the rest."""
        return self._tokens

    @property
    def is_calm(self) -> bool:
        """Whether hedges may be launched."""
        return self._tokens > _TOKENS / 2

    @property
    def slowdown(self) -> float:
        """What to multiply the delay before a retry with."""
        return 1.0 if self.is_calm else _SLOWER

    def answered(self) -> None:
        """A worker answered, whatever its tasks came to."""
        self._tokens = min(_TOKENS, self._tokens + _PER_ANSWER)

    def failed(self, failure: Failure, *, tasks: int, is_repeat: bool) -> None:
        """Take note of an attempt that brought nothing back.

        Args:
            failure: Why; kinds that say nothing about the endpoint are passed over.
            tasks: How many it carried.
            is_repeat: Whether one of them had failed in this way before (was charged or lost).
        """
        if not _is_counted(failure):
            return
        # What is lost on the way stays together, and is nobody's fault but the endpoint's.
        blames_none = tasks > 1 and failure.kind is not FailureKind.MAYBE_RAN
        self._tokens -= _PER_REPEAT if is_repeat or blames_none else 1.0

    def is_over(self, in_flight: int) -> bool:
        """Whether the run shall end, with so many attempts in flight; ask after a failure."""
        return self._tokens + _PER_IN_FLIGHT * in_flight <= 0.0

    def why(self, failure: Failure) -> str:
        """Why the run is ended, and what to do; `failure` is the last."""
        last = f", the last time: {failure.detail}" if failure.detail else ""
        return (
            f"failures outnumber answers by {_TOKENS:g} and more ({failure.kind.value}{last}): "
            "run the kernel on one chunk to see whether the function starts and has enough memory, "
            "then run it again"
        )


def _is_counted(failure: Failure) -> bool:
    if failure.kind is FailureKind.TIMED_OUT:
        return failure.allowed_s is not None
    return failure.kind in _COUNTED
