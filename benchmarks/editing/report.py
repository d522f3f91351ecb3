"""The rows as tables: Markdown for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.editing.figures import BOTH, GROWTH, IMAGE, SEVERAL, TEXT, Rows, measure
from benchmarks.editing.plan import LAYER
from benchmarks.quality.report import measured_by, summary
from benchmarks.quality.rows import Row, Spec

NOTES = """\
Every edit is made on training prompts and measured on held-out ones: unseen combinations of colour and
place, unseen wordings, other noise. Pictures are marked by the judge, a classifier that was trained on
renders alone; "CLIP prefers target" asks the model's own CLIP, a second opinion. Words are marked by
`nam.world.language.parse`. "Kept" means the same as the unedited model gives for the same prompt and noise:
the same things drawn, the same words said. Shares are in percent, pooled over edits, with Wilson's 95 %
interval in brackets; means have a bootstrap interval over the edits. Probabilities and KL are of the answers
that the unedited model gave, read again by the edited one; "others' pixels" is the mean change of a pixel in
grey levels of 255. `layer` is the naive baseline, fine-tuning of the one layer that holds most of the chosen
neurons; `scale` multiplies the chosen value vectors by 0, which removes the source and aims at nothing.
"""

_ABOUT = {
    "editors": "Every editor on the neurons that NAM selects (rome and layer change a layer as a whole).",
    "modalities": "Fine-tuning of neurons that are chosen by their words (T), by their pictures (I), or by "
    "both. What an edit of pictures does to words is its leak, and the other way round.",
    "several": "The first edits of a chain in which each thing becomes the next one, as the unedited model "
    "draws it: all at once, or one after the other, each on the model as the earlier ones left it. Others "
    "are the things that no edit is about.",
    "growth": "The paper's table 3: eq. 8 within a budget of norm that grows until the judge sees the target "
    "rather than the source, by the same rule for every selection; the norm is where the two are equally "
    "likely, over the edits and seeds of noise that turned: one that never turns has no such norm, so a "
    "selection that turns fewer looks cheaper than it is. Nothing is asked to stay, as in the paper. Half of "
    'the pictures behind "target drawn at the end" are among those that the growth was stopped by.',
    "selections": "Fine-tuning until the pictures' conditioning is equally close, on neurons that each "
    "method selects.",
}
_TITLES = {
    "editors": "Editors",
    "modalities": "Words' neurons and pictures' neurons",
    "several": "Several edits",
    "growth": "The norm of the same change",
    "selections": "Selections",
}
_MODALITIES = {"image": ("pictures", IMAGE), "text": ("words", TEXT), "both": ("both", BOTH)}
_LABELS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "editors": lambda row: row["editor"],
    "modalities": lambda row: row["kind"].replace("_", " "),
    "several": lambda row: f"{len(row['pairs'])} {row['order'] if len(row['pairs']) > 1 else ''}".strip(),
    "growth": lambda row: selection_of(row),
    "selections": lambda row: selection_of(row),
}


def selection_of(row: Mapping[str, Any]) -> str:
    """How the row's neurons were chosen."""
    if row["editor"] == LAYER:
        return LAYER
    named = {"random": "random (same layers)", "active": "most active"}
    return named.get(row["by"], row["method"])


