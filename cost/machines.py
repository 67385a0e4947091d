"""How fast processors are, relative to each other, and who says so.

Pure. The unit is one vCPU of Lambda on x86_64, as a function with 1,769 MB has it: speed 1. All
others are that of one vCPU *while all vCPUs of its machine are busy*, since that is how a map
uses them. A speed has an uncertainty: the standard deviation of its logarithm. What is known:

- Lambda, arm64 over x86_64, and memory sizes: 500,000 chained SHA-256 in Python
  (cebert/aws-lambda-performance-benchmarks, 2025-11-30, 94,080 invocations): at 1,769 MB 386 ms on
  x86_64 and 381 ms on arm64 (Python 3.13; 380 and 324 with 3.14), at 2,048 MB 377 and 295 ms, at
  128 MB 5,409 and 4,334 ms. So time goes as 1 / memory below 1,769 MB (within 6 % on x86_64), and
  arm64 is between 1.0 and 1.28 times as fast; numpy is said to be 16 % faster on x86_64. Taken:
  the same, give or take 15 %.
- Graviton: Lambda's arm64 is a Graviton2. AWS says of each later one "up to" so much more compute:
  25 % (3 over 2), 30 % (4 over 3), 25 % (5 over 4; 2026-06).
- Everything else is ASSUMED from the clock: a vCPU of Lambda is a thread of a core at 3 GHz with
  a busy neighbour, and two busy threads of a core do 1.25 times what one does (1.1 to 1.4 is usual,
  and depends on the kernel). vCPUs of Graviton and of AMD's 7a and 8a families are whole cores.

Whoever needs better figures measures both and gives them (`--speed c8g=1.5`).
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from fanout.cost.workload import Basis
from fanout.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fanout.cost.book import Instance

# "At 1,769 MB, a function has the equivalent of one vCPU" (Lambda Developer Guide, 2026-10).
MB_PER_VCPU: Final = 1769
LEAST_MB: Final = 128
MOST_MB: Final = 10_240
# What 500,000 chained hashes take there, seconds (source above): the bridge from here to Lambda.
LAMBDA_HASHES_S: Final = 0.386
# The Mandelbrot loop there, repetitions a second: ASSUMED, 3 GHz over 12 cycles, since each waits
# for three dependent operations of 4 cycles (Intel's add and multiply, since Skylake).
LAMBDA_FLOAT_RATE: Final = 250e6
# Two busy threads of a core over one; a thread has half of it.
SMT_GAIN: Final = 1.25
_CLOCK_GHZ: Final = 3.0
_GRAVITON: Final = {6: 1.0, 7: 1.25, 8: 1.25 * 1.3, 9: 1.25 * 1.3 * 1.25}
_FAMILY: Final = re.compile(r"([a-z]+)(\d+)([a-z]*)")
_MOST_SPEED: Final = 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """What one vCPU does, over what one of Lambda on x86_64 does.

    Attributes:
        value: The factor.
        sigma: Standard deviation of its logarithm: 0.15 is give or take 15 %.
        basis: Where it is from.
        source: Who says so.
    """

    value: float
    sigma: float
    basis: Basis
    source: str


REFERENCE: Final = Speed(
    value=1.0, sigma=0.0, basis=Basis.PUBLISHED, source="the unit: a vCPU of Lambda, x86_64"
)
_LAMBDA_ARM: Final = Speed(
    value=1.0,
    sigma=0.15,
    basis=Basis.PUBLISHED,
    source="cebert/aws-lambda-performance-benchmarks, 2025-11-30: 1.0 to 1.28 times x86_64",
)
_FARGATE: Final = Speed(
    value=1.0, sigma=0.25, basis=Basis.ASSUMED, source="as Lambda's; which processor is not told"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What this machine does, measured by `calibration.measured()`.

    Attributes:
        cores: Processors that this process may use.
        speed: Of one of them while the others are idle.
        all_busy: Speed of one while all are busy, over that; at most 1.
        memory_mb: Of the machine, MB; None if unknown.
        float_rate: Repetitions of the Mandelbrot loop in a second on one core; 0 if not measured.
    """

    cores: int
    speed: Speed
    all_busy: float = 1.0
    memory_mb: int | None = None
    float_rate: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Speeds:
    """All speeds, those that the user gave before ours.

    Attributes:
        given: By name: "here", "lambda-arm64", "fargate-x86_64", or a family of EC2 as "c8g".
        measured: Likewise, those of Lambda that were measured.
    """

    given: Mapping[str, float] = field(default_factory=dict)
    measured: Mapping[str, Speed] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in self.given.items():
            if name not in _NAMES and not _FAMILY.fullmatch(name):
                near = difflib.get_close_matches(name, _NAMES, n=1)
                hint = f"did you mean {near[0]}?" if near else f"give {', '.join(_NAMES)}"
                raise UsageError(f"no speed is called {name!r}: {hint} or a family as c8g")
            if not 0 < value <= _MOST_SPEED:
                msg = f"a speed of {value!r} for {name} can't be: give a factor above 0"
                raise UsageError(msg)

    def of_lambda(self, arch: str) -> Speed:
        """Of a vCPU of Lambda."""
        ours = REFERENCE if arch == "x86_64" else _LAMBDA_ARM
        name = f"lambda-{arch}"
        return self._given(name) or self.measured.get(name) or ours

    def of_fargate(self, arch: str) -> Speed:
        """Of a vCPU of Fargate."""
        return self._given(f"fargate-{arch}") or _FARGATE

    def of_instance(self, instance: Instance) -> Speed:
        """Of a vCPU of an EC2 instance, while all of them are busy."""
        family = instance.name.partition(".")[0]
        return self._given(family) or _of_family(family, instance)

    def here(self, measured: Speed) -> Speed:
        """Of a core of this machine, alone."""
        return self._given("here") or measured

    def _given(self, name: str) -> Speed | None:
        if name not in self.given:
            return None
        told = f"--speed {name}={self.given[name]:g}"
        return Speed(value=self.given[name], sigma=0.0, basis=Basis.GIVEN, source=told)


