"""A bill as a table for people. Pure."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Final

from fanout.cost.money import rounded, usd_text
from fanout.cost.run_usage import Cause

if TYPE_CHECKING:
    from fanout.cost.bill import Bill, BillItem

# Digits of the sum that are shown, and as many decimals of each item as these have.
_DIGITS: Final = 4
_MOST_DECIMALS: Final = 12
# Why something is assumed, by cause.
_ASSUMED: Final = (
    (
        frozenset({*Cause} - {Cause.STORAGE, Cause.LOGS, Cause.TRANSFER}),
        "an attempt without an answer counts at its worst, one without a REPORT line by the time "
        "that its worker measured",
    ),
    (frozenset({Cause.LOGS}), "a log of which not all was seen counts as far as it was"),
    (frozenset({Cause.STORAGE}), "what workers do with the store is inferred"),
    (frozenset({Cause.TRANSFER}), "answers count as if they left AWS"),
)


def text_of(bill: Bill) -> str:
    """All items, the sum, and what must be known of it."""
    if not bill.items:
        return "nothing was billed"
    decimals = _decimals(bill.usd)
    rows: list[tuple[str, ...]] = [
        ("cause", "what", "units", "", "US dollars each", "US dollars", "")
    ]
    rows += [_row(item, decimals) for item in bill.items]
    gb_s = f"{_number(bill.gb_s)} GB-seconds, {bill.requests:,} invocations"
    rows.append(("sum", gb_s, "", "", "", _money(bill.usd, decimals), ""))
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    # The sum's words may run over the columns that it leaves empty.
    widths[1] = max(len(row[1]) for row in rows[:-1])
    lines = [_line(row, widths) for row in rows[:-1]]
    spare = sum(widths[1:5]) + 4 * 2
    lines.append(
        f"{rows[-1][0]:{widths[0]}}  {gb_s:{spare - 2}}  {rows[-1][5]:>{widths[5]}}".rstrip()
    )
    return "\n".join([*lines, "", *_notes(bill)])


def summary_of(bill: Bill) -> str:
    """The sum in a few words."""
    told = f"{usd_text(bill.usd)} ({_number(bill.gb_s)} GB-seconds, {bill.requests:,} invocations)"
    if bill.assumed_usd:
        told += f", {usd_text(bill.assumed_usd)} of it assumed"
    return f"{told}, without what has no known price" if bill.unpriced else told


def _row(item: BillItem, decimals: int) -> tuple[str, ...]:
    each = "not priced" if item.price_usd is None else f"{item.price_usd:f}"
    usd = "?" if item.usd is None else _money(item.usd, decimals)
    basis = "" if item.is_measured else "assumed"
    return (item.cause.value, item.what, _number(item.units), item.unit, each, usd, basis)


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    cells = [
        cell.rjust(width) if at in {2, 4, 5} else cell.ljust(width)
        for at, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()


def _notes(bill: Bill) -> list[str]:
    lines = []
    if bill.assumed_usd:
        causes = {item.cause for item in bill.items if item.usd and not item.is_measured}
        why = [told for of, told in _ASSUMED if causes & of]
        lines.append(f"{usd_text(bill.assumed_usd)} of it is assumed: {'; '.join(why)}.")
    if lacking := bill.unpriced:
        what = ", ".join(dict.fromkeys(f"{item.what} ({item.region or '?'})" for item in lacking))
        lines.append(f"The sum lacks what has no known price: {what}.")
    if regions := dict.fromkeys(item.region for item in bill.items if item.usd is not None):
        lines.append(f"Prices of {', '.join(regions)}:")
        sources = dict.fromkeys(item.source for item in bill.items if item.usd is not None)
        lines += [f"  {source}" for source in sources]
    return lines


def _decimals(usd: Decimal) -> int:
    if not usd:
        return 2
    return min(_MOST_DECIMALS, max(2, _DIGITS - 1 - usd.adjusted()))


def _money(usd: Decimal, decimals: int) -> str:
    with rounded():
        return f"{usd.quantize(Decimal(1).scaleb(-decimals)):,f}"


def _number(units: Decimal) -> str:
    """Whole numbers as they are, others to four digits or the unit."""
    with rounded():
        if units == units.to_integral_value():
            return f"{int(units):,}"
        digits = max(0, _DIGITS - 1 - units.adjusted())
        return f"{units.quantize(Decimal(1).scaleb(-min(digits, _MOST_DECIMALS))):,f}"
