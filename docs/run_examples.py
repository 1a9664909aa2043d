"""Run the examples in one process, warnings being errors, and keep the pictures they draw.

python docs/run_examples.py [--output FOLDER] [NAME ...]

Names are those of docs/examples/plot_NAME.py. Without any, all are run but the quickstart, which is a command by
itself.
"""

import argparse
import os
import runpy
import sys
import tempfile
import time
import warnings
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

EXAMPLES = Path(__file__).resolve().parent / "examples"


def run(name: str, folder: Path) -> int:
    """Run an example as a program, and save each figure it leaves open as NAME.png, NAME_2.png, ..."""
    script = str(EXAMPLES / f"plot_{name}.py")
    sys.argv = [script]
    with warnings.catch_warnings():
        runpy.run_path(script, run_name="__main__")
    figures = plt.get_fignums()
    for i, figure in enumerate(figures):
        plt.figure(figure).savefig(folder / f"{name}{f'_{i + 1}' if i else ''}.png", dpi=110)
    plt.close("all")
    plt.rcdefaults()
    mpl.use("Agg")
    return len(figures)


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the examples, and keep the pictures they draw.")
    parser.add_argument("names", nargs="*", help="as in docs/examples/plot_NAME.py")
    parser.add_argument("--output", type=Path, help="a folder for the pictures")
    asked = parser.parse_args()
    names = asked.names or sorted(path.stem.removeprefix("plot_") for path in EXAMPLES.glob("plot_*.py"))
    warnings.simplefilter("error")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) if asked.output is None else asked.output.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        os.chdir(scratch)
        for name in names if asked.names else [name for name in names if name != "quickstart"]:
            began = time.process_time()
            count = run(name, folder)
            if not count:
                raise RuntimeError(f"plot_{name}.py draws nothing.")
            print(f"--- {name}: {count} pictures, {time.process_time() - began:.1f} s of processor time\n", flush=True)


if __name__ == "__main__":
    main()
