"""When cores get done that take the next task whenever they are free: list scheduling.

Pure. Several ways, by how many tasks there are for how many cores:

- *one each*: no more tasks than cores.
- *rounds*: all tasks take the same, so that who does how many can be counted.
- *exact*: each task goes to the core that is free first. Up to some thousand tasks.
- *in the long run*: with many tasks per core, all cores work until the list is empty, and then each
  has left what a task has left at a random time: long tasks are more likely to be met, and at any
  point (the residual life of renewal theory). The sum of all times is normal by the central limit
  theorem. So 10^12 tasks take no longer than a thousand. Below some tasks per core where there are
  too many for the exact way, a part of the cores with its part of the tasks stands for all.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

# In the exact way, of one draw.
_MOST_TASKS: Final = 3000
# Tasks per core from which "in the long run" holds if they differ little; the more they differ, the
# more it takes. Tests compare it with the exact way.
_LONG_RUN: Final = 8.0
# And they must differ enough for cores to have lost step: this is the variance of when a core takes
# its last task, over the square of a task's time.
_OUT_OF_STEP: Final = 0.1
# Of the cores, at least so many must stand for all.
_LEAST_CORES: Final = 16
_ROUNDING: Final = 1e-9  # of floats, in tasks


def finish_times(
    tasks: int, means_s: Floats, sigmas: Floats, ready_s: Floats, rng: np.random.Generator
) -> Floats:
    """When each core is done for good, seconds; shape (draws, cores).

    Args:
        tasks: How many.
        means_s: Mean time of a task on such a core, for each draw.
        sigmas: Standard deviation of its logarithm, for each draw.
        ready_s: When each core may begin, shape (draws, cores). One that gets no task is done then,
            or when all others are, if that is earlier.
        rng: Source of chance.
    """
    draws, cores = ready_s.shape
    if tasks <= cores:
        return _one_each(tasks, means_s, sigmas, ready_s, rng)
    if not sigmas.any():
        return _in_rounds(tasks, means_s, ready_s)
    part = -(-tasks // _MOST_TASKS)
    if _is_long_run(tasks, cores, sigmas) or (part > 1 and cores // part < _LEAST_CORES):
        return _in_the_long_run(tasks, means_s, sigmas, ready_s, rng)
    some = np.sort(ready_s, axis=1)[:, part // 2 :: part] if part > 1 else ready_s
    count = some.shape[1]
    times = _times(means_s, sigmas, (draws, max(1, tasks * count // cores)), rng)
    ends = np.array([_exactly(one, ready) for one, ready in zip(times, some, strict=True)])
    return ends[:, np.arange(cores) * count // cores] if part > 1 else ends


def _is_long_run(tasks: int, cores: int, sigmas: Floats) -> bool:
    variance = min(float(np.median(sigmas)), 1.5) ** 2
    each = tasks / cores
    return each >= _LONG_RUN * np.exp(variance) and each * variance >= _OUT_OF_STEP


def mean_age_s(mean_s: float, sigma: float) -> float:
    """How long a task has run that is met at a random time, on average, seconds."""
    return float(mean_s * np.exp(sigma**2) / 2)


def _times(
    means_s: Floats, sigmas: Floats, shape: tuple[int, int], rng: np.random.Generator
) -> Floats:
    drawn: Floats = rng.standard_normal(shape) * sigmas[:, None]
    drawn -= sigmas[:, None] ** 2 / 2
    found: Floats = np.exp(drawn) * means_s[:, None]
    return found


def _one_each(
    tasks: int, means_s: Floats, sigmas: Floats, ready_s: Floats, rng: np.random.Generator
) -> Floats:
    # Those that are ready first take them.
    order = np.argsort(ready_s, axis=1)[:, :tasks]
    times = _times(means_s, sigmas, (len(means_s), tasks), rng)
    ends = np.full_like(ready_s, -np.inf)
    np.put_along_axis(ends, order, np.take_along_axis(ready_s, order, axis=1) + times, axis=1)
    last = ends.max(axis=1, keepdims=True)
    found: Floats = np.where(np.isneginf(ends), np.minimum(ready_s, last), ends)
    return found


def _exactly(times: Floats, ready_s: Floats) -> Floats:
    free = [(at, core) for core, at in enumerate(ready_s.tolist())]
    heapq.heapify(free)
    has_worked = [False] * len(free)
    for seconds in times.tolist():
        at, core = free[0]
        has_worked[core] = True
        heapq.heapreplace(free, (at + seconds, core))
    last = max(at for at, core in free if has_worked[core])
    ends = np.empty(len(free))
    for at, core in free:
        ends[core] = at if has_worked[core] else min(at, last)
    return ends


def _in_the_long_run(
    tasks: int, means_s: Floats, sigmas: Floats, ready_s: Floats, rng: np.random.Generator
) -> Floats:
    draws, cores = ready_s.shape
    spread = np.sqrt(np.expm1(sigmas**2) * tasks) * means_s
    sums = np.maximum(tasks * means_s + spread * rng.standard_normal(draws), means_s)
    level = _level(sums, ready_s)
    # Met at a random time, a task's length is weighted by itself, which shifts the logarithm.
    met = np.exp(sigmas[:, None] ** 2) * _times(means_s, sigmas, (draws, cores), rng)
    left = met * rng.random((draws, cores))
    works = ready_s < level
    count = works.sum(axis=1, keepdims=True)
    mean_left = np.where(works, left, 0.0).sum(axis=1, keepdims=True) / count
    ends: Floats = np.where(works, np.maximum(ready_s, level - mean_left + left), level)
    return np.where(works, ends, np.minimum(ready_s, ends.max(axis=1, keepdims=True)))


def _in_rounds(tasks: int, means_s: Floats, ready_s: Floats) -> Floats:
    """All tasks of a draw take the same: each core does as many as fit, some one more."""
    each = means_s[:, None]
    level = _level(tasks * means_s, ready_s)
    counts = np.floor(np.maximum(0.0, level - ready_s) / each + _ROUNDING)
    free = ready_s + counts * each
    left = tasks - counts.sum(axis=1, keepdims=True)
    rank = np.argsort(np.argsort(free, axis=1, kind="stable"), axis=1, kind="stable")
    ends = np.where(rank < left, free + each, free)
    works = ends > ready_s
    last = np.where(works, ends, -np.inf).max(axis=1, keepdims=True)
    found: Floats = np.where(works, ends, np.minimum(ready_s, last))
    return found


def _level(sums: Floats, ready_s: Floats) -> Floats:
    """The time until which cores that are ready by then do it all, shape (draws, 1).

    As water fills a vessel whose floor is uneven.
    """
    draws, cores = ready_s.shape
    ready = np.sort(ready_s, axis=1)
    filled = (sums[:, None] + np.cumsum(ready, axis=1)) / np.arange(1, cores + 1)
    after = np.concatenate([ready[:, 1:], np.full((draws, 1), np.inf)], axis=1)
    found: Floats = filled[np.arange(draws), np.argmax(filled <= after, axis=1)][:, None]
    return found
