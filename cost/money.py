"""Money: exact sums of US dollars in `decimal`, and how they are shown to people.

Pure. Every operation runs in a context of its own, never the caller's: whatever precision or
rounding a program has set, a bill comes out the same. Inside `exactly()` a result that can't be
held to the last digit raises `decimal.Inexact` rather than being rounded. Amounts come from text or
integers; floats are refused, since 0.1 is not a tenth there.
"""

from __future__ import annotations

import contextlib
import decimal
from decimal import Decimal
from typing import TYPE_CHECKING, Final, TypeAlias

from fanout.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Amount: TypeAlias = "int | Decimal"

# A price has 12 digits, a month's GB-seconds 20 at most: products and sums of all of them fit.
_PRECISION: Final = 120
# Of an amount that is read: more is no price, and would fill the precision.
_MAX_DIGITS: Final = 40
_MAX_EXPONENT: Final = 30
_SHOWN_DIGITS: Final = 2  # of what is less than a dollar


@contextlib.contextmanager
def exactly() -> Iterator[None]:
    """Within it, arithmetic of `Decimal` is exact, or raises `decimal.Inexact`."""
    with decimal.localcontext(_context(is_exact=True)):
        yield


@contextlib.contextmanager
def rounded() -> Iterator[None]:
    """Within it, arithmetic has 120 digits, rounded half to even: for divisions."""
    with decimal.localcontext(_context(is_exact=False)):
        yield


def _context(*, is_exact: bool) -> decimal.Context:
    traps = [decimal.InvalidOperation, decimal.DivisionByZero, decimal.Overflow]
    return decimal.Context(
        prec=_PRECISION,
        rounding=decimal.ROUND_HALF_EVEN,
        Emin=-999_999,
        Emax=999_999,
        traps=[*traps, decimal.Inexact] if is_exact else traps,
    )


def total(amounts: Iterable[Amount]) -> Decimal:
    """The exact sum; 0 of nothing."""
    with exactly():
        return Decimal(sum(amounts, start=Decimal(0)))


def product(*factors: Amount) -> Decimal:
    """The exact product."""
    with exactly():
        found = Decimal(1)
        for factor in factors:
            found *= factor
        return found


def quotient(dividend: Amount, divisor: Amount) -> Decimal:
    """One amount over another, to 120 digits: for what is shown, never for what is summed."""
    with rounded():
        return Decimal(dividend) / Decimal(divisor)


def amount(value: str | int | Decimal, what: str = "an amount") -> Decimal:
    """An amount that is finite and not negative.

    Args:
        value: Text as in "0.0000166667", an integer or a `Decimal`; never a float.
        what: What it is, for the error.

    Raises:
        UsageError: It is something else.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        msg = (
            f"{what} is {value!r}, a {type(value).__name__}: give it as text, an integer or a "
            "Decimal, since floats are not exact"
        )
        raise UsageError(msg)
    try:
        found = Decimal(value)  # exact in any context; with traps off, what is no number is a NaN
    except decimal.InvalidOperation as error:
        raise UsageError(f"{what} is {value!r}, which is no number") from error
    if not found.is_finite() or found < 0:
        raise UsageError(f"{what} is {value}: it must be finite, and 0 or more")
    if len(found.as_tuple().digits) > _MAX_DIGITS or abs(found.adjusted()) > _MAX_EXPONENT:
        msg = f"{what} is {str(value)[:60]}: at most {_MAX_DIGITS} digits, up to 1e{_MAX_EXPONENT}"
        raise UsageError(msg)
    return found


def plain(value: Decimal) -> str:
    """All digits of an amount and no more, never in scientific notation: for files."""
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def usd_text(value: Amount) -> str:
    """Dollars for people: "$1,234.50", "$0.0042"; to the cent from $1, else two digits."""
    value = Decimal(value)
    sign = "-" if value < 0 else ""
    with rounded():
        value = abs(value)
        if value and value.adjusted() < 0:
            # The first digit that is not 0 and the one after it; 0.996 becomes 1.0.
            value = value.quantize(Decimal(1).scaleb(value.adjusted() - _SHOWN_DIGITS + 1))
        if value >= 1:
            value = value.quantize(Decimal("0.01"))
        elif not value:
            return "$0"
        return f"{sign}${value:,f}"
