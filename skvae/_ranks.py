"""These rows are one part of a table: other processes, the ranks of a `torch.distributed` group, have the others.

A fit in such a group is a fit to the rows of all ranks, one part behind the other. Every sum over rows is one over
ranks too, samples are drawn from all of them, and what is decided is decided alike. Alone every function here returns
what it was given.

Ranks speak in turns. In every turn each says something, a value or that it has failed, and hears all: an error of one
becomes an error of all, and nobody waits for who has left. Only the sums within an epoch's steps go without a turn;
their number is agreed on before.
"""

from __future__ import annotations

import operator
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import reduce
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ._torch import make_generator, seed_from

__all__ = [
    "RankLostError",
    "agreed",
    "copy_from_first",
    "first_and_all",
    "from_first",
    "from_ranks",
    "gathered",
    "is_shared",
    "large_from_first",
    "n_ranks",
    "own_generator",
    "own_rank",
    "refuse_group",
    "same_on_all_ranks",
    "speaks",
    "sum_over_ranks",
    "sum_tensor",
    "warn_user",
]

# Packages whose lines a warning does not point at.
INSIDE = {"skvae", "sklearn", "joblib", "threading", "concurrent"}

# Arrays of more numbers are summed on their way; smaller ones are told to all, and added in the ranks' order.
LARGE = 100_000

Value = TypeVar("Value")


def n_ranks() -> int:
    """How many processes have rows of the table."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def own_rank() -> int:
    """The number of this process among them."""
    return dist.get_rank() if is_shared() else 0


def is_shared() -> bool:
    """Whether other processes have rows of the table, too."""
    return n_ranks() > 1


def speaks() -> bool:
    """Whether this process prints, warns and writes, for all of them."""
    return own_rank() == 0


def warn_user(text: str | Warning, category: type[Warning] = UserWarning) -> None:
    """Warn, once for all ranks, at the line of a user's that called into skvae, however many calls lie between."""
    if not speaks():
        return
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in INSIDE:
        level, frame = level + 1, frame.f_back
    warnings.warn(text, category, stacklevel=level)


class RankLostError(RuntimeError):
    """Another process of a fit has ended, or has not answered in time."""


class _Told(Exception):
    """An error that all ranks know of."""

    def __init__(self, error: Exception):
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True)
class _Fault:
    """What a rank says in its turn that has failed."""

    kind: type[Exception]
    text: str

    @classmethod
    def of(cls, error: Exception) -> _Fault:
        kind = next((kind for kind in (ValueError, TypeError) if isinstance(error, kind)), RuntimeError)
        return cls(kind, f"{error} (rank {own_rank()} of {n_ranks()})")


@dataclass(frozen=True)
class _Announced:
    """In place of an array that is to be summed on its way."""

    shape: tuple[int, ...]


@contextmanager
def agreed(same: Callable[[], dict[str, Any]] = dict) -> Iterator[None]:
    """A scope that all ranks leave alike: what one raises, all raise. `same` gives values that must not differ."""
    if not is_shared():
        yield
        return
    try:
        same_on_all_ranks(same())
        yield
        gathered(None)
    except _Told as told:
        raise told.error from None
    except RankLostError:
        raise
    except Exception as error:
        with suppress(RankLostError):  # the own error says more
            _turn(_Fault.of(error))
        raise


@contextmanager
def _all_answer() -> Iterator[None]:
    """A scope in which ranks wait for each other."""
    try:
        yield
    except RuntimeError as error:
        raise RankLostError(
            f"Rank {own_rank()} of {n_ranks()} cannot go on: another process of this fit has ended, or has not "
            "answered within the timeout of their group. The estimator stays as it was; start all processes anew. "
            f"torch.distributed says: {str(error).splitlines()[0]}"
        ) from error


def _turn(said: Any) -> list[Any]:
    """What every rank says, in their order."""
    heard: list[Any] = [None] * n_ranks()
    with _all_answer():
        dist.all_gather_object(heard, said)
    return heard


def gathered(value: Value) -> list[Value]:
    """The values of all ranks, in their order."""
    if not is_shared():
        return [value]
    heard = _turn(value)
    for said in heard:
        if isinstance(said, _Fault):
            raise _Told(said.kind(said.text))
    return heard


def from_first(value: Value) -> Value:
    """The first rank's value."""
    return gathered(value if speaks() else None)[0]  # type: ignore[return-value]