_NAMES: Final = (
    "here",
    "lambda-x86_64",
    "lambda-arm64",
    "fargate-x86_64",
    "fargate-arm64",
)


def _of_family(family: str, instance: Instance) -> Speed:
    found = _FAMILY.fullmatch(family.partition("-")[0])
    generation = int(found[2]) if found else 0
    if instance.arch == "arm64" and generation in _GRAVITON:
        return Speed(
            value=_GRAVITON[generation],
            sigma=0.15,
            basis=Basis.PUBLISHED,
            source="AWS, 'up to', over Graviton2, which is Lambda's",
        )
    clock_ghz = instance.clock_ghz
    # Without a count of cores: x86_64 has threads, arm64 has none.
    cores = instance.cores or (
        instance.vcpus if instance.arch == "arm64" else max(1, instance.vcpus // 2)
    )
    is_core = cores >= instance.vcpus
    value = (clock_ghz or _CLOCK_GHZ) / _CLOCK_GHZ * (2 / SMT_GAIN if is_core else 1.0)
    what = "a core" if is_core else "a thread, its neighbour busy"
    told = f"from its clock, {clock_ghz:g} GHz" if clock_ghz else "its clock is not known"
    return Speed(
        value=value,
        sigma=0.2 if clock_ghz else 0.35,
        basis=Basis.ASSUMED,
        source=f"{told}; a vCPU is {what}",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FarLoops:
    """The two loops, run in a function of Lambda.

    Attributes:
        what: The function, in words.
        hashes_s: What 500,000 chained hashes take on a whole vCPU, seconds.
        float_rate: Repetitions of the Mandelbrot loop in a second on a whole vCPU.
        speed: Of one vCPU of it.
    """

    what: str
    hashes_s: float
    float_rate: float
    speed: Speed


def here_from(hashes_s: float, float_rate: float, far: FarLoops | None = None) -> Speed:
    """Speed of a core here, from two loops run on it.

    Neither is the user's kernel, and each has its bias: hashing has instructions of its own on some
    processors. So the geometric mean, with half of what they disagree by as its uncertainty, and
    some at least: 10 % if they were run on Lambda as well; 20 % if not, since Lambda's side of the
    second one is assumed then.

    Args:
        hashes_s: What 500,000 chained hashes take, seconds.
        float_rate: Repetitions of the Mandelbrot loop in a second.
        far: The same in a function of Lambda, if they were run there.
    """
    there = far or _PUBLISHED_LOOPS
    by_hashes, by_floats = there.hashes_s / hashes_s, float_rate / there.float_rate
    told = f"hashes {by_hashes:.2g}, floats {by_floats:.2g} times a vCPU of {there.what}"
    least = _LEAST_SIGMA if far is None else _LEAST_FAR_SIGMA
    return Speed(
        value=there.speed.value * math.sqrt(by_hashes * by_floats),
        sigma=max(least, abs(math.log(by_hashes / by_floats)) / 2),
        basis=Basis.MEASURED,
        source=told
        + ("; Lambda's side published (hashes) and assumed (floats)" if not far else ""),
    )


_PUBLISHED_LOOPS: Final = FarLoops(
    what="Lambda", hashes_s=LAMBDA_HASHES_S, float_rate=LAMBDA_FLOAT_RATE, speed=REFERENCE
)
# What two loops leave open, at least: they are not the user's kernel, and environments differ.
_LEAST_SIGMA: Final = 0.2
_LEAST_FAR_SIGMA: Final = 0.1


def speeds_measured_on(arch: str, what: str) -> dict[str, Speed]:
    """Speeds of Lambda's vCPUs if tasks were measured on such a function: certain for its own.

    Args:
        arch: Of the function.
        what: The function, in words.
    """
    found = {
        f"lambda-{arch}": Speed(
            value=1.0, sigma=0.0, basis=Basis.MEASURED, source=f"tasks were run on {what}"
        )
    }
    if arch == "arm64":  # then it is the other that isn't known for certain
        told = _LAMBDA_ARM.source.replace("2025-11-30: ", "2025-11-30: arm64 is ")
        found["lambda-x86_64"] = replace(_LAMBDA_ARM, source=told)
    return found


def lambda_vcpus(memory_mb: int) -> float:
    """What a function of this size has, in vCPUs; a share of one below 1,769 MB."""
    return memory_mb / MB_PER_VCPU


def check_memory(memory_mb: float) -> int:
    """A memory size that Lambda has.

    Raises:
        UsageError: Lambda has none such.
    """
    if not (math.isfinite(memory_mb) and memory_mb == int(memory_mb)):
        raise UsageError(f"memory of {memory_mb!r} MB: give a whole number of MB")
    if not LEAST_MB <= memory_mb <= MOST_MB:
        msg = f"Lambda has no function with {memory_mb:g} MB: give 128 to 10,240"
        raise UsageError(msg)
    return int(memory_mb)
