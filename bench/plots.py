"""Plots of the committed results: `python -m bench.plots` draws docs/bench/*.svg and *.png from results.json alone.

The same results and the same matplotlib give the same bytes; each plot carries the digest of the results that it shows.
SVGs come in two themes, for white and for dark pages; PNGs have a white background of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.boot import NUMBERS
from bench.bootunits import LOAD, NOTHING, OURS, SCRIPT
from bench.containers import COLD, LOADED, PLACES, WARM
from bench.hotplug import POLICIES
from bench.records import Spread
from bench.results import FOLDER, Results

COLOURS = {NOTHING: "#8c8c8c", LOAD: "#d55e00", SCRIPT: "#cc79a7", OURS: "#0090d0"}  # told apart by colour-blind people
NAMES = {
    NOTHING: "nothing preloaded",
    LOAD: "docker load",
    SCRIPT: "NixOS's script, mended",
    OURS: "docker-preloader",
}
STAGES = {
    "kernel, s": ("QEMU, kernel, initrd", "#8c8c8c"),
    "other units, s": ("udev and other units", "#b8b8b8"),
    "bringing, s": ("docker load, script or agent", "#0090d0"),
    "dockerd, s": ("dockerd", "#009e73"),
    "container, s": ("list the images, first container", "#e69f00"),
}
THEMES = {"": ("#ffffff", "#24292f"), "-dark": ("#0d1117", "#e6edf3")}  # background, and all that is written
PNG_DPI = 110


def main() -> None:
    """Draw all plots in all forms."""
    results = Results.read()
    for name, draw in PLOTS.items():
        for suffix, (background, text) in THEMES.items():
            figure = _draw(draw, results, background, text)
            _save(figure, FOLDER / f"{name}{suffix}.svg", results.digest)
            if not suffix:
                _save(figure, FOLDER / f"{name}.png", results.digest)


def draw_boot(figure: Figure, results: Results) -> None:
    """Seconds until every image is runnable, and megabytes written, by the number of images."""
    fields = {"seconds": "s from QEMU's start to every image runnable", "written, MB": "MB written to the root disk"}
    for axes, (field, label) in zip(figure.subplots(1, 2), fields.items(), strict=True):
        floor = results.middle("boot", field, way=NOTHING)
        axes.axhline(floor, color=COLOURS[NOTHING], linestyle="--", label=NAMES[NOTHING])
        for way in (LOAD, SCRIPT, OURS):
            spreads = [results.spread("boot", field, way=way, images=number) for number in NUMBERS]
            _line(axes, spreads, COLOURS[way], NAMES[way])
        axes.set(xlabel="images", title=label, ylim=(0, None))
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)


def draw_stages(figure: Figure, results: Results) -> None:
    """What a boot with most images takes its time for."""
    most = NUMBERS[-1]
    cases = [(NOTHING, 0), (LOAD, most), (SCRIPT, most), (OURS, most)]
    axes = figure.subplots()
    left = [0.0] * len(cases)
    for field, (name, colour) in STAGES.items():
        widths = [results.middle("boot", field, way=way, images=number) for way, number in cases]
        axes.barh([NAMES[way] for way, _ in cases], widths, left=left, color=colour, label=name)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set(title=f"s of a boot with {most} images, by stage (medians)")
    figure.legend(loc="outside lower center", ncols=3)


def draw_containers(figure: Figure, results: Results) -> None:
    """Until a container's program has run, and what reading its image takes then, by where the image stands."""
    titles = {
        "start, s": "s until a container's program has run",
        "read, s": "s that reading its whole image takes then",
    }
    for axes, (field, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        for shift, (cache, colour) in enumerate(((COLD, "#0090d0"), (WARM, "#e69f00"))):
            spreads = [results.spread("containers", field, place=place, cache=cache) for place in PLACES]
            _bars(axes, [place + 0.4 * shift - 0.2 for place in range(len(PLACES))], spreads, colour, cache)
        names = [place if place == LOADED else f"disk,\n{place.replace(', ', ' ')}" for place in PLACES]
        axes.set_xticks(range(len(PLACES)), names)
        axes.set(title=title)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)


def draw_hotplug(figure: Figure, results: Results) -> None:
    """From device_add to a container, for each policy."""
    axes = figure.subplots()
    fields = (("container, s", "a container has run", "#e69f00"), ("adopted, s", "docker has the image", "#0090d0"))
    for field, name, colour in fields:  # the longer bar first: the other stands before it
        spreads = [results.spread("hotplug", field, policy=policy) for policy in POLICIES]
        axes.barh(POLICIES, [spread.middle for spread in spreads], color=colour, label=name)
    axes.invert_yaxis()
    axes.set(title="s after device_add, by the setting hotplug= (medians)")
    figure.legend(loc="outside lower center", ncols=2)


PLOTS: dict[str, Callable[[Figure, Results], None]] = {
    "boot": draw_boot,
    "stages": draw_stages,
    "containers": draw_containers,
    "hotplug": draw_hotplug,
}


def _draw(draw: Callable[[Figure, Results], None], results: Results, background: str, text: str) -> Figure:
    with mpl.rc_context(_style(background, text)):
        figure = Figure(figsize=(9, 3.4), layout="constrained", facecolor=background)
        draw(figure, results)
        figure.canvas.draw()
    return figure


def _style(background: str, text: str) -> Any:
    """Matplotlib's settings; its types know each key as a literal."""
    coloured = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    quiet = {"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}
    sizes = {"font.size": 10, "axes.titlesize": 10, "axes.facecolor": background}
    return {**dict.fromkeys(coloured, text), **quiet, **sizes}


def _save(figure: Figure, path: Path, digest: str) -> None:
    dated = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    with mpl.rc_context({"svg.hashsalt": "docker-preloader"}):
        figure.savefig(path, dpi=PNG_DPI, metadata={"Description": f"results {digest}", **dated})


def _line(axes: Axes, spreads: Sequence[Spread], colour: str, name: str) -> None:
    middles = [spread.middle for spread in spreads]
    axes.errorbar(NUMBERS, middles, _errors(spreads), color=colour, label=name, marker="o", capsize=3)
    axes.set_xticks(NUMBERS)


def _bars(axes: Axes, places: Sequence[float], spreads: Sequence[Spread], colour: str, name: str) -> None:
    middles = [spread.middle for spread in spreads]
    edge = mpl.rcParams["text.color"]
    axes.bar(places, middles, 0.38, yerr=_errors(spreads), color=colour, label=name, ecolor=edge, capsize=3)


def _errors(spreads: Sequence[Spread]) -> list[list[float]]:
    below = [spread.middle - spread.low for spread in spreads]
    return [below, [spread.high - spread.middle for spread in spreads]]


if __name__ == "__main__":
    main()