def grouped(rows: Rows, section: str, modality: str) -> dict[str, list[Mapping[str, Any]]]:
    """The rows of a table, by what its first column says, in the order that they come in."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["section"] == section and row["modality"] == modality:
            found.setdefault(_LABELS[section](row), []).append(row)
    return found


def targets(rows: Rows) -> list[Row]:
    """What the best editor is held to, in each modality."""
    found = []
    for modality, (title, specs) in _MODALITIES.items():
        mine = grouped(rows, "editors", modality).get("finetune", [])
        for spec in specs:
            if spec.target is not None:
                shown = Spec(spec.key, spec.name, spec.target)
                said = "no such edit was measured"
                found.append(Row(f"Edits of {title}", shown, measure(mine, spec) if mine else None, said))
    return found


def write(rows: Rows, about: Mapping[str, Any], out: Path, *, planned: int) -> list[Row]:
    """Write editing.md and editing.json; returns the targets."""
    held = targets(rows)
    out.mkdir(parents=True, exist_ok=True)
    (out / "editing.md").write_text(_markdown(rows, held, about, planned), encoding="utf-8")
    content = {
        **about,
        "planned": planned,
        "targets": [_target(row) for row in held],
        "tables": _tables(rows),
    }
    (out / "editing.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return held


def _markdown(rows: Rows, held: Sequence[Row], about: Mapping[str, Any], planned: int) -> str:
    lines = [
        "# Editing",
        "",
        f"Measured by {measured_by(about, f'{len(rows)} of {planned} rows')} of processor time.",
        "",
        NOTES,
        "## Targets",
        "",
        f"Fine-tuning of the neurons that NAM selects. {summary(held)}",
        "",
        "| edit | measure | value | 95 % interval | n | target | |",
        "| --- " * 7 + "|",
    ]
    for row in held:
        n = str(row.measure.n) if row.measure else ""
        verdict = {"pass": "met", "miss": "missed"}.get(row.verdict, row.verdict)
        cells = (row.section, row.spec.name, row.value_text, row.interval_text, n, row.target_text, verdict)
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "![effect and cost of every editor](images/editing.png)", ""]
    for section, title in _TITLES.items():
        if any(row["section"] == section for row in rows):
            lines += [f"## {title}", "", _ABOUT[section], ""]
        for modality, (name, _) in _MODALITIES.items():
            groups = grouped(rows, section, modality)
            if groups:
                lines += [*_table(groups, section, modality, name), ""]
    return "\n".join(lines)


def _table(
    groups: Mapping[str, list[Mapping[str, Any]]], section: str, modality: str, name: str
) -> list[str]:
    specs = [spec for spec in specs_of(section, modality) if any(measure(g, spec) for g in groups.values())]
    lines = [
        f"| {name} | edits | {' | '.join(spec.name for spec in specs)} |",
        "| --- " * (len(specs) + 2) + "|",
    ]
    problems = []
    for label, rows in groups.items():
        cells = [_cell(rows, spec) for spec in specs]
        lines.append(f"| {label} | {sum(not row.get('problem') for row in rows)} | {' | '.join(cells)} |")
        problems += [
            f"* {label}, {row['pairs'][0][0]} -> {row['pairs'][0][1]}: {row['problem']}"
            for row in rows
            if row.get("problem")
        ]
    return [*lines, *(["", *problems] if problems else [])]


def specs_of(section: str, modality: str) -> tuple[Spec, ...]:
    """The columns of a table."""
    special = {"growth": GROWTH, "several": SEVERAL}
    return special.get(section, _MODALITIES[modality][1])


def _cell(rows: Rows, spec: Spec) -> str:
    found = measure(rows, spec)
    if found is None:
        return ""
    share = spec.unit in ("%", "top1")
    digits = 0 if share else 3 if found.value < 1 else 2
    if found.low is None or found.high is None:
        return f"{found.value:.{digits}f}"
    return f"{found.value:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def _tables(rows: Rows) -> list[dict[str, Any]]:
    """Every table's figures, with n and intervals."""
    found = []
    for section in _TITLES:
        for modality in _MODALITIES:
            for label, mine in grouped(rows, section, modality).items():
                specs = specs_of(section, modality)
                measured = {spec.key: measure(mine, spec) for spec in specs}
                found.append(
                    {
                        "section": section,
                        "modality": modality,
                        "row": label,
                        "pairs": [row["pairs"] for row in mine],
                        "problems": [row["problem"] for row in mine if row.get("problem")],
                        "seconds": [row["seconds"] for row in mine],
                        "figures": {
                            key: {"value": m.value, "low": m.low, "high": m.high, "n": m.n, "edits": m.seeds}
                            for key, m in measured.items()
                            if m is not None
                        },
                    }
                )
    return found


def _target(row: Row) -> dict[str, Any]:
    found = row.measure
    return {
        "edit": row.section,
        "measure": row.spec.name,
        "value": None if found is None else found.value,
        "low": None if found is None else found.low,
        "high": None if found is None else found.high,
        "n": 0 if found is None else found.n,
        "target": row.spec.target,
        "verdict": row.verdict,
    }
