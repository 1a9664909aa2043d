"""Every objective and every prior on MNIST: what codes, reconstructions and samples each one gives.

Protocol: the first --rows training images and --test test images of mnist.npz in [0, 1], averaged over 2 x 2 pixels for
--size 14. One network for all (--network mlp: 128 relu units at 14 x 14, 512 and 256 at 28 x 28; conv: `Conv`),
`Gaussian(noise="shared")`, batches of 100 rows, --epochs epochs without early stopping, everything else at its
defaults; each objective of `skvae.objectives.OBJECTIVES` that needs no labels with the prior N(0, I), and the ELBO with
every prior of `skvae.priors.PRIORS`. Of the test rows, means over --seeds:
- 5-NN: accuracy of the 5 nearest training codes; NMI: of k-means with 10 clusters on the codes, beside the digits;
- trust: trustworthiness of 1000 codes, 12 neighbours;
- MSE: of reconstructed pixels; nats: `score`, a row, where there is a density.
Beside them PCA, the pixels themselves, and UMAP (its codes alone) where umap-learn is installed.
--best trains what reached the goals at 28 x 28 (`BEST`) on all 60,000 rows: minutes on an accelerator, an hour or more
without. --sheet FILE draws means of p(x|z), z from p(z), of every system that has them, and codes where J is 2.
Most are still improving at the last epoch: the table says how they differ at a budget, not which one is best.
Goals: J = 2 5-NN >= .79 and J = 10 >= .975 at 28 x 28 by the best one.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from _measure import rewrite, verdict
from _tables import format_table, print_table
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.manifold import trustworthiness
from sklearn.metrics import normalized_mutual_info_score
from sklearn.neighbors import KNeighborsClassifier

from skvae import Gaussian, VAETransformer
from skvae.networks import Conv, Network
from skvae.objectives import OBJECTIVES
from skvae.priors import PRIORS

COMMAND = "python benchmarks/systems.py"
DOCS = Path(__file__).parents[1] / "docs" / "relatives.md"
HIDDEN = {14: (128,), 28: (512, 256)}
MEASURES = ["5-NN", "NMI", "trust", "MSE", "nats"]
EPOCHS = 15
SEEN, DRAWN = 1000, 16  # rows whose neighbours are compared; pictures a system on the sheet
WITHOUT_LABELS = [name for name, make in OBJECTIVES.items() if make().target is None]
PEERS = ("pixels", "PCA", "UMAP")
ANCHORS = """Anchors, a convolutional network of 64, 128 and 512 units, 30 epochs, 50,000 rows:
  5-NN  J=2: AE .793, VAE .765, PCA .420   J=64: AE .976, VAE .979, PCA .973
  trustworthiness  J=2: VAE .951, PCA .743
  NMI of k-means   J=2: VAE .547, PCA .323
  MSE  J=2: VAE .0371, PCA .0557   J=64: VAE .0024, PCA .0090"""

Array = NDArray[np.floating]


class Data(NamedTuple):
    """Images as rows, and their digits."""

    train: Array
    digits: NDArray[np.integer]
    test: Array
    test_digits: NDArray[np.integer]

    @property
    def side(self) -> int:
        return int(np.sqrt(self.train.shape[1]))


def load(folder: Path, rows: int, test: int, size: int) -> Data:
    """MNIST in [0, 1] as float32."""

    def images(pixels: NDArray[np.integer]) -> Array:
        shape = -1, size, 28 // size, size, 28 // size
        return (pixels.reshape(shape).mean((2, 4)) / 255).reshape(-1, size**2).astype(np.float32)

    with np.load(folder / "mnist.npz") as file:
        some, other = file["X_train"][:rows], file["X_test"][:test]
        return Data(images(some), file["y_train"][:rows], images(other), file["y_test"][:test])


def both(network: Network) -> dict[str, Network]:
    """A network as encoder and decoder."""
    return {"encoder": network, "decoder": network}


@dataclass(frozen=True)
class System:
    """One line of the table: a peer, or the parameters of a VAETransformer beside those that all share."""

    name: str
    parameters: dict[str, Any] = field(default_factory=dict)
    rows: int = 5000


# What reached the goals at 28 x 28, by the number of latents: the best of seven settings with two latents and of nine
# with ten, each trained for 150 s, sixteen at a time, on one H200. They had .881 and .977 of 10,000 test rows; the best
# ELBO had .854 and .968, or .972 with beta=0.5.
FREE = {"objective": "autoencoder", "init": "random", "batch_size": 200}
BEST = {
    2: System("autoencoder, 1024-512-256", {**FREE, "hidden_layer_sizes": (1024, 512, 256), "max_iter": 53}, 60_000),
    10: System(
        "autoencoder, Conv", {**FREE, **both(Conv((28, 28), hidden_layer_sizes=(256,))), "max_iter": 32}, 60_000
    ),
}
GOALS = {2: 0.79, 10: 0.975}


def systems(objectives: Sequence[str], priors: Sequence[str], epochs: int) -> list[System]:
    """Every objective as it is by default, but for epochs of warm-up, and the ELBO with every prior."""
    found = []
    for name in objectives:
        objective = OBJECTIVES[name]()
        if objective.ramp > epochs:
            objective.set_params(warmup=epochs // 2)
        found.append(System(name, {"objective": objective}))
    return found + [System(f"elbo, {name} prior", {"prior": name}) for name in priors if name != "normal"]


@dataclass(frozen=True)
class Task:
    """One fit: a system with so many latents, and all that says on what and how."""

    system: System
    components: int
    seed: int
    options: argparse.Namespace


class Result(NamedTuple):
    """What a task found; NaN where a system has no such number."""

    measures: list[float]
    seconds: float
    drawn: Array | None = None
    codes: Array | None = None
    epochs: int = 0
    failed: str = ""


def estimator(task: Task, side: int) -> VAETransformer:
    options = task.options
    networks = both(Conv((side, side))) if options.network == "conv" else {}
    shared = {
        "likelihood": Gaussian(noise="shared"),
        "hidden_layer_sizes": HIDDEN[side],
        "batch_size": 100,
        "max_iter": EPOCHS,
        "early_stopping": False,
        "device": options.device,
        "random_state": task.seed,
        **networks,
    }
    asked = {} if options.epochs is None else {"max_iter": options.epochs}
    return VAETransformer(task.components, **{**shared, **task.system.parameters, **asked})


def run(task: Task) -> Result:
    """Fit and measure, in a process of its own."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)
    options = task.options
    data = load(options.data, options.rows or task.system.rows, options.test, options.size)
    try:
        return peer(task, data) if task.system.name in PEERS else ours(task, data)
    except Exception as error:  # the other systems go on
        return Result([np.nan] * len(MEASURES), np.nan, failed=f"{type(error).__name__}: {error}")


