"""When a run shall not go on, since what it calls is dead: the guard against storms of retries.

Pure. Each task has its own bound on attempts (`retry.RetryPolicy`); but a hundred thousand tasks,
each tried three times on a function that can't start, are a bill. So failures of the whole run take
tokens out of one bucket and answers put them back, as in gRPC's retry throttling (proposal A6). At
half of the bucket hedges stop and retries slow down; when it is empty the run ends.

gRPC's figures would end runs that are well. With -1 for each failed attempt and +0.1 for each
success, ten thousand tasks of which 5 % crash their worker in each of three attempts cost 1500 and
earn 950; every tenth attempt lost costs 1 for each 0.9 earned. Both empty a bucket of 100 sooner
or later. What tells a dead endpoint from tasks that are poison is not how often attempts fail, but
that *different* tasks do, one after the other. Hence:

- Only a task's first failure takes a token: further ones say something about the task. The crash
  of a group takes none, as it blames none of its tasks; each is sent again alone, and counts then.
- An answer brings one, whatever the kernel raised: it came from a worker that lives. So a run goes
  on while fewer than half of its tasks are poison: 0.2 to 0.8 at 20 % (gRPC's figures, with three
  attempts: 0.6 to 0.08).
- Tokens are counted in the order of launches, not of ends. Poison that takes long to fail (memory
  that fills up) is all that is left when the rest is done, and fails in a row then; but it was
  launched among tasks that answered.
- Poison that fails fast does so before anything healthy answers: filling a fleet of 1000 with 20 %
  of it takes 250 such tasks. So an attempt in flight, which has not failed yet, vouches for half a
  token.

What a dead endpoint costs then: what was in flight when it showed, which nobody could know, a third
as many again, and the attempts of a hundred tasks: 200 to 300 calls if they crash, up to 800 if
all are lost one by one, since a task may be lost eight times. A run of fewer tasks than that is
bounded by its policy alone. Unavoidably, a hundred tasks in a row that are poison (an input sorted
by size, the largest of which need more memory than there is) look like a dead endpoint, too.

What never counts: refusals (`throttle.py` has its own patience with those), attempts that did not
run, exceptions of kernels, and timeouts that the user has set.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fanout.retry import FailureKind

if TYPE_CHECKING:
    from fanout.retry import Failure

_TOKENS: Final = 100.0
_PER_IN_FLIGHT: Final = 0.5
# Launches that are counted together: their order among themselves is lost, and half the bucket is
# left when that matters.
_BLOCK: Final = 50
# Blocks to keep an eye on: 25,600 launches, more than are ever in flight. In older ones, what still
# hangs is taken for what it vouched for.
_MOST_BLOCKS: Final = 512
# By how much retries slow down while the bucket is half empty.
_SLOWER: Final = 5.0
_COUNTED: Final = frozenset(
    {
        FailureKind.CRASHED,
        FailureKind.OUT_OF_MEMORY,
        FailureKind.MAYBE_RAN,
        FailureKind.TIMED_OUT,  # by the service only: then the worker was silent
    }
)


@dataclass(slots=True)
class _Block:
    """Launches that follow each other: how many are in flight, and answers less failures."""

    in_flight: int = 0
    balance: int = 0

    def fill(self, level: float) -> float:
        """The level of the bucket after them."""
        return min(_TOKENS, level + self.balance + _PER_IN_FLIGHT * self.in_flight)


class StormGuard:
    """Counts failures against answers, and says when to slow down and when to stop."""

    def __init__(self) -> None:
        self._settled = _TOKENS  # the level after all launches before these blocks
        self._blocks: OrderedDict[int, _Block] = OrderedDict()
        self._level = _TOKENS
        self._is_level_old = False  # it may be higher by now
        self.is_over = False  # the run shall end

    def __repr__(self) -> str:
        return f"<StormGuard: {self.level:.1f} of {_TOKENS:g} tokens>"

    @property
    def level(self) -> float:
        """Tokens in the bucket after all launches so far."""
        if self._is_level_old:
            self._count()
        return self._level

    @property
    def is_calm(self) -> bool:
        """Whether hedges may be launched."""
        return self._level > _TOKENS / 2 or self.level > _TOKENS / 2

    @property
    def slowdown(self) -> float:
        """What to multiply the delay before a retry with."""
        return 1.0 if self.is_calm else _SLOWER

    def launched(self, attempt: int) -> None:
        """Take note of a launch; attempts are numbered in their order."""
        block = self._blocks.get(attempt // _BLOCK)
        if block is None:
            block = self._blocks[attempt // _BLOCK] = _Block()
            self._forget()
        block.in_flight += 1
        self._is_level_old = True

    def answered(self, attempt: int) -> None:
        """A worker answered, whatever its tasks came to."""
        self._end(attempt, 1)

    def failed(self, attempt: int, failure: Failure, *, tasks: int, is_repeat: bool) -> None:
        """Take note of an attempt that brought nothing back.

        Args:
            attempt: Its number.
            failure: Why; kinds that say nothing about the endpoint are passed over.
            tasks: How many it carried.
            is_repeat: Whether one of them had failed before, alone, or had been lost.
        """
        # What is lost on the way stays together, and is nobody's fault but the endpoint's.
        blames_none = tasks > 1 and failure.kind is not FailureKind.MAYBE_RAN
        is_counted = _is_counted(failure) and not blames_none and not is_repeat
        self._end(attempt, -1 if is_counted else 0)
        self._count()

    def withdrawn(self, attempt: int) -> None:
        """It says nothing: it was refused, did not run, or is not waited for any more."""
        self._end(attempt, 0)

    def _end(self, attempt: int, balance: int) -> None:
        block = self._blocks.get(attempt // _BLOCK)
        if block is not None:  # else it is taken for what it vouched for
            block.in_flight -= 1
            block.balance += balance
            self._is_level_old = True

    def _count(self) -> None:
        self._level = self._settled
        for block in self._blocks.values():
            self._level = block.fill(self._level)
            self.is_over = self.is_over or self._level <= 0.0
        self._is_level_old = False

    def _forget(self) -> None:
        """Put aside the oldest blocks of which nothing is in flight, or which are too many."""
        while len(self._blocks) > 1:
            number, block = next(iter(self._blocks.items()))
            if block.in_flight and len(self._blocks) <= _MOST_BLOCKS:
                return
            self._settled = block.fill(self._settled)
            del self._blocks[number]

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
