"""Write every measured table of docs/ and README.md anew: run each command above one, and say what was skipped.

It takes hours; `--only` takes a part, and `--list` only says what would run. A command that needs data or peers which
are not given is skipped, one that fails is reported, and its table stays as it is.

    python benchmarks/all.py --data DIR [--peers PYTHON] [--only scaling.py ...] [--list]
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
MARK = re.compile(r"^<!-- .+ table: python (benchmarks/\w+\.py.*) -->$", re.MULTILINE)
WITHOUT_DATA = {"benchmarks/likelihood.py"}  # its table is of the data that scikit-learn bundles; --data adds others
NEEDS_PEERS = {"benchmarks/time_to_quality.py"}  # it has nothing else to compare with


def scripts() -> list[str]:
    """The commands of all tables, in the order of the pages, each once."""
    pages = [ROOT / name for name in ("docs/benchmarks.md", "docs/relatives.md", "docs/guide/plan.md", "README.md")]
    return list(dict.fromkeys(script for page in pages for script in MARK.findall(page.read_text())))


def command(line: str, data: Path | None, peers: str | None) -> list[str] | str:
    """What to run, or why not."""
    script, *options = line.split()
    source = (ROOT / script).read_text()
    options.append("--docs")
    if 'add_argument("--data"' in source and script not in WITHOUT_DATA:
        if data is None:
            return "--data is not given"
        options += ["--data", str(data)]
    if 'add_argument("--peers"' in source and peers:
        options += ["--peers", peers]
    if script in NEEDS_PEERS and not peers:
        return "--peers is not given"
    return [sys.executable, script, *options]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the data that the commands name")
    parser.add_argument("--peers", help="the Python of an environment with the peers")
    parser.add_argument("--only", nargs="+", metavar="FILE", help="names of scripts to run")
    parser.add_argument("--list", action="store_true", help="only say what would run")
    args = parser.parse_args()

    left = []
    for script in scripts():
        if args.only and Path(script.split()[0]).name not in args.only:
            continue
        found = command(script, args.data and args.data.resolve(), args.peers)
        if isinstance(found, str):
            left.append(f"{script}: skipped, {found}")
            continue
        print(" ".join(found[1:]), flush=True)
        if not args.list and (status := subprocess.run(found, cwd=ROOT).returncode):
            left.append(f"{script}: failed, exit status {status}; its table is as it was")
    print(*left, sep="\n")
    raise SystemExit(any("failed" in line for line in left))


if __name__ == "__main__":
    main()