def ours(task: Task, data: Data) -> Result:
    began = time.perf_counter()
    vae = estimator(task, data.side).fit(data.train)
    seconds = time.perf_counter() - began
    codes, test_codes = vae.transform(data.train), vae.transform(data.test)
    error = float(np.square(vae.inverse_transform(test_codes) - data.test).mean())
    nats = vae.score(data.test) if hasattr(vae, "score") else np.nan
    measures = [*of_codes(codes, test_codes, data), error, nats]
    return Result(measures, seconds, drawn(vae, task.seed), test_codes, vae.n_iter_)


@torch.no_grad()
def drawn(vae: VAETransformer, seed: int) -> Array | None:
    """Means of p(x|z), z from p(z), in grey values; None where p(z) is not trained."""
    if not hasattr(vae, "sample"):
        return None
    model = vae.module_
    rng = torch.Generator(next(model.parameters()).device).manual_seed(seed)
    z = model.prior.sample(DRAWN, rng, torch.float64)
    return model.units.to_data(model.mean(z)).cpu().numpy()


def peer(task: Task, data: Data) -> Result:
    """Pixels as they are, PCA, or UMAP."""
    began = time.perf_counter()
    if task.system.name == "pixels":
        return Result([*of_codes(data.train, data.test, data), np.nan, np.nan], 0.0)
    if task.system.name == "UMAP":
        from umap import UMAP

        model = UMAP(n_components=task.components, random_state=task.seed, n_jobs=1)
    else:
        model = PCA(task.components, svd_solver="full")
    codes = model.fit_transform(data.train)
    seconds, test_codes = time.perf_counter() - began, model.transform(data.test)
    error = nats = np.nan
    if task.system.name == "PCA":
        error = float(np.square(model.inverse_transform(test_codes) - data.test).mean())
        nats = model.score(data.test.astype(np.float64))
    return Result([*of_codes(codes, test_codes, data), error, nats], seconds, None, test_codes)


def of_codes(codes: Array, test_codes: Array, data: Data) -> list[float]:
    """What the codes say of the digits, and of the images' neighbours."""
    accuracy = KNeighborsClassifier(5).fit(codes, data.digits).score(test_codes, data.test_digits)
    clusters = KMeans(10, n_init=3, random_state=0).fit_predict(test_codes)
    near = trustworthiness(data.test[:SEEN], test_codes[:SEEN], n_neighbors=12)
    return [accuracy, normalized_mutual_info_score(data.test_digits, clusters), near]


def every(tasks: Sequence[Task], jobs: int) -> Iterator[tuple[Task, Result]]:
    """Results in the order of tasks, several processes at work."""
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from zip(tasks, pool.map(run, tasks), strict=True)


# Tables and the sheet


def cell(measure: str, value: float) -> str:
    if np.isnan(value):
        return ""
    return f"{value:.{ {'MSE': 4, 'nats': 1}.get(measure, 3) }f}"


