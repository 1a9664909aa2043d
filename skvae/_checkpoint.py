"""Long fits that another process goes on with: where training stands, in a file."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.callback import CallbackSupportMixin

from ._ranks import gathered, large_from_first, same_on_all_ranks, speaks
from ._saved import checksum
from ._tables.reader import TrainingRows
from ._training.loop import Kept, Progress, TrainingResult

__all__ = ["Checkpoint", "Paused", "table_print", "words_of"]

FORMAT = 1
# Rows that a table is known by, beside the sums of its columns.
KNOWN_ROWS = 256
# What differs between two processes that mean the same object.
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


class Paused(NamedTuple):
    """A fit between two epochs: where training stands, and whether it began at the linear model."""

    progress: Progress
    linear: bool


@dataclass
class Checkpoint:
    """A callback that writes where a fit stands to a file, from which the same fit goes on in a new process.

    Where the file is there, `fit` goes on from it, and ends with the numbers that it would have had without a stop.
    When `fit` has ended the file is removed; save the estimator then. It stays where a fit was broken off, by an error,
    a signal or Ctrl-C, and is of use only to a fit with the same parameters and the same table: others are refused.

    Parameters
    ----------
    path : str or path-like
        The file. It takes about five times the memory of the weights, and is replaced at once: a process that dies
        while it writes leaves the one before.
    every : int, default=10
        Epochs from one writing to the next; the last epoch is always followed by one.

    See Also
    --------
    VAETransformer : Takes it, by `set_callbacks`.

    Notes
    -----
    Weights, their averages, the optimiser's moments, the generator's state, the best weights so far and the held-out
    curve are written. A table is known by the sums of its columns, by 256 rows from all over it, and by its targets and
    weights. With `random_state=None` the seed is the file's.

    Other callbacks see the epochs that are trained by this process, counted from its first one.

    One file is for one fit: set it on the estimator itself, not on a pipeline around it. Searches and
    :class:`VAETransformerCV` refuse it.

    In a `torch.distributed` group all processes are given one, and the first writes and reads for all: what is trained
    is the same everywhere. The fit goes on with as many processes, each with the rows that it had.

    Files are read as tensors and plain data: no code of a file is run.

    Examples
    --------
    >>> from pathlib import Path
    >>> from sklearn.datasets import load_wine
    >>> from skvae import Checkpoint, VAETransformer
    >>> X = load_wine().data
    >>> vae = VAETransformer(2, max_iter=20, random_state=0).set_callbacks(Checkpoint("wine.ckpt"))
    >>> vae.fit(X).n_iter_, Path("wine.ckpt").exists()
    (20, False)
    """

    __module__ = "skvae"

    path: str | os.PathLike[str]
    every: int = 10

    def __post_init__(self) -> None:
        if isinstance(self.every, bool) or not isinstance(self.every, int | np.integer) or self.every < 1:
            raise ValueError(f"every must be an integer of at least 1; it is {self.every!r}.")

    def setup(self, estimator: Any, context: Any) -> None:
        """Refuse an estimator that is no model of this package.

        Parameters
        ----------
        estimator : estimator
            Whose fit begins.
        context : CallbackContext
            Not looked at.

        Raises
        ------
        ValueError
            If it is another estimator, such as a pipeline.
        """
        if not hasattr(estimator, "_fit_to"):
            raise ValueError(
                f"Checkpoint is for an estimator of skvae, not for {type(estimator).__name__}: call set_callbacks of "
                "the step itself."
            )

    def teardown(self, estimator: Any, context: Any) -> None:
        """Do nothing: `fit` removes the file when the estimator is fitted.

        Parameters
        ----------
        estimator : estimator
            Not looked at.
        context : CallbackContext
            Not looked at.
        """

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        """Do nothing.

        Parameters
        ----------
        estimator : estimator
            Not looked at.
        context : CallbackContext
            Not looked at.
        """

    def on_fit_task_end(self, estimator: Any, context: Any) -> bool:
        """Do nothing: `fit` writes the file between two epochs.

        Parameters
        ----------
        estimator : estimator
            Not looked at.
        context : CallbackContext
            Not looked at.

        Returns
        -------
        stop : bool
            False.
        """
        return False

    # What fits do with it

    @staticmethod
    def _all_of(estimator: CallbackSupportMixin) -> list[Checkpoint]:
        """Those among an estimator's callbacks."""
        return [each for each in getattr(estimator, "_skl_callbacks", []) if isinstance(each, Checkpoint)]

    @classmethod
    def _of(cls, estimator: CallbackSupportMixin, is_one_of_many: bool) -> Checkpoint | None:
        """The one among an estimator's callbacks; ValueError where it is set for several fits, or there are several."""
        found = cls._all_of(estimator)
        if not found:
            return None
        if len(found) > 1 or is_one_of_many:
            raise ValueError(
                f"{found[0].path} is one file, for one fit: {type(estimator).__name__} has "
                + ("several Checkpoints." if len(found) > 1 else "one Checkpoint and is part of a search.")
            )
        return found[0]

    def _seed(self, new: int) -> int:
        """The seed of the fit that the file holds; a new one where there is no file."""
        found = self._loaded()
        return new if found is None else int(found["bound"]["The seed"])

    def _read(self, bound: Mapping[str, str]) -> Paused | None:
        """Where the fit stands, which must be bound to the same; None where there is no file."""
        same_on_all_ranks({"device, of a fit with a Checkpoint,": bound["device"].partition(":")[0]})
        found = self._loaded()
        if found is None:
            return None
        theirs = found["bound"]
        differing = [name for name in {**theirs, **bound} if theirs.get(name) != bound.get(name)]
        if differing:
            said = "; ".join(f"{name} was {theirs.get(name)}, and is {bound.get(name)}" for name in differing)
            raise ValueError(
                f"{self.path} holds another fit: {said}. Remove the file to begin anew, or set these back."
            )
        return _unpacked(found["paused"])

    def _write(self, paused: Paused, bound: Mapping[str, str]) -> None:
        """Put a file in the place of the one before, whole or not at all; the first rank does."""
        if not speaks():
            return
        path = Path(self.path)
        part = path.with_name(path.name + ".part")
        with part.open("wb") as file:
            torch.save({"format": FORMAT, "bound": dict(bound), "paused": _packed(paused)}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)

    def _remove(self) -> None:
        """The fit has ended, wherever the file lies."""
        Path(self.path).unlink(missing_ok=True)

    def _loaded(self) -> dict[str, Any] | None:
        """What the first rank's file holds; ValueError where another rank has one from another epoch."""
        found = self._of_this_process()
        epochs = gathered(None if found is None else found["paused"]["progress"]["epoch"])
        for rank, epoch in enumerate(epochs):
            if epoch not in (None, epochs[0]):
                first = "is missing" if epochs[0] is None else f"is of epoch {epochs[0]}"
                raise ValueError(
                    f"{self.path} {first} on rank 0, which reads and writes it for all, and of epoch {epoch} on rank "
                    f"{rank}. Put the one to go on from where rank 0 is, and remove all others."
                )
        return large_from_first(found)

    def _of_this_process(self) -> dict[str, Any] | None:
        path = Path(self.path)
        if not path.exists():
            return None
        try:
            found = torch.load(path, map_location="cpu", weights_only=True)
            whole = isinstance(found, dict) and found.keys() == {"format", "bound", "paused"}
        except Exception as error:  # whatever a file of something else leads to
            raise ValueError(f"{path} is no checkpoint that can be read. Remove it to begin anew.") from error
        if not whole or found["format"] != FORMAT:
            raise ValueError(f"{path} is no checkpoint of this version of skvae. Remove it to begin anew.")
        return found


