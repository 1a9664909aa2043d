"""Formulas that several rooms share, in what numpy and torch spell alike."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["LARGEST_WHOLE", "LOG_2PI", "log_normal"]


LOG_2PI = math.log(2 * math.pi)


# Beyond it all floats are whole numbers, and not every whole number is a float.
LARGEST_WHOLE = 2.0**53


def log_normal(eps: Any, log_var: Any = 0.0) -> Any:
    """log N(mu + sigma * eps; mu, sigma^2) = -(log 2 pi + log sigma^2 + eps^2) / 2, element by element.

    Tensors, or numpy arrays in their place.
    """
    return -0.5 * (LOG_2PI + log_var + eps * eps)
