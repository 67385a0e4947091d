"""What a run takes and costs on machines: this one, EC2 on demand and on spot, Fargate.

Pure. Machines are asked for when the run begins, boot at different speeds, and take tasks from one
list, one for each slot; a slot is as many vCPUs as a task has threads, and has the memory that a
task needs. Each machine is paid from the start of its boot until its last task is done, by the
second, a minute at least. All of it is simulated 25 times, with what is uncertain drawn anew.

Assumed: a boot takes 30 to 60 s, uniformly (26 to 40 s were measured by ec2-boot-bench 2021,
brevdev/ec2-coldboot-research and depot.dev 2024; an image is pulled on top). A spot instance that
is interrupted loses the tasks that it runs, and another boots in its place. Not counted: disks
(a gp3 volume of 8 GB costs 0.09 cents an hour), and what distributes the tasks.
"""

from __future__ import annotations

import zlib
from decimal import Decimal
from typing import TYPE_CHECKING, Final

import numpy as np

from fanout.cost.list_scheduling import finish_times, mean_age_s
from fanout.cost.places import FargateTasks, Instances, Local
from fanout.cost.prediction import (
    Prediction,
    Setting,
    band_of,
    lucks,
    median_of,
    transfer_s,
)
from fanout.cost.usage import per_month, per_run, priced, runs, units

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fanout.cost.machines import Speed
    from fanout.cost.workload import Workload

    Floats = NDArray[np.float64]

DRAWS: Final = 25
BOOT_S: Final = (30.0, 60.0)
_LEAST_BILLED_S: Final = 60.0
_MB_PER_GIB: Final = 1024
# Of a machine's memory, what the system keeps.
_SYSTEM_SHARE: Final = 0.05
# Messages above this go through the store: one PUT and one GET.
_MOST_INLINE_BYTES: Final = 3 * 2**20
_GB: Final = 1e9
_METHOD: Final = "list scheduling, 25 draws"


def on_this_machine(workload: Workload, setting: Setting) -> Prediction:
    """Here, on all cores; it costs nothing, and electricity is not counted."""
    here = setting.calibration
    total_mb = here.memory_mb
    slots, why_not = _slots(workload, here.cores, total_mb)
    what = f"this machine, {here.cores} core{'s' if here.cores > 1 else ''}"
    if why_not:
        return Prediction(place=Local(), what=what, why_not=why_not)
    speed = setting.speeds.here(here.speed)
    is_full = workload.threads * slots > 1
    rate = min(here.cores, workload.threads) * (here.all_busy if is_full else 1.0)
    ratio = setting.base.value / speed.value / rate
    means = _means(workload, setting, speed, ratio)
    rng = _rng(setting, "local")
    sigmas = workload.times.drawn_sigmas(rng, DRAWS)
    ready = np.zeros((DRAWS, slots))
    ends = finish_times(workload.tasks, means, sigmas, ready, rng)
    return Prediction(
        place=Local(),
        what=what,
        makespan_s=band_of(ends.max(axis=1).tolist()),
        slots=slots,
        task_s=float(np.median(means)),
        speed=speed,
        method=_METHOD,
    )


def on_instances(place: Instances, workload: Workload, setting: Setting) -> Prediction:
    """On EC2 instances that are started for the run and stopped after it."""
    instance = setting.book.instance(place.type)
    many = f"{place.count} x " if place.count > 1 else ""
    what = f"{many}{place.type}{', spot' if place.is_spot else ''}"
    slots, why_not = _slots(workload, instance.vcpus, int(instance.memory_gib * _MB_PER_GIB))
    if why_not:
        return Prediction(place=place, what=what, why_not=why_not)
    speed = setting.speeds.of_instance(instance)
    rng = _rng(setting, f"{instance.arch}:{place.count}")
    means = _means_there(workload, setting, speed, instance.vcpus)
    billed_s, makespan_s = _simulated(workload, setting, means, slots, place.count, rng)
    if place.is_spot:
        lost_s = _interrupted(place, workload, setting, means, billed_s, slots, rng)
        billed_s, makespan_s = billed_s + lost_s[0], makespan_s + lost_s[1]
    name = f"{'ec2-spot' if place.is_spot else 'ec2'}:{place.type}"
    usages = [{name: units(seconds / 3600)} for seconds in billed_s.tolist()]
    return _priced(place, what, workload, setting, makespan_s, usages, slots, means, speed)


def on_fargate(place: FargateTasks, workload: Workload, setting: Setting) -> Prediction:
    """On tasks of Fargate that are started for the run."""
    many = f"{place.count} x " if place.count > 1 else ""
    what = f"{many}Fargate {place.vcpus} vCPU {place.memory_gb} GB, {place.arch}"
    slots, why_not = _slots(workload, place.vcpus, place.memory_gb * _MB_PER_GIB)
    if why_not:
        return Prediction(place=place, what=what, why_not=why_not)
    speed = setting.speeds.of_fargate(place.arch)
    rng = _rng(setting, f"fargate:{place.count}")
    means = _means_there(workload, setting, speed, place.vcpus)
    billed_s, makespan_s = _simulated(workload, setting, means, slots, place.count, rng)
    usages = [
        {
            f"fargate.vcpu_hour.{place.arch}": units(seconds / 3600 * place.vcpus),
            f"fargate.gb_hour.{place.arch}": units(seconds / 3600 * place.memory_gb),
        }
        for seconds in billed_s.tolist()
    ]
    return _priced(place, what, workload, setting, makespan_s, usages, slots, means, speed)


