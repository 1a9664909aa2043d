"""Run every Python block of the README and of the pages in docs/, one namespace per page.

A block of text right behind a Python block is what that prints; numbers may differ a little on another machine.

python docs/run_blocks.py [page ...]
"""

import contextlib
import io
import math
import os
import re
import sys
import tempfile
import time
import warnings
from pathlib import Path

BLOCK = re.compile(r"^```python\n(.*?)^```$(?:\n\n```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")
WITHIN = 0.05  # of a number; and one in its last place


def run(page: Path) -> int:
    """Execute the page's blocks in order, warnings being errors; return how many there were."""
    text, namespace = page.read_text(), {"__name__": page.stem}
    blocks = list(BLOCK.finditer(text))
    for block in blocks:
        # Leading empty lines make a traceback show the line of the page.
        first_line = text.count("\n", 0, block.start(1))
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile("\n" * first_line + block.group(1), str(page), "exec"), namespace)
        if block.group(2) is not None and not agree(block.group(2), printed.getvalue()):
            raise SystemExit(
                f"{page}, line {first_line + 1}: it says\n{block.group(2)}but prints\n{printed.getvalue()}"
            )
    return len(blocks)


def agree(said: str, printed: str) -> bool:
    """Whether two texts are the same but for spaces, and for numbers that are nearly equal."""
    words = [" ".join(NUMBER.sub("#", text).split()) for text in (said, printed)]
    pairs = zip(NUMBER.findall(said), NUMBER.findall(printed), strict=False)
    return words[0] == words[1] and all(
        math.isclose(float(a), float(b), rel_tol=WITHIN, abs_tol=1.01 * 10.0 ** -len(a.partition(".")[2]))
        for a, b in pairs
    )


def main() -> None:
    root = Path(__file__).resolve().parent.parent
    pages = [Path(p).resolve() for p in sys.argv[1:]] or [root / "README.md", *sorted((root / "docs").rglob("*.md"))]
    warnings.simplefilter("error")
    # Blocks stop early, and have few latents, to be short.
    warnings.filterwarnings("ignore", ".* while its held-out bound was still rising")
    warnings.filterwarnings("ignore", ".* keep fewer of the rows' neighbours than")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for page in pages:
            began = time.perf_counter()
            if count := run(page):
                print(f"{page.relative_to(root)}: {count} blocks, {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main()
