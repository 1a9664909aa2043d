"""Deliberate faults in skvae, each of which a test must see: `python -m tests.mutants` breaks a copy and runs tests."""

from __future__ import annotations

from ._mutant import Mutant
from .detector import DETECTOR
from .displays import DISPLAYS
from .estimators import ESTIMATORS
from .inference import INFERENCE
from .likelihoods import LIKELIHOODS
from .networks import NETWORKS
from .objectives import OBJECTIVES
from .tables import TABLES
from .training import TRAINING

__all__ = ["MUTANTS", "Mutant"]

MUTANTS = [*NETWORKS, *OBJECTIVES, *LIKELIHOODS, *TABLES, *TRAINING, *INFERENCE, *ESTIMATORS, *DETECTOR, *DISPLAYS]
