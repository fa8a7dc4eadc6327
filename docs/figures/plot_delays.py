"""Compute the worked example of docs/measures.md and draw its figure.

python docs/figures/plot_delays.py            # print the table
python docs/figures/plot_delays.py FILE.svg   # and draw
"""

from __future__ import annotations

import sys
from pathlib import Path

from simulsa_plugin.metrics import delays, latency, stability

REFERENCE = "wir sahen das rote Haus"
# Audio (ms), shown text, committed part of it, computation (ms): rollback of one token, a word being a token.
STEPS = (
    delays.ShownStep(1000, "wir", "", False, 300.0),
    delays.ShownStep(2000, "wir sehen den", "wir sehen", False, 1500.0),
    delays.ShownStep(3000, "wir sehen das rote Haus", "wir sehen das rote", False, 400.0),
    delays.ShownStep(4000, "wir sehen das rote Haus", "wir sehen das rote Haus", True, 200.0),
)


def example() -> dict[str, list[float]]:
    """Return the delays and elapsed times of each word, by name, in milliseconds."""
    kinds = {name: delays.unit_delays(STEPS, "word", name) for name in delays.DELAY_KINDS}
    clocks = {name: list(delays.elapsed_times(STEPS, "word", name)) for name in delays.CLOCKS}
    return kinds | clocks


def metrics() -> dict[str, float | None]:
    """Return the latency metrics of the committed delays; milliseconds, AP and NE ratios."""
    times, source, target = example()["committed"], STEPS[-1].audio_ms, len(REFERENCE.split())
    return {
        "AL": latency.average_lagging(times, source, target),
        "LAAL": latency.length_adaptive_average_lagging(times, source, target),
        "YAAL": latency.yet_another_average_lagging(times, source, target),
        "AP": latency.average_proportion(times, source, target),
        "DAL": latency.differentiable_average_lagging(times, source),
        "StartOffset": latency.start_offset(times),
        "EndOffset": latency.end_offset(times, source),
        "NE": stability.erased_units([step.shown.split() for step in STEPS]) / len(times),
    }


def draw(path: Path) -> None:
    """Write the figure: when each word is first stable, last written and committed."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "delays"  # the same bytes at every run
    import matplotlib.pyplot as plt

    words = STEPS[-1].shown.split()
    figure, axes = plt.subplots(figsize=(7, 3.2))
    ideal = [number * STEPS[-1].audio_ms / len(words) for number in range(len(words))]
    axes.plot(ideal, range(len(words)), color="0.6", linestyle="--", label="ideal of LAAL: (i − 1)·X/Y")
    styles = {"first_stable": ("o", 150), "last_written": ("s", 55), "committed": ("x", 40)}
    for name, (marker, size) in styles.items():
        face = {"facecolors": "none", "edgecolors": "C0" if name == "first_stable" else "C1"}
        axes.scatter(
            example()[name],
            range(len(words)),
            marker=marker,
            s=size,
            label=name.replace("_", " "),
            zorder=3,
            **({"color": "black"} if marker == "x" else face),
        )
    axes.set(xlabel="source received (ms)", yticks=range(len(words)), xlim=(-100, 4300))
    axes.set_yticklabels(words)
    axes.invert_yaxis()
    axes.grid(axis="x", color="0.9")
    axes.legend(loc="lower left", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    """Print the numbers of the page; draw the figure where a file is named."""
    for name, values in (*example().items(), *metrics().items()):
        print(f"{name:13} {values}")
    if len(sys.argv) > 1:
        draw(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
