"""Draw what was measured: ``python -m benchmarks.plots FINDINGS FOLDER``. Needs matplotlib; reads JSON, writes PNG."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

OURS, PEER, BOUND = "#1b7f5c", "#8a8f98", "#c2410c"
Findings = dict[str, Any]


def main() -> None:
    findings: Findings = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    folder = Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    for draw in (draw_stages, draw_contenders, draw_backlog, draw_bucket, draw_memory, draw_large):
        figure = draw(findings)
        if figure is None:
            continue
        cores, cpu = findings["machine"]["cores"], findings["machine"]["cpu"]
        figure.text(0.99, 0.01, f"{findings['started_at']}, {cores} x {cpu}", ha="right", fontsize=7, color="#555")
        figure.savefig(folder / f"{draw.__name__.removeprefix('draw_')}.png", dpi=110)
        plt.close(figure)


def _bars(title: str, bars: Sequence[tuple[str, float, str, str]], unit: str) -> Any:
    """Draw (name, value, colour, text) as horizontal bars, the first on top."""
    figure, axes = plt.subplots(figsize=(8, 0.9 + 0.38 * len(bars)), layout="constrained")
    names, values, colours, texts = zip(*reversed(bars), strict=True)
    axes.barh(names, values, color=colours)
    for number, (value, text) in enumerate(zip(values, texts, strict=True)):
        axes.text(value, number, f" {text}", va="center", fontsize=8)
    axes.set_xlim(0, max(values) * 1.22)
    axes.set_xlabel(unit)
    axes.set_title(title, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def everybody(findings: Findings) -> list[dict[str, Any]]:
    """Return ours and the peers."""
    return [*findings["ours"].values(), *findings["peers"]]


def draw_stages(findings: Findings) -> Any:
    """Each stage alone, and the bound; on a scale by powers, since listing is a thousand times faster."""
    rates = [(name, entry["per_second"]) for name, entry in findings["stages"].items()]
    if not rates:
        return None
    rates.append(("whole loop", findings["pipelines"].get("whole", {}).get("per_second", 0.0)))
    bars = [(name, rate, PEER if name.startswith("full") else OURS, f"{rate:,.0f}") for name, rate in rates if rate]
    if findings["bound"]:
        bars.append(("inference alone", findings["bound"], BOUND, f"{findings['bound']:,.0f}"))
    figure = _bars("Each stage alone", bars, "images/s, logarithmic")
    axes = figure.axes[0]
    axes.set_xscale("log")
    axes.set_xlim(min(rate for _, rate, _, _ in bars) / 2, max(rate for _, rate, _, _ in bars) * 4)
    return figure


def draw_contenders(findings: Findings) -> Any:
    """Ours and the peers, without start-up, with their share of the bound."""
    entries = everybody(findings)
    if not entries:
        return None
    bars = [("LiteRT alone (bound)", findings["bound"], BOUND, f"{findings['bound']:.0f}")]
    if alone := findings["engines"].get("tensorflow"):
        bars.append(("TensorFlow alone", alone, BOUND, f"{alone:.0f}"))
    for entry in entries:
        rate = entry["steady_per_second"]
        colour = OURS if entry["name"].startswith("ours") else PEER
        bars.append((entry["name"], rate, colour, f"{rate:.0f}  ({entry['ratio']:.0%})"))
    return _bars("The same images, store, model and database; start-up excluded", bars, "images/s")


def draw_backlog(findings: Findings) -> Any:
    """Seconds for a backlog of a size: from the measured start-up and steady rate, and of ours as measured."""
    entries = [entry for entry in everybody(findings) if entry["steady_per_second"]]
    if not entries:
        return None
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    sizes = [100, 300, 1_000, 3_000, 10_000, 30_000, 100_000]
    for entry in entries:
        is_ours = entry["name"].startswith("ours")
        seconds = [entry["startup_s"] + size / entry["steady_per_second"] for size in sizes]
        axes.plot(sizes, seconds, marker="o", markersize=3, linewidth=2.2 if is_ours else 1.0, label=entry["name"])
    if measured := findings["backlogs"]:
        points = [(entry["images"], entry["seconds"]) for entry in measured]
        axes.plot(*zip(*points, strict=True), "x", color="black", label="ours, command line, measured")
    axes.set(xscale="log", yscale="log", xlabel="images in the backlog", ylabel="seconds")
    axes.set_title("Seconds for a backlog (lines: measured start-up + images / measured rate)", loc="left")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize=7)
    return figure


def draw_bucket(findings: Findings) -> Any:
    """Seconds of a discovery against the keys of its bucket."""
    found = findings["buckets"]
    if not found:
        return None
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    keys = [entry["keys"] for entry in found]
    names = {
        "first_s": "every key is new",
        "again_s": "every key is labelled",
        "list_s": "of that: waiting for the listing",
    }
    for name, label in names.items():
        style = "--" if name == "list_s" else "-"
        axes.plot(keys, [entry[name] for entry in found], style, marker="o", markersize=3, label=label)
    axes.set(xscale="log", yscale="log", xlabel="keys in the bucket", ylabel="seconds")
    axes.set_title("Seconds of a discovery", loc="left")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def draw_memory(findings: Findings) -> Any:
    """Resident memory of the worker over the images that it has done."""
    found = findings["memory"]
    if not found or not found["memory"]:
        return None
    images, mib = zip(*found["memory"], strict=True)
    figure, axes = plt.subplots(figsize=(8, 3.5), layout="constrained")
    axes.plot(images, mib, color=OURS)
    axes.set(xlabel="images done", ylabel="MiB resident", ylim=(0, max(mib) * 1.2))
    axes.set_title("Memory of one worker", loc="left")
    axes.grid(visible=True, alpha=0.3)
    return figure


def draw_large(findings: Findings) -> Any:
    """Photos of 12 megapixels by the product's decoder and by one that decodes every pixel."""
    names = {"product": "Nightlabel's decoder", "full": "every pixel decoded by Pillow"}
    bars = [
        (names[name], entry["per_second"], OURS if name == "product" else PEER, f"{entry['per_second']:.1f}")
        for name, entry in findings["large"].items()
    ]
    return _bars("JPEGs of 12 megapixels, the whole loop", bars, "images/s") if bars else None


if __name__ == "__main__":
    main()
