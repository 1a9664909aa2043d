"""Processes of one torch.distributed group for the tests, and what they do there: functions of a rank and its data.

They are forked by a server that has imported everything once, so that a fresh group takes a tenth of a second.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import tempfile
import warnings
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch.distributed as dist
from helpers import Watcher

from skvae import ELBO, Checkpoint, VAETransformer
from skvae._fit import learn_columns, prepare
from skvae._settings import FitSettings
from skvae._torch import resolve_device

CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(["skvae", "helpers"])
# Seconds until a rank gives up waiting, and until a test does.
TIMEOUT, PATIENCE = 60, 120


class Ranks:
    """A group of processes; called with a function of this module and a list of each rank's arguments."""

    def __init__(self, n_ranks=2):
        self.folder = tempfile.TemporaryDirectory()
        pipes = [CONTEXT.Pipe() for _ in range(n_ranks)]
        self.ends = [own for own, _ in pipes]
        self.processes = []
        for rank, (_, other) in enumerate(pipes):
            store = str(Path(self.folder.name) / "store")
            self.processes.append(CONTEXT.Process(target=_serve, args=(rank, n_ranks, store, other), daemon=True))
            self.processes[-1].start()
            other.close()  # a process that dies then closes the last copy of its end

    def __call__(self, function, *by_rank):
        """What every rank returns, or the exception that it raised; EOFError of one that died."""
        for end, arguments in zip(self.ends, by_rank, strict=True):
            end.send((function, arguments))
        return [self._answer(end) for end in self.ends]

    def _answer(self, end):
        assert end.poll(PATIENCE), "a rank does not answer"
        try:
            return end.recv()
        except EOFError as error:
            return error

    def close(self):
        for process in self.processes:
            process.kill()
            process.join()
        self.folder.cleanup()


def _serve(rank, n_ranks, store, pipe):
    warnings.simplefilter("ignore")
    where = {"init_method": f"file://{store}", "rank": rank, "world_size": n_ranks}
    dist.init_process_group("gloo", timeout=timedelta(seconds=TIMEOUT), **where)
    while True:
        function, arguments = pipe.recv()
        try:
            pipe.send(function(*arguments))
        except Exception as error:
            pipe.send(error)


def fit(estimator, *data):
    return estimator.fit(*data)


def partial_fit(estimator, *data):
    return estimator.partial_fit(*data)


def fit_with_file(estimator, X, path, last=None, kills=False):
    """A fit with a checkpoint, which the last rank breaks off in an epoch; the estimator, and how many it trained."""

    def act(epoch, *_):
        if epoch == last and dist.get_rank() == dist.get_world_size() - 1:
            if kills:
                os.kill(os.getpid(), signal.SIGKILL)
            raise ZeroDivisionError("broken off")

    estimator.set_callbacks(Checkpoint(path, 2), watcher := Watcher(act)).fit(X)
    return estimator.set_callbacks(), watcher.began.count("epoch")


def printed_by_fit(estimator, *data):
    """Whether a fit prints or warns."""
    with contextlib.redirect_stdout(io.StringIO()) as text, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        estimator.fit(*data)
    return bool(text.getvalue()), bool(caught)


def leading(X, noise):
    """The leading eigenvalues, and the matrix of projection on their vectors in some rows."""
    settings = FitSettings.of(VAETransformer(1), resolve_device("cpu"))
    reader, X = learn_columns(settings, X)
    table = reader.first_rows(X, None, None, settings.objective)
    cov = prepare(reader, table, settings, hold_out=False).cov
    cov.noise = noise
    values, vectors = cov.leading(2, np.ones(cov.n_columns))
    return values, (vectors @ vectors.T)[:3]


def statistics(estimator, X, sample_weight=None):
    """What a fit learns of the rows before there is a model."""
    settings = FitSettings.of(estimator, resolve_device("cpu"))
    reader, X = learn_columns(settings, X)
    table = reader.first_rows(X, None, sample_weight, settings.objective)
    found = prepare(reader, table, settings, hold_out=False)
    return {
        "mean": found.moments.mean,
        "std": found.moments.std,
        "covariance": found.cov.matrix,
        "copies": table.copies,
        "likelihood": repr(reader.likelihood),
        "schema": vars(reader.schema),
        "density": {name: value.numpy() for name, value in found.density.state_dict().items()},
        "leading": found.cov.leading(2, found.cov.diagonal**0.5 + 1e-9)[0],
    }


class Fails(ELBO):
    """Raises on one rank, in the middle of the second epoch."""

    def terms(self, emitted, batch, model, rng, epoch):
        if epoch == 2 and dist.get_rank() == 1:
            raise ZeroDivisionError("rank 1 divides by zero")
        return super().terms(emitted, batch, model, rng, epoch)


class Dies(ELBO):
    """Ends the process of one rank as the second epoch begins."""

    def begin_epoch(self, model, rows, rng, epoch):
        if epoch == 2 and dist.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
