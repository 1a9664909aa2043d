"""What convolutions and a pixel-by-pixel decoder bring on images, beside perceptrons with the same latents and epochs.

MNIST at 14 x 14 (means of 2 x 2 pixels), `--rows` training rows and 500 test rows, 10 latents, batches of 50, 20
epochs all of which run (the best by a tenth of the rows is kept). Two tables:
- grey values under `Gaussian("shared")`: perceptrons of three sizes and `Conv`, as encoder and decoder both or one of
  them. Each network has the better of the steps 1e-3 and 3e-3, by the rows held out in its fit.
- zeros and ones, drawn once with the grey values as probabilities: what the decoder is, behind the same perceptron;
  step 3e-3. Bits per dimension are minus the log-likelihood in bits over 196, a bound with as many draws for all.
Nats are log-likelihoods of test rows in data units, medians over seeds, which deal the rows anew; seconds are process
time on one thread: of a fit, and of drawing 100 rows. "told" are nats that the latents tell of a row. `--side 28`
looks at whole images, which takes ten times as long.
Prediction: Conv on both sides ends above the best perceptron of three, and PixelCNN below the plain decoder and below
Conv in bits per dimension, while its latents tell less.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from _measure import verdict
from _tables import print_table
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from skvae import MLP, Gaussian, VAETransformer
from skvae.networks import Conv, Network, PixelCNN

Array = NDArray[np.float64]
STEPS = (1e-3, 3e-3)
N_TEST, N_DRAWN = 500, 100
PERCEPTRONS = {f"MLP({sizes})": MLP(sizes) for sizes in ((128,), (512,), (256, 256))}


def grey_networks(shape: tuple[int, int]) -> dict[str, tuple[Network, Network]]:
    """Encoder and decoder by name."""
    plain, conv = MLP((256, 256)), Conv(shape)
    sides = {"Conv, MLP((256, 256))": (conv, plain), "MLP((256, 256)), Conv": (plain, conv), "Conv": (conv, conv)}
    return {**{name: (network, network) for name, network in PERCEPTRONS.items()}, **sides}


def binary_networks(shape: tuple[int, int]) -> dict[str, tuple[Network, Network]]:
    """The same, with one encoder."""
    decoders: dict[str, Network] = {
        **PERCEPTRONS,
        "Conv": Conv(shape),
        "PixelCNN, 16 channels, 2 layers": PixelCNN(shape, 16, n_layers=2),
        "PixelCNN": PixelCNN(shape),
    }
    return {name: (MLP((256, 256)), decoder) for name, decoder in decoders.items()}


class Measured(NamedTuple):
    nats: float
    held_out: float
    fit: float
    sample: float
    told: float


def measured(vae: VAETransformer, train: Array, test: Array) -> Measured:
    """One fit, scored and drawn from."""
    began = time.process_time()
    vae.fit(train)
    fitted = time.process_time()
    vae.sample(N_DRAWN, random_state=0)
    drawn = time.process_time()
    told = float(vae.latent_information_.sum())
    return Measured(vae.score(test), max(vae.validation_curve_), fitted - began, drawn - fitted, told)


def rows(data: Path, side: int, n_rows: int, seed: int) -> tuple[Array, Array]:
    """Training rows and test rows, grey values in [0, 1]."""
    file, rng = np.load(data / "mnist.npz"), np.random.default_rng(seed)
    chosen = [rng.permutation(file[key])[:n] for key, n in (("X_train", n_rows), ("X_test", N_TEST))]
    width = 28 // side
    train, test = (x.reshape(-1, side, width, side, width).mean(axis=(2, 4)).reshape(len(x), -1) / 255 for x in chosen)
    return train, test


def compared(
    networks: dict[str, tuple[Network, Network]],
    likelihood: Gaussian | str,
    tables: Sequence[tuple[Array, Array]],
    steps: Sequence[float],
    epochs: int,
) -> dict[str, list[Measured]]:
    """For every pair of networks and seed, the fit at the step whose held-out rows are likeliest."""
    found: dict[str, list[Measured]] = {name: [] for name in networks}
    for seed, (train, test) in enumerate(tables):
        for name, (encoder, decoder) in networks.items():
            fits = []
            for step in steps:
                vae = VAETransformer(
                    10,
                    likelihood=likelihood,
                    encoder=encoder,
                    decoder=decoder,
                    max_iter=epochs,
                    n_iter_no_change=np.inf,
                    batch_size=50,
                    learning_rate_init=step,
                    random_state=seed,
                )
                fits.append(measured(vae, train, test))
            found[name].append(max(fits, key=lambda fit: fit.held_out))
            last = found[name][-1]
            print(f"seed {seed}, {name}: {last.nats:.2f} nats, fit {last.fit:.1f} s", flush=True)
    return found


def medians(found: dict[str, list[Measured]]) -> dict[str, Measured]:
    return {name: Measured(*np.median(np.array(fits), axis=0).tolist()) for name, fits in found.items()}


def lines(found: dict[str, list[Measured]], n_pixels: int, markdown: bool) -> None:
    """The table: medians, and the range over seeds."""
    table = []
    for name, m in medians(found).items():
        nats = [fit.nats for fit in found[name]]
        span = f"{min(nats):.1f} to {max(nats):.1f}"
        bits = [f"{-m.nats / np.log(2) / n_pixels:.4f}"] if m.nats < 0 else []
        table.append([name, f"{m.nats:.2f}", span, *bits, f"{m.told:.1f}", f"{m.fit:.1f}", f"{m.sample:.2f}"])
    header = ["network", "nats", "over seeds", *(["bits/dim"] if bits else []), "told", "fit, s", f"draw {N_DRAWN}, s"]
    print()
    print_table(header, table, markdown)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with mnist.npz")
    parser.add_argument("--tables", nargs="+", choices=["grey", "binary"], default=["grey", "binary"])
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--side", type=int, choices=[14, 28], default=14)
    parser.add_argument("--markdown", action="store_true")
    args = parser.parse_args(argv)
    warnings.simplefilter("ignore", ConvergenceWarning)
    shape, n_pixels = (args.side, args.side), args.side**2
    grey = [rows(args.data, args.side, args.rows, seed) for seed in range(args.seeds)]
    verdicts = []
    with threadpool_limits(1):
        if "grey" in args.tables:
            found = compared(grey_networks(shape), Gaussian("shared"), grey, STEPS, args.epochs)
            lines(found, n_pixels, args.markdown)
            nats = {name: m.nats for name, m in medians(found).items()}
            best = max(PERCEPTRONS, key=lambda name: nats[name])
            claim = f"Conv {nats['Conv']:.2f} nats, above the best perceptron's {nats[best]:.2f}"
            verdicts.append(verdict(claim, nats["Conv"] > nats[best]))
        if "binary" in args.tables:
            draws = [np.random.default_rng(seed) for seed in range(args.seeds)]
            flags = [
                tuple((rng.random(x.shape) < x).astype(float) for x in table)
                for rng, table in zip(draws, grey, strict=True)
            ]
            found = compared(binary_networks(shape), "bernoulli", flags, STEPS[1:], args.epochs)
            lines(found, n_pixels, args.markdown)
            bits = {name: -m.nats / np.log(2) / n_pixels for name, m in medians(found).items()}
            best = min((name for name in bits if not name.startswith("PixelCNN")), key=lambda name: bits[name])
            claim = (
                f"PixelCNN {bits['PixelCNN']:.4f} bits/dim, below the best plain decoder's {bits[best]:.4f} ({best})"
            )
            verdicts.append(verdict(claim, bits["PixelCNN"] < bits[best]))
    print()
    print("\n".join(verdicts))


if __name__ == "__main__":
    main()
