"""Tables on the terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["format_table", "print_table"]


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], markdown: bool = False) -> str:
    """Columns of equal width, the first flush left and the others flush right."""
    cells = [list(header), *(list(row) for row in rows)]
    widths = [max(2, *(len(row[i]) for row in cells)) for i in range(len(header))]
    lines = []
    for row in cells:
        padded = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append(f"| {' | '.join(padded)} |" if markdown else "  ".join(padded).rstrip())
    rule = ["-" * w if i == 0 or not markdown else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    lines.insert(1, f"| {' | '.join(rule)} |" if markdown else "  ".join(rule))
    return "\n".join(lines)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], markdown: bool = False) -> None:
    print(format_table(header, rows, markdown), flush=True)
