"""A picture of rate against load. Needs matplotlib: the extra `bench`."""

from __future__ import annotations

from benchmark.summary import Results, of

def available() -> bool:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


def draw(results: Results, file: str, title: str) -> None:
    """A group of points for each load: the median, with a line from the slowest run to the fastest."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    loads = list(dict.fromkeys(one.load for one in results))
    names = list(dict.fromkeys(one.server.name for one in results))
    figure, axes = pyplot.subplots(figsize=(2.5 + len(loads), 6), constrained_layout=True)
    for number, name in enumerate(names):
        shift = (number - (len(names) - 1) / 2) * 0.6 / len(names)
        points = [(at + shift, of(results, load, name)) for at, load in enumerate(loads)]
        found = [(at, one) for at, one in points if one]
        if not found:
            continue
        below = [one.rate - min(run.rate for run in one.runs) for _, one in found]
        above = [max(run.rate for run in one.runs) - one.rate for _, one in found]
        label = "%s: %s" % (name, found[0][1].server.version)
        axes.errorbar(
            [at for at, _ in found], [one.rate for _, one in found], yerr=[below, above],
            fmt="x" if name == "sink" else "o", capsize=3, label=label, color="0.6" if name == "sink" else None,
        )  # fmt: skip
    axes.set_yscale("log")
    axes.set_ylabel("jobs a second")
    axes.set_xticks(range(len(loads)))
    axes.set_xticklabels([str(load) for load in loads], rotation=40, ha="right")
    axes.grid(axis="y", which="both", alpha=0.3)
    figure.suptitle(title)
    # Above the points, not on them.
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1))
    figure.savefig(file)
    pyplot.close(figure)
