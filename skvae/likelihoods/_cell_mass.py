"""The mass of a normal distribution between two points, far out and near together too; of numpy or torch."""

from __future__ import annotations

import math
from typing import Any

import torch
from scipy import special

from .._math import LOG_2PI
from .._torch import namespace

__all__ = ["log_mass", "mass_bend", "mass_slopes"]

# Below this half width the density is constant, but for its slope, in double precision.
THIN = 1e-5
# Below this, sinh(z) / z is its series.
SMALL = 1e-2


def log_mass(u: Any, w: Any) -> Any:
    """log(Phi(u + w) - Phi(u - w)) for w > 0, of tensors or numpy arrays in double precision.

    Beyond 0 it is a difference of tails, which Mills' ratio R(a) = (1 - Phi(a)) / phi(a) keeps the digits of.
    """
    xp, size = namespace(u), abs(u)
    wide = w.clip(min=THIN)
    near, far = size - wide, size + wide
    erf, erfcx = (torch.special if xp is torch else special).erf, (torch.special if xp is torch else special).erfcx
    root = math.sqrt(0.5)
    beyond = near.clip(min=0)
    mills = erfcx(root * beyond) - xp.exp(-2 * size * wide) * erfcx(root * far)
    tail = xp.log(0.5 * mills) - 0.5 * beyond * beyond
    around = xp.log(0.5 * (erf(root * far) - erf(root * near.clip(max=0))))
    thin = xp.log(2 * w) + _log_sinhc(size * w) - 0.5 * (size * size + LOG_2PI)
    return xp.where(w < THIN, thin, xp.where(near > 0, tail, around))


def _log_sinhc(z: Any) -> Any:
    """log(sinh(z) / z) for z >= 0."""
    xp = namespace(z)
    large = z.clip(min=SMALL)
    exact = large + xp.log(-xp.expm1(-2 * large) / (2 * large))
    return xp.where(z < SMALL, z * z / 6, exact)


def mass_slopes(u: Any, w: Any, log_of_mass: Any) -> tuple[Any, Any]:
    """The slopes of `log_mass` as both ends move up together, and as both move away from 0 in proportion."""
    xp = namespace(u)
    low, high = u - w, u + w
    at_low, at_high = (xp.exp(-0.5 * (end * end + LOG_2PI) - log_of_mass) for end in (low, high))
    # The slope of log(sinh(z) / z), of narrow cells.
    z = abs(u) * w
    large = z.clip(min=SMALL)
    bent = xp.where(z < SMALL, z / 3, 1 / xp.tanh(large) - 1 / large)
    thin = w < THIN
    shift = xp.where(thin, xp.sign(u) * w * bent - u, at_high - at_low)
    return shift, xp.where(thin, 1 - u * u + 2 * z * bent, high * at_high - low * at_low)


def mass_bend(u: Any, w: Any) -> Any:
    """The second derivative of `log_mass` over u: the variance of a standard normal number within the cell, less 1.

    Far out it is a difference of large numbers; no variance within a cell is above the square of half its width.
    """
    xp, (shift, growth) = namespace(u), mass_slopes(u, w, log_mass(u, w))
    return xp.minimum((-growth - shift * shift).clip(-1, 0), w * w - 1)
