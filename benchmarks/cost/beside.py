"""The same jobs by this project, by hand, and by other libraries, in one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.cost import elsewhere
from benchmarks.quality.rows import Row

#: What stands in a column: the measure of each job. Peers call theirs as `elsewhere.JOBS` does.
COLUMNS: Mapping[str, Mapping[str, str]] = {
    "`nam`": {
        "direct": "nam: acu, 1 target",
        "gradient": "nam: gradxact, 1 target",
        "integrated": "nam: ig, 1 target",
        "ablation": "nam: ablation (neurons=64), 1 target",
    },
    "plain hooks": {
        "direct": "plain hooks: direct, 1 target",
        "gradient": "plain hooks: gradient x activation, 1 target",
        "ablation": "plain hooks: ablation of 64 neurons, 1 target",
    },
    "captum": {
        "direct": "captum: LayerActivation, 1 target",
        "gradient": "captum: LayerGradientXActivation, 1 target",
        "integrated": f"captum: IntegratedGradients, {elsewhere.STEPS} steps a layer, 1 target",
        "ablation": "captum: FeatureAblation of 64 neurons, 1 target",
    },
    **{peer: {job: f"{peer}: {words}" for job, words in elsewhere.JOBS.items()} for peer in elsewhere.PEERS},
}


def beside(rows: Sequence[Row], *, section: str) -> list[str]:
    """Lines of Markdown: a row a job, with the times over a bare forward pass; empty where none was measured.

    Args:
        rows: What was measured.
        section: Where the times of this project's own process are; those of peers are in theirs.
    """
    there = {row.spec.name: row for row in rows if row.section in (section, elsewhere.SECTION)}
    lines = [f"| all neurons, one target | {' | '.join(COLUMNS)} |", "| --- " * (1 + len(COLUMNS)) + "|"]
    found = False
    for job, words in elsewhere.JOBS.items():
        cells = []
        for labels in COLUMNS.values():
            row = there.get(labels.get(job, ""))
            measured = row is not None and row.measure is not None
            cells.append(row.value_text if row is not None and measured else "-")
            found |= measured
        lines.append(f"| {words} | {' | '.join(cells)} |")
    return [*lines, ""] if found else []
