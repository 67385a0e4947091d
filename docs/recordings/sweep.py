"""The kernel of the recording."""

import time

import numpy as np


def simulate(seed: int) -> float:
    """A second of somebody's computation."""
    rng = np.random.default_rng(seed)
    time.sleep(rng.lognormal(-0.3, 0.5))
    return float(rng.normal())
