"""Plot the results of benchmarks/lookup.py: queries per second against recall@10.

    python benchmarks/plots.py results.json [more.json ...] picture.png

Each column is a data set; the upper row has one query per call, the lower one batches.

It needs matplotlib. A line joins the points on a contestant's Pareto front; a star marks the setting that our build
chose.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from measure import MODES
from report import by_contestant, frontier

TICKS = (0.5, 0.8, 0.9, 0.95, 0.97, 0.99, 0.995, 0.999)
HIGHEST = 0.9999  # a recall of 1 is drawn here
COLOURS = {
    **{"gifdex-hnsw": "#d62728", "gifdex-annoy": "#ff7f0e", "gifdex-scan": "#bcbd22", "gifdex-exact": "#8c564b"},
    **{"annoy": "#7f7f7f", "hnswlib": "#1f77b4", "faiss-hnsw": "#2ca02c", "faiss-flat": "#98df8a"},
    **{"usearch": "#9467bd", "voyager": "#17becf"},
}


def nines(recall: float) -> float:
    """Return the position of a recall on a logarithmic axis, where each further nine takes the same length."""
    return -math.log10(1 - min(recall, HIGHEST))


def draw(data: dict[str, Any], path: Path) -> None:
    """Draw the results of each data set beside each other."""
    size = (6 * len(data), 5 * len(MODES))
    figure, panels = pyplot.subplots(len(MODES), len(data), figsize=size, squeeze=False, layout="constrained")
    for row, (mode, meaning) in zip(panels, MODES.items(), strict=True):
        for panel, (name, result) in zip(row, data.items(), strict=True):
            draw_points(panel, [point for point in result["points"] if point["mode"] == mode])
            panel.set_title(f"{name}: {result['items']:,} x {result['dimensions']}, {meaning}")
        named = max(row, key=lambda panel: len(panel.get_legend_handles_labels()[1]))
        named.legend(fontsize="small")
    figure.savefig(path, dpi=120)


def draw_points(panel: Any, points: list[dict[str, Any]]) -> None:
    for contestant, of_one in by_contestant(points).items():
        best = frontier(of_one)
        line = {"color": COLOURS[contestant], "linewidth": 2.2 if of_one[0]["ours"] else 1.2}
        places = [nines(point["recall"]) for point in best]
        panel.plot(places, [p["per_second"] for p in best], marker="o", markersize=4, label=contestant, **line)
        for point in of_one:
            if point["default"]:
                panel.plot(nines(point["recall"]), point["per_second"], "*", markersize=14, color=line["color"])
    panel.set_yscale("log")
    panel.set_xticks([nines(tick) for tick in TICKS], [f"{tick:g}" for tick in TICKS])
    panel.set_xlim(nines(TICKS[0]), nines(HIGHEST) + 0.1)
    panel.set_xlabel("recall@10")
    panel.set_ylabel("queries per second, one thread")
    panel.grid(alpha=0.3, which="both")


def main() -> None:
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    data: dict[str, Any] = {}
    for results in sys.argv[1:-1]:
        data |= json.loads(Path(results).read_text())["data"]
    draw(data, Path(sys.argv[-1]))


if __name__ == "__main__":
    main()
