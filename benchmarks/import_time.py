"""What `import skvae` adds to importing torch and scikit-learn.

Protocol: fresh processes, turn about, import torch and scikit-learn alone or skvae after them, and time both parts
inside the process (the start of the interpreter is not counted); medians. Scikit-learn's submodules that `import
sklearn` leaves out are charged to skvae. One unmeasured round of each fills the disk cache. The last line of the
first table is timed within one process, so it does not carry the noise of the two above it.
Prediction: at most 0.3 s more.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys

from _tables import print_table

BASE = "import torch, sklearn, sklearn.base"
TIMED = "import time; a = time.perf_counter(); {}; b = time.perf_counter(); {}; print(b - a, time.perf_counter() - b)"
LINE = re.compile(r"import time:\s+(\d+) \|\s+(\d+) \|( +)(\S+)")


def seconds(then: str) -> tuple[float, float]:
    """Seconds of torch and scikit-learn, and of what is imported then."""
    done = subprocess.run([sys.executable, "-c", TIMED.format(BASE, then)], capture_output=True, text=True, check=True)
    first, second = map(float, done.stdout.split())
    return first, second


def heaviest(top: int) -> list[tuple[str, float, float]]:
    """The modules that skvae adds, by cumulative milliseconds: (indented name, own, cumulative)."""
    command = [sys.executable, "-X", "importtime", "-c", f"{BASE}; import skvae"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stderr.splitlines()
    rows = [m.groups() for line in lines if (m := LINE.match(line))]
    # A module follows what it imports: skvae's share is all that comes after the line of scikit-learn itself.
    first = next(i for i, row in enumerate(rows) if row[3] == "sklearn" and row[2] == " ") + 1
    found = [(name, int(own) / 1e3, int(total) / 1e3) for own, total, _, name in rows[first:]]
    return sorted(found, key=lambda row: -row[2])[:top]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--top", type=int, default=12, help="how many of the added modules to list")
    parser.add_argument("--markdown", action="store_true")
    args = parser.parse_args()

    for then in ("pass", "import skvae"):
        seconds(then)
    runs = [(sum(seconds("pass")), seconds("import skvae")) for _ in range(args.repeats)]
    alone = statistics.median(base for base, _ in runs)
    both = statistics.median(sum(timed) for _, timed in runs)
    extra = statistics.median(timed[1] for _, timed in runs)
    rows = [
        ["torch and scikit-learn", f"{alone:.3f}"],
        ["torch, scikit-learn and skvae", f"{both:.3f}"],
        ["of which skvae", f"{extra:.3f}"],
    ]
    print_table(["import", "seconds"], rows, args.markdown)
    print(f"\nAt most 0.3 s more: {'yes' if extra <= 0.3 else 'NO'}\n")
    rows = [[name, f"{own:.1f}", f"{total:.1f}"] for name, own, total in heaviest(args.top)]
    print_table(["module added by skvae", "own ms", "with its imports, ms"], rows, args.markdown)


if __name__ == "__main__":
    main()