def table(found: dict[tuple[str, int], list[Result]], components: Sequence[int], timed: bool) -> list[list[str]]:
    """The header, and one line a system: the measures for every number of latents, means over the seeds."""
    rows = [["", *(f"{name}, J={J}" for J in components for name in [*MEASURES, *(["s"] if timed else [])])]]
    for name in dict.fromkeys(name for name, _ in found):
        rows.append([name])
        for J in components:
            results = found[name, J]
            means = np.mean([result.measures for result in results], axis=0)
            rows[-1] += [cell(*pair) for pair in zip(MEASURES, means, strict=True)]
            if timed:
                seconds = np.mean([result.seconds for result in results])
                rows[-1].append("failed" if np.isnan(seconds) else f"{seconds:.0f}")
    return rows


def draw_sheet(found: dict[tuple[str, int], list[Result]], data: Data, components: int, path: Path) -> None:
    """A line of images for every system that has draws; test images above."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    first = {name: results[0] for (name, J), results in found.items() if components == J}
    lines = {"test images": data.test[:DRAWN]} | {n: r.drawn for n, r in first.items() if r.drawn is not None}
    figure, axes = plt.subplots(len(lines), 1, figsize=(11, 0.75 * len(lines)), layout="constrained", squeeze=False)
    for ax, (name, images) in zip(axes[:, 0], lines.items(), strict=True):
        strip = np.hstack([np.pad(image.reshape(data.side, -1), ((0, 0), (1, 1))) for image in images])
        ax.imshow(strip, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
        ax.set_ylabel(name, rotation=0, ha="right", va="center")
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    figure.savefig(path, dpi=130)
    print(f"Sheet: {path}")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with mnist.npz")
    parser.add_argument("--rows", type=int, help="default: 5000; with --best 60,000")
    parser.add_argument("--test", type=int, default=2000)
    parser.add_argument("--size", type=int, choices=[14, 28], default=14)
    parser.add_argument("--epochs", type=int, help=f"default: {EPOCHS}; with --best its own")
    parser.add_argument("--components", type=int, nargs="+", default=[10, 2])
    parser.add_argument("--objectives", type=lambda text: text.split(","), default=WITHOUT_LABELS)
    parser.add_argument("--priors", type=lambda text: text.split(","), default=list(PRIORS))
    parser.add_argument("--network", choices=["mlp", "conv"], default="mlp")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--sheet", type=Path, help="draw samples to this file")
    parser.add_argument("--best", action="store_true", help="only what reached the goals")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--docs", type=Path, nargs="?", const=DOCS, help="rewrite the table in docs/relatives.md")
    return parser.parse_args()


def main() -> None:
    args = parsed()
    found: dict[tuple[str, int], list[Result]] = {}
    for task, result in every(best_tasks(args) if args.best else tasks_of(args), args.jobs):
        found.setdefault((task.system.name, task.components), []).append(result)
        said = "  ".join(f"{n} {cell(n, v)}" for n, v in zip(MEASURES, result.measures, strict=True) if not np.isnan(v))
        print(f"{task.system.name}, J={task.components}, seed {task.seed}: {result.failed or said}", flush=True)
    header, *rows = table(found, args.components, timed=True)
    print()
    print_table(header, rows, args.markdown)
    print("", ANCHORS, *verdicts(found, args), sep="\n", flush=True)
    if args.sheet:
        draw_sheet(found, load(args.data, DRAWN, DRAWN, args.size), args.components[0], args.sheet)
    if args.docs:
        header, *rows = table(found, args.components, timed=False)
        rewrite(args.docs, "systems", COMMAND, format_table(header, rows, markdown=True))


def tasks_of(args: argparse.Namespace) -> list[Task]:
    """Every system, and the peers that are there."""
    peers = [name for name in PEERS if name != "UMAP" or find_spec("umap")]
    if "UMAP" not in peers:
        print("UMAP is left out: umap-learn is not installed.", flush=True)
    lines = [*map(System, peers), *systems(args.objectives, args.priors, args.epochs or EPOCHS)]
    return [Task(line, J, seed, args) for line in lines for J in args.components for seed in args.seeds]


def best_tasks(args: argparse.Namespace) -> list[Task]:
    """What reached the goals, on all test rows."""
    args.size, args.test = 28, 10_000
    return [Task(BEST[J], J, seed, args) for J in args.components for seed in args.seeds]


def verdicts(found: dict[tuple[str, int], list[Result]], args: argparse.Namespace) -> list[str]:
    """Whether the goals at 28 x 28 are reached by one of the systems."""
    said = []
    for J in set(args.components) & set(GOALS) if args.size == 28 else ():
        reached = {
            name: float(np.mean([result.measures[0] for result in results]))
            for (name, components), results in found.items()
            if components == J and name not in PEERS
        }
        best = max(reached, key=lambda name: np.nan_to_num(reached[name]))
        said.append(verdict(f"J={J}: 5-NN {reached[best]:.3f} ({best}) at least {GOALS[J]}", reached[best] >= GOALS[J]))
    return said


if __name__ == "__main__":
    main()