def large_from_first(value: Value) -> Value:
    """The first rank's value, which may be large: a turn would take as much memory again for every other rank."""
    if not is_shared():
        return value
    gathered(None)
    sent = [value if speaks() else None]
    with _all_answer():
        dist.broadcast_object_list(sent, 0)
    return sent[0]  # type: ignore[return-value]


def same_on_all_ranks(values: dict[str, Any]) -> None:
    """ValueError, on all ranks, that names a value which differs between them."""
    every = gathered(values)
    for rank, theirs in enumerate(every):
        for name, value in every[0].items():
            if theirs[name] != value:
                raise _Told(
                    ValueError(
                        f"{name} is {value} on rank 0 and {theirs[name]} on rank {rank}. The processes of a group fit "
                        "one model together: give them the same, or end the group before each fits one of its own."
                    )
                )


def refuse_group(what: str) -> None:
    """ValueError where other processes have rows, of which `what` would know nothing."""
    if is_shared():
        raise ValueError(f"{what} looks at the rows of one process, and this one is rank {own_rank()} of {n_ranks()}.")


def sum_over_ranks(value: Any) -> Any:
    """The sum of what ranks have: numbers, arrays, lists, column sums, or tuples of such; None adds nothing."""
    return _total(gathered(_announced(value)), value) if is_shared() else value


def _announced(value: Any) -> Any:
    """What is said of a value: itself, but for large arrays."""
    if isinstance(value, tuple):
        return tuple(map(_announced, value))
    return _Announced(value.shape) if isinstance(value, np.ndarray) and value.size > LARGE else value


def _total(heard: list[Any], own: Any) -> Any:
    """The sum of what was said; of large arrays each rank has its own."""
    heard = [said for said in heard if said is not None]
    if any(isinstance(said, tuple) for said in heard):
        parts = list(zip(*heard, strict=True))
        return tuple(_total(list(part), None if own is None else own[i]) for i, part in enumerate(parts))
    shapes = [said.shape for said in heard if isinstance(said, _Announced)]
    if not shapes:
        return reduce(operator.add, heard) if heard else None
    total = np.zeros(shapes[0]) if own is None else np.array(np.broadcast_to(own, shapes[0]), dtype=np.float64)
    sum_tensor(torch.from_numpy(total))
    return total


def sum_tensor(tensor: Tensor) -> None:
    """Put the sum over ranks in place of a tensor, without a turn."""
    _sent(tensor, dist.all_reduce)


def copy_from_first(tensors_of: Callable[[], Sequence[Tensor]]) -> None:
    """Put the first rank's numbers in place of the tensors that are returned: two kinds of processors round apart."""
    if is_shared():
        tensors = tensors_of()
        same_on_all_ranks({"The number of weights": sum(tensor.numel() for tensor in tensors)})
        for tensor in tensors:
            _sent(tensor, lambda wire: dist.broadcast(wire, 0))


def _sent(tensor: Tensor, collective: Callable[[Tensor], Any]) -> None:
    """A collective that changes a tensor, where the group takes it: NCCL moves what lies on GPUs alone."""
    stays = tensor.is_cuda or "cpu:" in dist.get_backend_config()
    wire = tensor.detach() if stays else tensor.detach().cuda()
    with _all_answer():
        collective(wire)
    if not stays:
        tensor.detach().copy_(wire)


def own_generator(rng: torch.Generator) -> torch.Generator:
    """A generator for this rank's rows, which are none of the others'; `rng` is left alike on all ranks."""
    return make_generator(seed_from(rng) + own_rank(), rng.device) if is_shared() else rng


# Rows of all ranks have numbers: the first rank's come first.


def first_and_all(n_own: int) -> tuple[int, int]:
    """The number of the first of this rank's rows, and how many all ranks have."""
    sizes = gathered(n_own)
    return sum(sizes[: own_rank()]), sum(sizes)


def from_ranks(
    numbers: np.ndarray, n_own: int, take: Callable[[np.ndarray], tuple[np.ndarray | None, ...]]
) -> tuple[Any, ...]:
    """What `take` gives of the rows of these numbers, wherever they are: arrays, rows in the order of `numbers`.

    `take` gets the numbers of rows that this rank has, counted from its own first.
    """
    if not is_shared():
        return take(numbers)
    first, _ = first_and_all(n_own)
    here = (numbers >= first) & (numbers < first + n_own)
    parts = gathered((np.flatnonzero(here), take(numbers[here] - first)))
    order = np.argsort(np.concatenate([place for place, _ in parts]))
    arrays = zip(*(values for _, values in parts), strict=True)
    return tuple(None if any(v is None for v in part) else np.concatenate(part)[order] for part in arrays)