def usage_of_data(workload: Workload, setting: Setting) -> tuple[dict[str, Decimal], list[str]]:
    """What chunks and results use that go to AWS and back, and what is left out of it.

    Messages of more than 3 MiB lie in S3: one PUT and one GET each. Results leave AWS.
    """
    sizes = (workload.bytes_in, workload.bytes_out)
    stored = workload.tasks * sum(size > _MOST_INLINE_BYTES for size in sizes)
    wanted = {
        "s3.put": Decimal(stored),
        "s3.get": Decimal(stored),
        "transfer.internet_gb": units(workload.tasks * workload.bytes_out / _GB),
    }
    found = {name: count for name, count in wanted.items() if count and name in setting.book}
    lacking = [name for name, count in wanted.items() if count and name not in setting.book]
    return found, [f"{name} is left out: no price in {setting.book.region}" for name in lacking]


def _slots(workload: Workload, vcpus: int, memory_mb: int | None) -> tuple[int, str]:
    """How many tasks run at once on a machine, and why none can."""
    slots = max(1, vcpus // workload.threads)
    if workload.memory_mb is None or memory_mb is None:
        return slots, ""
    usable_mb = int(memory_mb * (1 - _SYSTEM_SHARE))
    if workload.memory_mb > usable_mb:
        return 0, f"a task needs {workload.memory_mb:,} MB, {usable_mb:,} are there"
    return min(slots, usable_mb // workload.memory_mb), ""


def _rng(setting: Setting, name: str) -> np.random.Generator:
    return np.random.default_rng([setting.seed, zlib.crc32(name.encode())])


def _means(workload: Workload, setting: Setting, speed: Speed, factor: float) -> Floats:
    """Mean time of a task, for each draw, seconds."""
    luck = np.array(lucks(workload, setting, speed, DRAWS))
    found: Floats = workload.times.mean_s * workload.threads * factor * luck
    return found


def _means_there(workload: Workload, setting: Setting, speed: Speed, vcpus: int) -> Floats:
    rate = min(vcpus, workload.threads)
    return _means(workload, setting, speed, setting.base.value / speed.value / rate)


def _simulated(
    workload: Workload,
    setting: Setting,
    means: Floats,
    slots: int,
    count: int,
    rng: np.random.Generator,
) -> tuple[Floats, Floats]:
    """Seconds that are billed, of all machines together, and the makespan, for each draw."""
    sigmas = workload.times.drawn_sigmas(rng, DRAWS)
    boots = rng.uniform(*BOOT_S, (DRAWS, count))
    ready = np.repeat(boots, slots, axis=1)
    ends = finish_times(workload.tasks, means, sigmas, ready, rng)
    data_s = transfer_s(workload, setting)
    last = ends.max(axis=1)
    # Data that comes slower than it is worked on keeps all machines waiting.
    waited = np.maximum(0.0, data_s - (last - boots.min(axis=1)))
    each = np.ceil(ends.reshape(DRAWS, count, slots).max(axis=2) + waited[:, None])
    return np.maximum(each, _LEAST_BILLED_S).sum(axis=1), last + waited


def _interrupted(
    place: Instances,
    workload: Workload,
    setting: Setting,
    means: Floats,
    billed_s: Floats,
    slots: int,
    rng: np.random.Generator,
) -> tuple[Floats, Floats]:
    """What interruptions add to the billed seconds and to the makespan, for each draw."""
    hours = billed_s / 3600
    times = rng.poisson(np.minimum(hours * setting.interruptions_per_h, 1e9))
    busy = min(1.0, workload.tasks / (slots * place.count))
    age_s = means * mean_age_s(1.0, workload.times.sigma) * busy
    boot_s = sum(BOOT_S) / 2
    return times * (boot_s + age_s), times * (boot_s + age_s) / place.count


def _priced(
    place: Instances | FargateTasks,
    what: str,
    workload: Workload,
    setting: Setting,
    makespan_s: Floats,
    usages: list[dict[str, Decimal]],
    slots: int,
    means: Floats,
    speed: Speed,
) -> Prediction:
    data, notes = usage_of_data(workload, setting)
    bills = [
        priced(
            {**usage, **data},
            setting.book,
            runs_per_month=runs(workload.runs_per_month),
            spot_discount=setting.spot_discount,
        )
        for usage in usages
    ]
    totals = [per_run(items) for items in bills]
    items = bills[median_of(totals)]
    return Prediction(
        place=place,
        what=what,
        makespan_s=band_of(makespan_s.tolist()),
        usd=band_of(totals),
        usd_per_month=per_month(items),
        items=items,
        slots=slots * place.count,
        task_s=float(np.median(means)),
        speed=speed,
        notes=tuple(notes),
        method=_METHOD,
    )
