"""An accelerator beside this machine's CPU, and beside the floor of its own operations and bytes. Under 8 minutes.

The floor is measured on each device first: a product of two large float32 matrices, as precise as fits are (TF32 off),
says operations a second; a copy of a large array bytes a second, each byte read and written.
- epochs: 60,000 x 784, perceptrons 784-500-20-500-784, Bernoulli, batches of 128 and of 1000, random start, no rows
  held out: MNIST from --data (mnist.npz), uniform numbers without. "products" are the float32 products of a step's
  layers and linear maps alone, forward and backward, launched on the device one by one.
- IWAE: the same rows (6000 of them), 784-200-50, 50 draws, batches of 100; its gradient is autograd's.
- detectors: VAEAnomalyDetector at its defaults on tables of ADBench from --data (adbench/*.npz, one-class protocol, one
  seed, see adbench.py), two generated ones without: seconds of fit and score_samples.
- search: VAETransformerCV over 1 to 32 latents, digits, 5 folds, one process.
Seconds of an epoch are medians over the epochs of one fit but the first, waiting for the device at the start of each;
those of other calls are of one whole call, after a short one that is not counted. floor = the larger of operations /
(operations a second) and bytes / (bytes a second): the products' operations, and the bytes that Adam reads and writes
(seven times those of the parameters) and that a batch is gathered by. Of detectors and searches only whole seconds
stand there, as their epochs are their own. Peak is torch.cuda.max_memory_allocated of the call; the CPU has none.
A part that would begin after --minutes is left out, and said to be.
Prediction for an H100: an epoch of batches of 1000 takes at most a tenth of the CPU's (16 cores), one of 128 a third; a
step of 128 rows takes more than 10 times its floor, as launching its kernels is what takes the time; IWAE at most a
tenth; detectors and searches, whose networks are small, longer than on the CPU. No peak is above 2 GB.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from _anomaly import load as load_anomalies
from _anomaly import skvae as detect
from _anomaly import split, standardised
from _measure import latent_table, verdict
from _tables import print_table
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning

from skvae import ELBO, IWAE, VAETransformer, VAETransformerCV

HEADER = ["call", "device", "s", "of the CPU's", "products, s", "floor, s", "of the floor", "peak MB"]
MOST_MB, LEAST_FLOORS = 2000, 10
# Seconds as a multiple of the CPU's, at most; what is not named here takes longer than there.
MOST_RATIO = {"epoch, 784-500-20, batch 128": 1 / 3, "epoch, 784-500-20, batch 1000": 0.1, "epoch, IWAE": 0.1}
STAMPS: list[float] = []


class Device(NamedTuple):
    """A device, and what it can do at most: multiply-adds count as two operations."""

    name: str
    operations: float
    bytes: float


class Layers(NamedTuple):
    """The sizes of a model's products: of the encoder's layers and linear map, and of the decoder's."""

    encoder: list[tuple[int, int]]
    decoder: list[tuple[int, int]]

    @classmethod
    def of(cls, n_columns: int, hidden: int, n_latents: int) -> Layers:
        encoder = [(n_columns, hidden), (hidden, 2 * n_latents), (n_columns, 2 * n_latents)]
        return cls(encoder, [(n_latents, hidden), (hidden, n_columns), (n_latents, n_columns)])

    def parameters(self) -> int:
        return sum(n_in * n_out for n_in, n_out in self.encoder + self.decoder)

    def operations(self, n_draws: int = 1) -> int:
        """Of a row in a step: forward, the weights' gradients, and the inputs', but for the data's."""
        n_columns = self.encoder[0][0]
        of_encoder = sum((2 if n_in == n_columns else 3) * n_in * n_out for n_in, n_out in self.encoder)
        return 2 * (of_encoder + n_draws * sum(3 * n_in * n_out for n_in, n_out in self.decoder))


class Cost(NamedTuple):
    """Seconds of an epoch or of a call; of its products alone and at the device's floor; bytes at the peak."""

    seconds: float
    products: float | None = None
    floor: float | None = None
    peak: int | None = None


class Stamped:
    """Notes when every epoch begins, all that was asked of the device being done."""

    def begin_epoch(self, model: Any, rows: Any, rng: Any, epoch: int) -> None:
        wait(str(rows.device))
        STAMPS.append(time.perf_counter())


class StampedELBO(Stamped, ELBO):
    pass


class StampedIWAE(Stamped, IWAE):
    pass


def normal(*shape: int, device: str) -> torch.Tensor:
    rng = torch.Generator(device).manual_seed(0)
    return torch.randn(shape, generator=rng, device=device)


def wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def timed(call: Callable[[], Any], device: str, repeats: int = 1) -> float:
    """Seconds of a call."""
    wait(device)
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    wait(device)
    return (time.perf_counter() - start) / repeats


