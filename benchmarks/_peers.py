"""PyOD's and pythae's VAE behind one call, PyOD's detectors behind another, and the processes that time them.

The two live in an environment of their own (requirements-peers.txt), whose interpreter runs this file with a job as
JSON; its answer, in seconds, is the last word it prints. Both get perceptrons of the same sizes as ours and keep their
own defaults for everything a job does not name. With --serve the same interpreter runs PyOD's detectors at their
defaults, one request after the other. This file imports no skvae.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

PEERS = ("PyOD", "pythae")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

Array = NDArray[np.floating]
Fit = Callable[[Array, int], Any]
Detect = Callable[[str, Array, Array | None, int], tuple[Array, float]]


class Job(NamedTuple):
    """A network and how to train it; None leaves a number to the competitor. Peers know two of the likelihoods."""

    name: str
    latents: int
    hidden: int
    batch: int | None = None
    likelihood: str = "gaussian"

    @property
    def bernoulli(self) -> bool:
        return self.likelihood == "bernoulli"


class Layers(NamedTuple):
    """Weights of two perceptrons with relu units; the encoder emits means, then log variances."""

    encoder: list[nn.Linear]
    decoder: list[nn.Linear]


def fit_pyod(X: Array, job: Job, epochs: int | None = None) -> Layers:
    from pyod.models.vae import VAE

    hidden = [job.hidden]
    vae = VAE(
        encoder_neuron_list=hidden,
        decoder_neuron_list=hidden,
        latent_dim=job.latents,
        verbose=0,
        **given(epoch_num=epochs, batch_size=job.batch),
    ).fit(X)
    model = vae.model
    encoder, decoder = (
        [block.linear for block in part if hasattr(block, "linear")] for part in (model.encoder, model.decoder)
    )
    return Layers([*encoder, stacked(model.encoder_mu, model.encoder_logvar)], decoder)


def fit_pythae(X: Array, job: Job, epochs: int | None = None) -> Layers:
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    n_features = X.shape[1]

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(n_features, job.hidden), nn.ReLU())
            self.mean, self.log_var = (nn.Linear(job.hidden, job.latents) for _ in range(2))

        def forward(self, x: torch.Tensor) -> ModelOutput:
            h = self.body(x)
            return ModelOutput(embedding=self.mean(h), log_covariance=self.log_var(h))

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            last = [nn.Sigmoid()] if job.bernoulli else []
            layers = [nn.Linear(job.latents, job.hidden), nn.ReLU(), nn.Linear(job.hidden, n_features)]
            self.body = nn.Sequential(*layers, *last)

        def forward(self, z: torch.Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=self.body(z))

    loss = "bce" if job.bernoulli else "mse"
    model = VAE(
        VAEConfig(input_dim=(n_features,), latent_dim=job.latents, reconstruction_loss=loss), Encoder(), Decoder()
    )
    with tempfile.TemporaryDirectory() as folder:
        config = BaseTrainerConfig(output_dir=folder, **given(num_epochs=epochs, per_device_train_batch_size=job.batch))
        rows = BaseDataset(torch.tensor(X, dtype=torch.float32), torch.zeros(len(X)))
        trainer = BaseTrainer(model, rows, training_config=config)
        trainer.train()
    best = trainer._best_model
    return Layers(
        [best.encoder.body[0], stacked(best.encoder.mean, best.encoder.log_var)],
        [best.decoder.body[0], best.decoder.body[2]],
    )


FITS = {"PyOD": fit_pyod, "pythae": fit_pythae}


def detect(name: str, train: Array, test: Array | None, seed: int) -> tuple[Array, float]:
    """Anomaly scores of the test rows, or of the training rows themselves, and the seconds of fit and score."""
    from pyod.models.auto_encoder import AutoEncoder
    from pyod.models.vae import VAE

    start = time.perf_counter()
    model = {"VAE": VAE, "AutoEncoder": AutoEncoder}[name](random_state=seed, verbose=0).fit(train)
    scores = model.decision_scores_ if test is None else model.decision_function(test)
    return scores, time.perf_counter() - start


def given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


@torch.no_grad()
def stacked(first: nn.Linear, second: nn.Linear) -> nn.Linear:
    """One layer that emits the outputs of `first`, then those of `second`."""
    layer = nn.Linear(first.in_features, first.out_features + second.out_features)
    layer.weight.copy_(torch.cat([first.weight, second.weight]))
    layer.bias.copy_(torch.cat([first.bias, second.bias]))
    return layer


def save(layers: Layers, path: Path) -> None:
    arrays = {
        f"{part}.{i}.{name}": value.detach().numpy()
        for part, linears in layers._asdict().items()
        for i, linear in enumerate(linears)
        for name, value in linear.named_parameters()
    }
    np.savez(path, **arrays)


def seconds_an_epoch(fit: Fit, X: Array, batch: int, least: float) -> float:
    """The time of 1 + n epochs less that of one, divided by n: what a fit does once is in neither.

    n is raised until the difference is at least `least` seconds.
    """

    def timed(epochs: int) -> float:
        start = time.perf_counter()
        fit(X, epochs)
        return time.perf_counter() - start

    fit(X[: 4 * batch], 1)  # first calls of everything
    one, n = timed(1), 1
    while (spent := timed(1 + n) - one) < least:
        n *= 4
    return spent / n


def run_job(python: str, script: str, request: dict[str, Any], one_thread: bool, limit: float | None = None) -> float:
    """The seconds that `script` answers to `request`, in a process with one thread or as many as it likes.

    A process that takes longer than `limit` seconds is ended, and its answer is infinite.
    """
    environment = {name: value for name, value in os.environ.items() if name not in THREAD_VARIABLES}
    if one_thread:
        environment |= dict.fromkeys(THREAD_VARIABLES, "1")
    command = [python, script, "--job", json.dumps(request)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=limit)
    except subprocess.TimeoutExpired:
        return math.inf
    if done.returncode:
        raise SystemExit(f"{request} failed:\n{done.stderr[-3000:]}")
    return float(done.stdout.split()[-1])


@contextmanager
def detectors(python: str) -> Iterator[Detect]:
    """`detect` in one process of the interpreter `python`, with one thread, for as long as the context lasts."""
    command = [python, str(Path(__file__)), "--serve"]
    options: dict[str, Any] = {"env": os.environ | dict.fromkeys(THREAD_VARIABLES, "1"), "text": True}
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        rows, scores = Path(folder) / "rows.npz", Path(folder) / "scores.npy"

        def call(name: str, train: Array, test: Array | None, seed: int) -> tuple[Array, float]:
            np.savez(rows, **given(train=train, test=test))
            request = {"name": name, "rows": str(rows), "seed": seed, "scores": str(scores)}
            if process.poll() is None:
                print(json.dumps(request), file=process.stdin, flush=True)
            answer = json.loads(process.stdout.readline() or '{"error": "the process has ended"}')
            if "error" in answer:
                raise RuntimeError(answer["error"])
            return np.load(scores), answer["seconds"]

        yield call


def serve() -> None:
    """Answer every request on stdin with the seconds that `detect` took, or with what went wrong."""
    for line in sys.stdin:
        request = json.loads(line)
        try:
            with np.load(request["rows"]) as rows, redirect_stdout(sys.stderr):
                scores, seconds = detect(request["name"], rows["train"], rows.get("test"), request["seed"])
            np.save(request["scores"], scores)
            answer: dict[str, Any] = {"seconds": seconds}
        except Exception as error:
            answer = {"error": repr(error)}
        print(json.dumps(answer), flush=True)


def main() -> None:
    request = json.loads(sys.argv[-1])
    X, job = np.load(request["rows"]), Job(**request["job"])
    fit = FITS[job.name]
    if "least" in request:
        assert job.batch is not None
        answer = seconds_an_epoch(lambda rows, epochs: fit(rows, job, epochs), X, job.batch, request["least"])
    else:
        fit(X[:256], job, 1)  # first calls of everything
        start = time.perf_counter()
        layers = fit(X, job)
        answer = time.perf_counter() - start
        save(layers, request["weights"])
    print(answer)


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["--serve"] else main()
