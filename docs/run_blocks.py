"""Run every Python block of the README and of the pages in docs/, one namespace per page.

python docs/run_blocks.py [page ...]
"""

import contextlib
import io
import os
import re
import sys
import tempfile
import time
import warnings
from pathlib import Path

BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run(page: Path) -> int:
    """Execute the page's blocks in order, warnings being errors; return how many there were."""
    text, namespace = page.read_text(), {"__name__": page.stem}
    blocks = list(BLOCK.finditer(text))
    for block in blocks:
        # Leading empty lines make a traceback show the line of the page.
        first_line = text.count("\n", 0, block.start(1))
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile("\n" * first_line + block.group(1), str(page), "exec"), namespace)
    return len(blocks)


def main() -> None:
    root = Path(__file__).resolve().parent.parent
    pages = [Path(p).resolve() for p in sys.argv[1:]] or [root / "README.md", *sorted((root / "docs").rglob("*.md"))]
    warnings.simplefilter("error")
    # Blocks stop early to be short.
    warnings.filterwarnings("ignore", ".* while its held-out bound was still rising")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for page in pages:
            began = time.perf_counter()
            count = run(page)
            print(f"{page.relative_to(root)}: {count} blocks, {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main()
