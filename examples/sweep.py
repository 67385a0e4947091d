"""Sweep two parameters of a model, with points where it fails, without losing the others.

python examples/sweep.py
"""

import itertools

import numpy as np

import fanout


def settles_at(rate: float, start: float) -> float:
    """Iterate the logistic map until it settles; it doesn't for every rate."""
    x = start
    for _ in range(10_000):
        following = rate * x * (1 - x)
        if abs(following - x) < 1e-12:
            return following
        x = following
    msg = f"no fixed point from {start} at rate {rate}"
    raise ArithmeticError(msg)


def main() -> None:
    rates = np.round(np.arange(1.5, 4.0, 0.25), 2).tolist()
    points = list(itertools.product(rates, [0.2, 0.5]))
    results = fanout.sync.starmap(settles_at, points, return_exceptions=True)
    for (rate, start), result in zip(points, results, strict=True):
        shown = f"{result:.6f}" if isinstance(result, float) else f"({result})"
        print(f"rate {rate:4.2f} from {start}: {shown}")
    failed = sum(isinstance(result, Exception) for result in results)
    print(f"{failed} of {len(points)} points did not settle")


if __name__ == "__main__":
    main()
