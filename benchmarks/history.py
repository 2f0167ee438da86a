"""The ratios of each full run: a line of `history.jsonl`, and a plot of all lines."""

import json
from pathlib import Path
from typing import Any

from benchmarks.results import TARGETS

FILE = Path(__file__).with_name("history.jsonl")
PLOT = Path(__file__).with_name("history.svg")
WIDTH, HEIGHT, COLUMNS = 250, 90, 3


def append(report: dict[str, Any]) -> None:
    """Append a report's ratios to the file, and draw the plot again."""
    kept = ("date", "commit", "machine")
    line = {name: report[name] for name in kept} | {"python": report["versions"]["python"]}
    line["ratios"] = {_name(**target): round(target["ratio"], 3) for target in report["targets"]}
    with FILE.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    lines = FILE.read_text(encoding="utf-8").splitlines()
    PLOT.write_text(plot([json.loads(text)["ratios"] for text in lines]), encoding="utf-8")


def _name(figure: str, case: str, reference: str, **_: Any) -> str:
    return f"{figure}: {case} / {reference}"


def plot(runs: list[dict[str, float]]) -> str:
    """Return an SVG with a panel per target: its ratio by run, and the target as a dashed line."""
    panels = []
    for i, target in enumerate(TARGETS):
        name = _name(**target._asdict())
        values = [(n, run[name]) for n, run in enumerate(runs) if name in run]
        top = 1.1 * max([target.limit, *(value for _, value in values)])
        y = [HEIGHT - 10 - (HEIGHT - 40) * value / top for _, value in values]
        x = [10 + (WIDTH - 20) * (n + 0.5) / len(runs) for n, _ in values]
        limit = HEIGHT - 10 - (HEIGHT - 40) * target.limit / top
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
        dots = "".join(
            f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2"/>' for a, b in zip(x, y, strict=True)
        )
        last = f", {values[-1][1]:.2f}" if values else ""
        panels.append(
            f'<g transform="translate({i % COLUMNS * WIDTH},{i // COLUMNS * HEIGHT})">'
            f'<text x="10" y="14">{target.figure}</text>'
            f'<text x="10" y="26" opacity=".7">x {target.reference}{last} (≤ {target.limit})</text>'
            f'<line x1="10" x2="{WIDTH - 10}" y1="{limit:.1f}" y2="{limit:.1f}"/>'
            f'<polyline points="{points}"/>{dots}</g>'
        )
    rows = -(-len(TARGETS) // COLUMNS)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH * COLUMNS} {HEIGHT * rows}" '
        'font-family="system-ui, sans-serif" font-size="11"><style>text{fill:#334155}'
        "polyline{fill:none;stroke:#0d9488}circle{fill:#0d9488}"
        "line{stroke:#94a3b8;stroke-dasharray:3 3}"
        "@media(prefers-color-scheme:dark){text{fill:#cbd5e1}}</style>\n"
        + "\n".join(panels)
        + "\n</svg>\n"
    )
