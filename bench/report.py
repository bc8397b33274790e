"""The README's block of numbers: `python -m bench.report` renders it from the committed results.

The text is bench/block.md. Every figure in it is the median of some that stand in docs/bench/results.json, or a ratio
of two such medians.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

from bench.bootunits import LOAD, NOTHING, OURS, SCRIPT
from bench.containers import COLD, LOADED, PLAIN, RAW, ZSTD
from bench.hotplug import POLICIES
from bench.results import Results

README = Path(__file__).parent.parent / "README.md"
BLOCK = Path(__file__).with_name("block.md")
BEGIN, END = "<!-- bench -->", "<!-- /bench -->"
LINE = 120
MOST = 16  # images
KVM = {True: "with KVM", False: "emulated, since there is no KVM"}
BUILDER = {
    "build": "build of 230 MB, s",
    "build_dockerd": "build / dockerd on an ext4 image",
    "build_bounds": "build / (sha256 + mke2fs -d)",
    "disk": "disk / unpacked layers (du)",
    "disk_small": "disk of 50,000 files / unpacked (du)",
}
READINESS = {"start_none": "no disk, ms", "start_four": "4 disks, ms", "start_floor": "READY=1 alone, ms"}


def main() -> None:
    """Rewrite the block, whatever stands in it."""
    README.write_text(with_block(README.read_text(), render(Results.read())))


def with_block(page: str, block: str) -> str:
    """A page with another block. Raises ValueError when it has no place for one."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"expected {BEGIN} and {END} in the page")
    return f"{before}{BEGIN}\n{block}{END}{after}"


def render(results: Results) -> str:
    """The block, its paragraphs and points filled."""
    paragraphs = BLOCK.read_text().format_map(figures(results)).split("\n\n")
    return "\n\n".join(_filled(paragraph) for paragraph in paragraphs) + "\n"


def figures(results: Results) -> dict[str, str]:
    """All that the text shows, by name."""
    return {
        **_of_machine(results),
        **_of_boot(results),
        **_of_containers(results),
        **{policy: rounded(results.middle("hotplug", "container, s", policy=policy)) for policy in POLICIES},
        **{name: rounded(results.middle("builder", field), 3) for name, field in BUILDER.items()},
        **{name: rounded(results.middle("readiness", field), 3) for name, field in READINESS.items()},
        "memory": rounded(results.middle("large", "memory for 2 GB in 16 files, MB")),
        "memory_many": rounded(results.middle("large", "memory for 2 GB in 100000 files, MB")),
        "adoption": rounded(results.middle("adoption", "adoption / docker load")),
        "resident": rounded(results.middle("idle", "0 disks, RSS, MB")),
    }


def rounded(value: float, digits: int = 2) -> str:
    """With so many significant digits, but never less than the whole number."""
    whole = len(str(int(value))) if value >= 1 else 0
    return f"{value:.{max(digits - whole, 0)}f}"


def _of_machine(results: Results) -> dict[str, str]:
    machine = results.machine
    return {
        "rounds": str(results.rounds("boot")),
        "cores": str(machine["cores"]),
        "cpu": str(machine["cpu"]),
        "guests": KVM[machine["guests"] == "KVM"],
        "qemu": str(machine["qemu"]),
        "docker": str(machine["guest's docker.io"]).partition("+")[0].partition("-")[0],
    }


def _of_boot(results: Results) -> dict[str, str]:
    about = results.about("boot")
    found = {"shared": rounded(float(about["shared layer, MB"])), "own": rounded(float(about["own layer, MB"]))}
    for name, way, numbers in (
        ("nothing", NOTHING, (0,)),
        ("load", LOAD, (1, 4, MOST)),
        ("script", SCRIPT, (1, 4, MOST)),
        ("ours", OURS, (1, 4, MOST)),
    ):
        for number in numbers:
            seconds = results.middle("boot", "seconds", way=way, images=number)
            found[f"{name}_{number}" if number else name] = rounded(seconds, 3)
        for word, field in (
            ("written", "written, MB"),
            ("cpu", "cpu_seconds"),
            ("bringing", "bringing, s"),
            ("container", "container, s"),
        ):
            found[f"{name}_{word}"] = rounded(results.middle("boot", field, way=way, images=numbers[-1]))
    return found


def _of_containers(results: Results) -> dict[str, str]:
    """Medians with their ranges, since these differ less from place to place than from round to round."""
    found = {"others": rounded(float(results.about("containers")["cores busy with others"]))}
    for name, place in (("loaded", LOADED), ("raw", RAW), ("qcow2", PLAIN), ("zstd", ZSTD)):
        for word, field in (("start", "start, s"), ("read", "read, s")):
            spread = results.spread("containers", field, cache=COLD, place=place)
            middle, low, high = (rounded(value) for value in spread)
            found[f"{word}_{name}"] = f"{middle} s ({low} to {high})"
    return {**found, "image": rounded(float(results.about("containers")["image, MB"]))}


def _filled(paragraph: str) -> str:
    """Lines of at most 120 characters; tables and HTML stay as they are."""
    if paragraph.startswith(("|", "<")):
        return paragraph.strip()
    return "\n".join(
        textwrap.fill(
            line,
            LINE,
            subsequent_indent="  " if line.startswith("- ") else "",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for line in paragraph.splitlines()
    )


if __name__ == "__main__":
    main()