def _packed(paused: Paused) -> dict[str, Any]:
    """As tensors, containers and numbers."""
    progress = paused.progress
    values = {part.name: getattr(progress, part.name) for part in fields_of(Progress)}
    result = {part.name: getattr(progress.result, part.name) for part in fields_of(TrainingResult)}
    judged = None if progress.judged is None else torch.from_numpy(np.array(progress.judged))
    values |= {"weights": dict(progress.weights), "kept": list(progress.kept), "result": result, "judged": judged}
    return {"progress": values, "linear": paused.linear}


def _unpacked(packed: dict[str, Any]) -> Paused:
    values = dict(packed["progress"])
    judged = None if values["judged"] is None else values["judged"].numpy()
    values |= {"kept": Kept(*values["kept"]), "result": TrainingResult(**values["result"]), "judged": judged}
    return Paused(Progress(**values), packed["linear"])


# What a file is bound to


def words_of(value: Any) -> str:
    """A parameter in words that are the same in every process."""
    named = callable(value) and hasattr(value, "__qualname__")
    return value.__qualname__ if named else ADDRESS.sub("", repr(value))


def table_print(table: TrainingRows) -> str:
    """A digest of a table to train on: the sums of its columns, some of its rows, targets and weights; by rank."""
    some = np.unique(np.linspace(0, len(table) - 1, KNOWN_ROWS).astype(np.intp))[: len(table)]
    y = table.y if table.y is None or table.y.ndim == 1 else table.y[some]
    known = {"sums": vars(table.sums), "rows": table.X[some], "y": y, "weight": table.weight}
    return ", ".join(gathered(checksum(known)))
