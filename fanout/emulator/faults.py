"""What goes wrong on purpose: a plan, without a clock or any I/O; chance is an argument.

`Faults` says how likely each fault is; `FaultPlan` draws for every invocation, and for every
environment that is started. The same seed and the same order of arrival give the same faults. At
most one fault befalls an invocation, so that each is as frequent as it says.
"""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fanout.emulator.limits import Reason
from fanout.errors import UsageError

if TYPE_CHECKING:
    from random import Random


class Fault(enum.StrEnum):
    """What can befall an invocation."""

    THROTTLE = "throttle"
    ERROR_500 = "error_500"
    ERROR_502 = "error_502"
    ERROR_503 = "error_503"
    RESET_BEFORE = "reset_before"
    RESET_DURING = "reset_during"
    RESET_AFTER = "reset_after"
    HANG = "hang"
    TRUNCATE = "truncate"
    CORRUPT = "corrupt"
    DUPLICATE = "duplicate"


_ENVIRONMENT_FAULTS: Final = ("slow_start", "slow_environment")
# The codes that Invoke answers with status 502: Lambda's API reference, Invoke, Errors, 2026-11.
CODES_502: Final = (
    "EC2AccessDeniedException",
    "EC2ThrottledException",
    "EC2UnexpectedException",
    "ENILimitReachedException",
    "ENINotReadyException",
    "InvalidRuntimeException",
    "InvalidSecurityGroupIDException",
    "InvalidSubnetIDException",
    "InvalidZipFileException",
    "KMSAccessDeniedException",
    "KMSDisabledException",
    "KMSInvalidStateException",
    "KMSNotFoundException",
    "ResourceNotReadyException",
    "SubnetIPAddressLimitReachedException",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """How often what goes wrong: probabilities from 0 to 1, all 0 unless given.

    Those from `throttle` to `duplicate` befall synchronous invocations, each at most one of them:
    their sum may not exceed 1. `slow_start` and `slow_environment` befall environments.

    Attributes:
        throttle: 429 with `reason`, although there is room.
        error_500: ServiceException; whether it ran is a coin toss, as nobody can tell with AWS.
        error_502: `code_502`; it does not run.
        error_503: Service unavailable; it does not run.
        reset_before: The connection is reset after the request was read; it does not run.
        reset_during: The connection is reset as it begins to run; it runs to its end.
        reset_after: It runs to its end, then the connection is reset instead of the answer.
        hang: The environment never answers, until the function's timeout ends it.
        truncate: The answer promises its whole body and breaks off in the middle.
        corrupt: Some bits of the answer's body are flipped.
        duplicate: It is delivered to two environments; the first answer counts.
        slow_start: An environment takes `start_delay_s` longer to start.
        slow_environment: An environment takes `slow_factor` as long, and 10 ms more, each time.
        seed: Of the generator.
        reason: Of `throttle`; one of the API's.
        retry_after_s: Of `throttle`, in whole seconds; 0 tells none.
        code_502: Of `error_502`; EC2AccessDeniedException is one that stays.
        start_delay_s: Of `slow_start`.
        slow_factor: Of `slow_environment`.
    """

    throttle: float = 0.0
    error_500: float = 0.0
    error_502: float = 0.0
    error_503: float = 0.0
    reset_before: float = 0.0
    reset_during: float = 0.0
    reset_after: float = 0.0
    hang: float = 0.0
    truncate: float = 0.0
    corrupt: float = 0.0
    duplicate: float = 0.0
    slow_start: float = 0.0
    slow_environment: float = 0.0
    seed: int = 0
    reason: str = Reason.CONCURRENCY.value
    retry_after_s: float = 1.0
    code_502: str = "EC2ThrottledException"
    start_delay_s: float = 2.0
    slow_factor: float = 5.0

    def __post_init__(self) -> None:
        for name in (*Fault, *_ENVIRONMENT_FAULTS):
            _check(name, getattr(self, name), 0.0, 1.0, "a probability from 0 to 1")
        _check("retry_after_s", self.retry_after_s, 0.0, 3600.0, "from 0 to 3600")
        _check("start_delay_s", self.start_delay_s, 0.0, 900.0, "from 0 to 900")
        _check("slow_factor", self.slow_factor, 1.0, 1000.0, "from 1 to 1000")
        _check_is_one_of("reason", self.reason, [reason.value for reason in Reason])
        _check_is_one_of("code_502", self.code_502, CODES_502)
        total = sum(getattr(self, fault) for fault in Fault)
        if total > 1 + 1e-9:
            msg = (
                f"the probabilities of faults add up to {total:g}, but at most one befalls an "
                "invocation: lower them to a sum of 1"
            )
            raise UsageError(msg)

    @classmethod
    def parse(cls, text: str) -> Faults:
        """Faults from a text like `throttle=0.05,reset_after=0.01,seed=3`.

        Raises:
            UsageError: A name or a value is none.
        """
        values: dict[str, Any] = {}
        kinds = {field.name: field.type for field in dataclasses.fields(cls)}
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, is_given, value = part.partition("=")
            if name not in kinds or not is_given:
                msg = f"fault {part!r} must be NAME=VALUE with a name of {', '.join(kinds)}"
                raise UsageError(msg)
            try:
                values[name] = {"float": float, "int": int, "str": str}[str(kinds[name])](value)
            except ValueError:
                msg = f"fault {name}={value!r} must be a number"
                raise UsageError(msg) from None
        return cls(**values)


@dataclass(frozen=True, slots=True)
class StartFaults:
    """What is wrong with an environment from its start on."""

    delay_s: float = 0.0
    factor: float = 1.0


class FaultPlan:
    """Draws what befalls whom, from one generator for invocations and one for environments."""

    def __init__(self, faults: Faults, rng: Random, start_rng: Random) -> None:
        self.faults = faults
        self._table = [(fault, p) for fault in Fault if (p := getattr(faults, fault))]
        self._has_slow = bool(faults.slow_start or faults.slow_environment)
        self._rng = rng
        self._start_rng = start_rng

    def of_invocation(self) -> Fault | None:
        """What befalls the next invocation."""
        if not self._table:
            return None
        at = self._rng.random()
        for fault, probability in self._table:
            at -= probability
            if at < 0:
                return fault
        return None

    def of_environment(self) -> StartFaults:
        """What is wrong with the next environment."""
        if not self._has_slow:
            return StartFaults()
        is_late = self._start_rng.random() < self.faults.slow_start
        is_slow = self._start_rng.random() < self.faults.slow_environment
        return StartFaults(
            delay_s=self.faults.start_delay_s if is_late else 0.0,
            factor=self.faults.slow_factor if is_slow else 1.0,
        )

    def coin(self) -> bool:
        """Yes or no."""
        return self._rng.random() < 0.5

    def corrupted(self, body: bytes) -> bytes:
        """The same length, with one to eight bits flipped."""
        if not body:
            return body
        damaged = bytearray(body)
        places = self._rng.sample(range(len(body)), min(len(body), self._rng.randint(1, 8)))
        for place in places:  # of different bytes: no flip undoes another
            damaged[place] ^= 1 << self._rng.randrange(8)
        return bytes(damaged)


def _check(name: str, value: object, low: float, high: float, what: str) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:  # type: ignore[operator]  # it is a number
        msg = f"{name}={value!r} must be {what}"
        raise UsageError(msg)


def _check_is_one_of(name: str, value: object, known: list[str] | tuple[str, ...]) -> None:
    if value not in known:
        msg = f"{name}={value!r} must be one of {', '.join(known)}"
        raise UsageError(msg)
