"""One fit by several processes, each of which reads its own rows of a file: under torchrun, Ray Train or Spark.

    torchrun --nproc-per-node=2 docs/recipes/fit_in_parts.py table.f4 30 model.joblib
    python docs/recipes/fit_in_parts.py table.f4 30 model.joblib --engine ray --processes 2
    python docs/recipes/fit_in_parts.py table.f4 30 model.joblib --engine spark --processes 2

The table is a file of float32 numbers, row by row, that all machines can read. Ray and Spark come with
`pip install "skvae[distributed]"`; Spark needs Java.
"""

from __future__ import annotations

import argparse
import os
from datetime import timedelta
from pathlib import Path

import joblib
import numpy as np
import torch.distributed as dist

from skvae import VAETransformer


def fit_in_parts(file: str, n_columns: int, model_file: str) -> None:
    """Fit to this process' rows of a file, together with all others; the first process saves the model."""
    started_here = not dist.is_initialized()
    if started_here:  # Ray Train has done it
        dist.init_process_group("gloo", timeout=timedelta(minutes=5))
    rank, n_ranks = dist.get_rank(), dist.get_world_size()
    n_rows = Path(file).stat().st_size // (4 * n_columns)
    first, last = (n_rows * r // n_ranks for r in (rank, rank + 1))
    X = np.memmap(file, np.float32, "r", offset=4 * n_columns * first, shape=(last - first, n_columns))
    vae = VAETransformer(4, batch_size=1000, max_iter=20, random_state=0).fit(X)
    if rank == 0:
        joblib.dump(vae, model_file)
    if started_here:
        dist.destroy_process_group()


def on_ray(task: tuple[str, int, str], processes: int) -> None:
    """The fit as workers of a cluster, whose address RAY_ADDRESS holds; without one, of this machine."""
    # By themselves Ray's processes give way to all others: workers of a busy machine are then not there in time, are
    # ended and started anew, without end.
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "300")

    import ray
    from ray.train import ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    if "RAY_ADDRESS" not in os.environ:  # as many CPUs as workers, or it waits for more for ever
        quiet = ray.LoggingConfig(log_level="ERROR")
        ray.init("local", num_cpus=processes, include_dashboard=False, logging_config=quiet)
    scaling = ScalingConfig(num_workers=processes, use_gpu=False)
    TorchTrainer(lambda: fit_in_parts(*task), torch_config=TorchConfig("gloo"), scaling_config=scaling).fit()
    ray.shutdown()


def on_spark(task: tuple[str, int, str], processes: int) -> None:
    """The fit as processes that Spark starts on this machine."""
    from pyspark.ml.torch.distributor import TorchDistributor
    from pyspark.sql import SparkSession

    spark = SparkSession.builder.master(f"local[{processes}]").getOrCreate()
    TorchDistributor(num_processes=processes, local_mode=True, use_gpu=False).run(fit_in_parts, *task)
    spark.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("n_columns", type=int)
    parser.add_argument("model_file")
    parser.add_argument("--engine", choices=["torchrun", "ray", "spark"], default="torchrun")
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    # Workers have folders of their own.
    task = str(Path(args.file).resolve()), args.n_columns, str(Path(args.model_file).resolve())
    if args.engine == "torchrun":
        fit_in_parts(*task)
    else:
        {"ray": on_ray, "spark": on_spark}[args.engine](task, args.processes)


if __name__ == "__main__":
    main()
