"""Where a run can go, and how that is written: `lambda:1769:arm64`, `ec2:c8g.4xlarge:4`, `local`.

Pure. Also which of all places an estimate compares, unless the user names some:

- Lambda, both architectures: for single threads 512, 1,024 and 1,769 MB (a third, 0.58 and a whole
  vCPU; below 512 MB numpy and numba hardly fit). For t threads, as much as gives 2, 3, … t vCPUs.
  Nothing below what a task needs, and that itself if it is more than all of these.
- EC2: not burstable, not bare metal, no GPU, and of the current generations: 8 and 9 of Graviton,
  8 of Intel, 8 of AMD, without variants for network or disks. Family c where 2 GiB per vCPU are
  enough for a task, else m (4), else r (8). Sizes of 4, 16, 64 and 192 vCPUs; 1, 2, 4, … of them
  while each has tasks for a minute and together they have no more than 1,024 vCPUs, which is what
  an account's quota may hold them to.
- Fargate: 4 and 16 vCPUs with the least memory, in numbers as for EC2.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from fanout.cost.machines import MB_PER_VCPU, MOST_MB, check_memory
from fanout.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanout.cost.book import Architecture, PriceBook
    from fanout.cost.workload import Workload

ARCHITECTURES: Final[tuple[Architecture, ...]] = ("arm64", "x86_64")
# Memory that Fargate has for so many vCPUs, GB: from, to, in steps of (AWS Fargate, task sizes).
FARGATE_GB: Final = {1: (2, 8, 1), 2: (4, 16, 1), 4: (8, 30, 1), 8: (16, 60, 4), 16: (32, 120, 8)}
_SINGLE_MB: Final = (512, 1024, MB_PER_VCPU)
_CURRENT: Final = re.compile(r"(8[agi]|9g)")  # what follows the letter of the family
_SIZES: Final = ("xlarge", "4xlarge", "16xlarge", "48xlarge")
_SERIES: Final = (("c", 2.0), ("m", 4.0), ("r", 8.0))  # and GiB for each vCPU
_FARGATE_VCPUS: Final = (4, 16)
_MOST_VCPUS: Final = 1024
_MOST_MACHINES: Final = 1000
_LEAST_BUSY_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Local:
    """This machine."""

    @property
    def name(self) -> str:
        """How it is written."""
        return "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class LambdaFunction:
    """A function of this memory size, as many environments as it takes."""

    memory_mb: int
    arch: Architecture

    @property
    def name(self) -> str:
        """How it is written."""
        return f"lambda:{self.memory_mb}:{self.arch}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Instances:
    """So many EC2 instances of a type, started for the run and stopped after it."""

    type: str
    count: int = 1
    is_spot: bool = False

    @property
    def name(self) -> str:
        """How it is written."""
        kind = "ec2-spot" if self.is_spot else "ec2"
        return f"{kind}:{self.type}" + (f":{self.count}" if self.count > 1 else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class FargateTasks:
    """So many tasks of Fargate of a size."""

    vcpus: int
    memory_gb: int
    arch: Architecture
    count: int = 1

    @property
    def name(self) -> str:
        """How it is written."""
        size = f"fargate:{self.vcpus}:{self.memory_gb}:{self.arch}"
        return size + (f":{self.count}" if self.count > 1 else "")


Place: TypeAlias = Local | LambdaFunction | Instances | FargateTasks

_FORMS: Final = (
    "local, lambda:MB[:ARCH], ec2:TYPE[:COUNT], ec2-spot:TYPE[:COUNT] or "
    "fargate:VCPUS:GB[:ARCH][:COUNT]"
)


def place_of(text: str, book: PriceBook) -> Place:
    """The place that is written so.

    Raises:
        UsageError: It is none, or the region has no such instance.
    """
    kind, *parts = text.strip().split(":")
    try:
        match kind, parts:
            case "local", []:
                return Local()
            case "lambda", [memory, *rest] if len(rest) <= 1:
                return LambdaFunction(memory_mb=check_memory(_whole(memory)), arch=_arch(rest))
            case "ec2" | "ec2-spot", [name, *rest] if len(rest) <= 1:
                instance = book.instance(name)
                count = _count(rest)
                return Instances(type=instance.name, count=count, is_spot=kind == "ec2-spot")
            case "fargate", [vcpus, memory, *rest] if len(rest) <= 2:
                return _fargate(_whole(vcpus), _whole(memory), rest)
    except ValueError as error:
        raise UsageError(f"{text!r} is no place: {error}; give {_FORMS}") from error
    raise UsageError(f"{text!r} is no place to run: give {_FORMS}")


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        msg = f"{text!r} is no whole number"
        raise ValueError(msg)
    return int(text)


def _count(rest: Sequence[str]) -> int:
    count = _whole(rest[0]) if rest else 1
    if not 1 <= count <= _MOST_MACHINES:
        msg = f"{count} machines can't be estimated, 1 to {_MOST_MACHINES:,} can"
        raise ValueError(msg)
    return count


def _arch(rest: Sequence[str]) -> Architecture:
    arch = rest[0] if rest else "x86_64"
    if arch not in ARCHITECTURES:
        msg = f"architecture {arch!r} is neither x86_64 nor arm64"
        raise ValueError(msg)
    return "arm64" if arch == "arm64" else "x86_64"


def _fargate(vcpus: int, memory_gb: int, rest: Sequence[str]) -> FargateTasks:
    named, counted = rest, rest[1:]
    if rest and rest[0].isdigit():
        named, counted = [], rest
    if vcpus not in FARGATE_GB:
        msg = f"Fargate has no {vcpus} vCPUs, but {', '.join(map(str, FARGATE_GB))}"
        raise ValueError(msg)
    least, most, step = FARGATE_GB[vcpus]
    if not least <= memory_gb <= most or (memory_gb - least) % step:
        msg = f"Fargate has {least} to {most} GB in steps of {step} for {vcpus} vCPUs"
        raise ValueError(msg)
    return FargateTasks(
        vcpus=vcpus, memory_gb=memory_gb, arch=_arch(named[:1]), count=_count(counted)
    )


def usual_places(
    workload: Workload,
    book: PriceBook,
    *,
    memories: Sequence[int] = (),
    arches: Sequence[Architecture] = ARCHITECTURES,
    types: Sequence[str] = (),
    seconds: float,
) -> list[Place]:
    """What an estimate compares; see the top of this file.

    Args:
        workload: What there is to do.
        book: Prices; only what has one is compared.
        memories: Sizes of Lambda instead of the usual ones, MB.
        arches: Look at these only; types that are named are taken whichever they have.
        types: Types of EC2 instead of the usual ones.
        seconds: What all tasks take together on one vCPU, about.
    """
    found: list[Place] = [Local()]
    if "lambda.gb_s.x86_64" in book or "lambda.gb_s.arm64" in book:
        sizes = memories or lambda_sizes(workload)
        found += [LambdaFunction(memory_mb=mb, arch=arch) for mb in sizes for arch in arches]
    names = [book.instance(name).name for name in types] or _current(workload, book, arches)
    for name in names:
        vcpus = book.instances[name].vcpus
        for count in _counts(workload, vcpus, seconds):
            found.append(Instances(type=name, count=count))
            found.append(Instances(type=name, count=count, is_spot=True))
    for arch in arches:
        if all(f"fargate.{what}_hour.{arch}" in book for what in ("vcpu", "gb")):
            found += _fargates(workload, arch, seconds)
    return found


def lambda_sizes(workload: Workload) -> list[int]:
    """Memory sizes of Lambda worth a look for this work, MB."""
    need = workload.memory_mb or 0
    if workload.threads == 1:
        sizes = list(_SINGLE_MB)
    else:
        whole = [min(MB_PER_VCPU * cores, MOST_MB) for cores in range(1, workload.threads + 1)]
        sizes = sorted({*whole[:6]})
    enough = [size for size in sizes if size >= need]
    if enough or need > MOST_MB:
        return enough or [MOST_MB]
    return [min(-(-need // 64) * 64, MOST_MB)]


def _current(workload: Workload, book: PriceBook, arches: Sequence[str]) -> list[str]:
    need_gib = (workload.memory_mb or 0) / 1024 / workload.threads
    letter = next((series for series, gib in _SERIES if gib >= need_gib), "r")
    return [
        one.name
        for one in book.instances.values()
        if one.arch in arches and not (one.is_burstable or one.is_bare_metal or one.gpus)
        if one.name[0] == letter and _CURRENT.fullmatch(one.name[1:].partition(".")[0])
        if one.name.partition(".")[2] in _SIZES
    ]


def _counts(workload: Workload, vcpus: int, seconds: float) -> list[int]:
    """How many machines of so many vCPUs to look at: powers of two."""
    slots = max(1, vcpus // workload.threads)
    found = [1]
    while True:
        more = found[-1] * 2
        is_busy = seconds / (more * vcpus) >= _LEAST_BUSY_S
        if not is_busy or more * vcpus > _MOST_VCPUS or (more - 1) * slots >= workload.tasks:
            return found
        found.append(more)


def _fargates(workload: Workload, arch: Architecture, seconds: float) -> list[Place]:
    found: list[Place] = []
    for vcpus in _FARGATE_VCPUS:
        slots = max(1, vcpus // workload.threads)
        least, most, step = FARGATE_GB[vcpus]
        need = (workload.memory_mb or 0) * slots / 1024
        memory = least + max(0, -(-int(need - least + 0.999) // step)) * step
        for count in _counts(workload, vcpus, seconds):
            size = min(memory, most)
            found.append(FargateTasks(vcpus=vcpus, memory_gb=size, arch=arch, count=count))
    return found