def measured(device: str, quick: bool) -> Device:
    """Operations and bytes a second, the best of five tries."""
    size, numbers = (512, 2**20) if quick else (8192, 2**28) if device != "cpu" else (2048, 2**26)
    left, right, out = (normal(size, size, device=device) for _ in range(3))
    product = min(timed(lambda: torch.mm(left, right, out=out), device) for _ in range(5))
    source, target = (torch.zeros(numbers, device=device) for _ in range(2))
    copy = min(timed(lambda: target.copy_(source), device) for _ in range(5))
    return Device(device, 2 * size**3 / product, 8 * numbers / copy)


def floor(device: Device, layers: Layers, n_rows: int, batch: int, n_draws: int = 1) -> float:
    """Seconds that an epoch takes at least."""
    operations = n_rows * layers.operations(n_draws)
    moved = 4 * (7 * layers.parameters() * -(-n_rows // batch) + 2 * n_rows * layers.encoder[0][0])
    return max(operations / device.operations, moved / device.bytes)


@torch.inference_mode()
def products(device: Device, layers: Layers, n_rows: int, batch: int, n_draws: int = 1) -> float:
    """Seconds of an epoch's products alone."""
    batch = min(batch, n_rows)
    calls = []
    for part, rows in ((layers.encoder, batch), (layers.decoder, batch * n_draws)):
        for n_in, n_out in part:
            x, slope, weight = (normal(*s, device=device.name) for s in ((rows, n_in), (rows, n_out), (n_out, n_in)))
            calls += [(x, weight.T), (slope.T, x)]
            if n_in != layers.encoder[0][0]:
                calls.append((slope, weight))

    def step() -> None:
        for left, right in calls:
            torch.mm(left, right)

    step()
    n_steps = -(-n_rows // batch)
    return n_steps * timed(step, device.name, min(n_steps, 20))


def with_peak(call: Callable[[], Any], device: str) -> tuple[Any, int | None]:
    """What a call returns, and the most bytes that it had on the device."""
    if not device.startswith("cuda"):
        return call(), None
    torch.cuda.reset_peak_memory_stats()
    return call(), torch.cuda.max_memory_allocated()


def epoch(device: Device, X: Any, sizes: tuple[int, int], objective: Any, batch: int, n_epochs: int) -> Cost:
    """Of a fit's epochs but the first."""
    hidden, n_latents = sizes
    vae = VAETransformer(
        n_latents,
        likelihood="bernoulli",
        objective=objective,
        hidden_layer_sizes=hidden,
        init="random",
        max_iter=n_epochs + 2,
        batch_size=batch,
        early_stopping=False,
        keep_codes=False,
        device=device.name,
        random_state=0,
    )
    STAMPS.clear()
    _, peak = with_peak(lambda: vae.fit(X), device.name)
    layers, n_draws = Layers.of(X.shape[1], hidden, n_latents), objective.n_draws
    shape = layers, len(X), batch, n_draws
    return Cost(median(np.diff(STAMPS)[1:]), products(device, *shape), floor(device, *shape), peak)


def whole(call: Callable[[Any], Any], first: Any, device: Device) -> Cost:
    """Of `call(None)`, after `call(first)`."""
    call(first)
    seconds, peak = with_peak(lambda: timed(lambda: call(None), device.name), device.name)
    return Cost(seconds, peak=peak)


def pixels(data: Path | None, quick: bool) -> np.ndarray:
    n_rows = 256 if quick else 60_000
    if data is not None:
        return np.load(data / "mnist.npz")["X_train"].reshape(-1, 784)[:n_rows] / np.float32(255)
    return np.random.default_rng(0).random((n_rows, 784), dtype=np.float32)


def tables(data: Path | None, quick: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows to fit and rows to score."""
    if data is None:
        return [(X[::2], X[1::2]) for X in (latent_table(200 if quick else 4000, columns) for columns in (12, 40))]
    parts = [standardised(split(*table, "one-class", 0)) for table in load_anomalies(data).values()]
    return [(part.train, part.test) for part in parts[: 2 if quick else None] if part.test is not None]


def detectors(device: Device, found: list[tuple[np.ndarray, np.ndarray]]) -> Cost:
    def call(first: Any) -> None:
        for train, test in [first] if first is not None else found:
            detect(train, test, 0, device=device.name)

    return whole(call, tuple(part[:100] for part in found[0]), device)


def search(device: Device, X: np.ndarray, quick: bool) -> Cost:
    def call(n_epochs: int | None) -> None:
        sizes = [1, 2] if quick else [1, 2, 4, 8, 16, 32]
        most = n_epochs or (3 if quick else 200)
        VAETransformerCV(sizes, cv=2 if quick else 5, max_iter=most, random_state=0, device=device.name).fit(X)

    return whole(call, 1, device)


def parts(args: argparse.Namespace) -> Iterator[tuple[str, Callable[[Device], Cost]]]:
    """The calls to measure, by their names."""
    X, n_epochs = pixels(args.data, args.quick), 2 if args.quick else 5
    for batch in (128, 1000):
        yield (
            f"epoch, 784-500-20, batch {batch}",
            lambda device, batch=batch: epoch(device, X, (500, 20), StampedELBO(), batch, n_epochs),
        )
    some, draws = X[: 100 if args.quick else 6000], 2 if args.quick else 50
    yield (
        f"epoch, IWAE({draws}), 784-200-50",
        lambda device: epoch(device, some, (200, 50), StampedIWAE(draws), 100, 2),
    )
    found = tables(args.data, args.quick)
    yield f"detectors, {len(found)} tables", lambda device: detectors(device, found)
    digits = load_digits().data[: 100 if args.quick else None]
    yield "VAETransformerCV, digits", lambda device: search(device, digits, args.quick)


def row(name: str, device: Device, cost: Cost, cpu: Cost | None) -> list[str]:
    def shown(value: float | None, digits: str = ".4f") -> str:
        return "" if value is None else f"{value:{digits}}"

    of_cpu = None if cpu is None else cost.seconds / cpu.seconds
    of_floor = None if cost.floor is None else cost.seconds / cost.floor
    peak = None if cost.peak is None else cost.peak / 1e6
    ratios = shown(of_cpu, ".3f"), shown(cost.products), shown(cost.floor, ".5f"), shown(of_floor, ".1f")
    return [name, device.name, shown(cost.seconds), *ratios, shown(peak, ".0f")]


def verdicts(costs: dict[str, dict[str, Cost]], device: str) -> Iterator[str]:
    """What was predicted, for an accelerator."""
    for name, found in costs.items():
        if device == "cpu" or len(found) < 2:
            continue
        here, ratio = found[device], found[device].seconds / found["cpu"].seconds
        most = next((bar for start, bar in MOST_RATIO.items() if name.startswith(start)), None)
        if most is None:
            yield verdict(f"{name}: longer than on the CPU ({ratio:.2f} of it)", ratio > 1)
        else:
            yield verdict(f"{name}: at most {most:.2f} of the CPU's ({ratio:.2f})", ratio <= most)
        if name.endswith("batch 128") and here.floor is not None:
            floors = here.seconds / here.floor
            yield verdict(f"{name}: more than {LEAST_FLOORS} times its floor ({floors:.1f})", floors > LEAST_FLOORS)
        if here.peak is not None:
            yield verdict(f"{name}: at most {MOST_MB} MB ({here.peak / 1e6:.0f})", here.peak <= 1e6 * MOST_MB)


def compare(devices: list[Device], args: argparse.Namespace) -> dict[str, dict[str, Cost]]:
    """The costs of every part by its name and device, the accelerator first: the CPU may be left out."""
    began, costs = time.perf_counter(), dict[str, dict[str, Cost]]()
    for name, call in parts(args):
        for device in reversed(devices):
            if time.perf_counter() - began >= 60 * args.minutes:
                print(f"left out, as {args.minutes:g} minutes are over: {name}, {device.name}", flush=True)
            else:
                costs.setdefault(name, {})[device.name] = call(device)
    return costs


def main(arguments: list[str] | None = None) -> dict[str, dict[str, Cost]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help='"cpu" for a look at this script')
    parser.add_argument("--data", type=Path, help="folder with mnist.npz and adbench/*.npz")
    parser.add_argument("--minutes", type=float, default=5, help="no part begins after these")
    parser.add_argument("--quick", action="store_true", help="small tables, to see that all runs")
    parser.add_argument("--markdown", action="store_true")
    args = parser.parse_args(arguments)
    if args.device != "cpu" and not torch.cuda.is_available():
        raise SystemExit(f"There is no {args.device} here; --device cpu --quick runs the same without.")
    devices = [measured(name, args.quick) for name in dict.fromkeys(["cpu", args.device])]
    for device in devices:
        print(f"{device.name}: {device.operations / 1e9:.0f} Gflop/s, {device.bytes / 1e9:.1f} GB/s", flush=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", ".*, the largest of its candidates|.* keep fewer of the rows' neighbours")
        costs = compare(devices, args)
    rows = [
        row(name, device, found[device.name], found.get("cpu"))
        for name, found in costs.items()
        for device in devices
        if device.name in found
    ]
    print_table(HEADER, rows, args.markdown)
    print("\n".join(["", *verdicts(costs, args.device)]))
    return costs


if __name__ == "__main__":
    main()
