"""Which rows of EC2's offer file are Linux on demand, and what they tell of a type of instance.

Pure. The same type has hundreds of rows: other systems, software, licences, dedicated hosts,
capacity that is reserved and unused ($0.00). One is left.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from fanout.cost.book import Instance
from fanout.cost.book_file import flat_price
from fanout.cost.items import EC2_UNIT

if TYPE_CHECKING:
    import datetime as dt
    from decimal import Decimal

    from fanout.cost.price_list.rows import Row

_WANTED: Final = {
    "operatingsystem": "Linux",
    "tenancy": "Shared",
    "preinstalledsw": "NA",
    "capacitystatus": "Used",
    "licensemodel": "No License required",
    "operation": "RunInstances",
}
_NUMBER: Final = re.compile(r"\d+(?:\.\d+)?")
_GRAVITON: Final = "Graviton"


def is_linux_on_demand(row: Row, usage: str) -> bool:
    """Whether this is the plain price of a type."""
    if usage != "BoxUsage" and not usage.startswith("BoxUsage:"):
        return False
    if row.get("marketoption", "OnDemand") != "OnDemand":
        return False
    return all(row.get(name) == value for name, value in _WANTED.items())


def instance_of(row: Row, usd: Decimal, known: Instance | None, published: dt.date) -> Instance:
    """A type of instance; what the row does not tell is as in the type that is known.

    Raises:
        ValueError: It lacks what every type has.
    """
    name = row["instancetype"]
    processor = row.get("physicalprocessor", "")
    memory = _number(row.get("memory", ""))
    vcpus = row.get("vcpu", "")
    if not vcpus.isdigit() or memory is None:
        raise ValueError(f"has vCPU {vcpus!r} and memory {row.get('memory')!r}")
    clock = _number(row.get("clockspeed", ""))
    gpus = _number(row.get("gpu", ""))
    return Instance(
        name=name,
        arch="arm64" if _GRAVITON in processor else known.arch if known else "x86_64",
        vcpus=int(vcpus),
        cores=known.cores if known else None,
        memory_gib=memory,
        network=row.get("networkperformance", ""),
        clock_ghz=known.clock_ghz if known and known.clock_ghz else clock,
        is_burstable=name.startswith("t"),
        is_bare_metal=".metal" in name,
        gpus=int(gpus) if gpus else 0,
        usd_per_hour=flat_price(usd, EC2_UNIT, "", published),
    )


def _number(text: str) -> float | None:
    """The first number in a text such as "1,952 GiB" or "Up to 3.5 GHz"."""
    found = _NUMBER.search(text.replace(",", ""))
    return float(found[0]) if found else None
