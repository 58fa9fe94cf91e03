"""Draws README's picture from finished quick starts:  python docs/tools/quickstart_picture.py [FOLDER]

FOLDER is that of `python benchmarks/quickstart_seeds.py --out FOLDER`; its figures are copied to
docs/images/quickstart.json. Without FOLDER the picture is drawn anew from that file.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from matplotlib.figure import Figure

FIGURES = Path(__file__).resolve().parents[1] / "images" / "quickstart.json"
MADE = "Intel Xeon, 2 cores, torch 2.14.1, 2026-11-26, python benchmarks/quickstart_seeds.py"


def collect(folder: Path) -> None:
    """Writes the figures that the picture shows: the target of each seed and its networks, the derived one first."""
    seeds = []
    for path in sorted(folder.glob("seed*/result.json")):
        record = json.loads(path.read_text())
        networks = [{"ms": n["measured_ms"], "top1": n["top1"]} for n in record["networks"]]
        seeds.append({"seed": record["seed"], "target_ms": record["target_ms"], "networks": networks})
    FIGURES.write_text(json.dumps({"made": MADE, "seeds": seeds}, indent=1) + "\n")


def draw() -> None:
    """Draws a panel for each seed: accuracy over measured latency."""
    seeds = json.loads(FIGURES.read_text())["seeds"]
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for axes, one in zip(figure.subplots(1, len(seeds), sharey=True), seeds, strict=True):
        derived, *others = one["networks"]
        beaten = sum(derived["top1"] > n["top1"] for n in others)
        axes.axvline(one["target_ms"], color="0.5", linestyle="--", linewidth=1, label="latency asked for")
        axes.plot([n["ms"] for n in others], [n["top1"] for n in others], "o", color="0.65",
                  label="random networks of the same predicted latency")  # fmt: skip
        axes.plot(derived["ms"], derived["top1"], "*", color="#c8553d", markersize=16, label="derived by the search")
        axes.set(title=f"seed {one['seed']}: derived beats {beaten} of {len(others)}", xlabel="measured latency, ms")
        axes.margins(x=0.12, y=0.1)
        axes.grid(color="0.93")
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("test accuracy after retraining, %")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(FIGURES.with_suffix(".png"), dpi=140)


if __name__ == "__main__":
    if sys.argv[1:]:
        collect(Path(sys.argv[1]))
    draw()
