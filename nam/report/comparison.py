"""The runs of a sweep of edits side by side: what they differ in, and what each of them reached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nam.store.files import CONFIG_FILE, StoreError, read_json
from nam.store.schema import MANIFEST_FILE, METRICS_FILE

if TYPE_CHECKING:
    from pandas import DataFrame

#: Name of the tables inside the folder of a sweep.
COMPARISON = "comparison"

#: What a job that failed leaves in its folder: its error and its overrides.
ERROR_FILE = "error.json"

#: Figures that the printed table shows, where any run has them, and what it calls them.
SHOWN = {
    "drawn": "drawn",
    "said": "said",
    "colour_kept": "colour",
    "others_drawn": "others drawn",
    "others_text": "others said",
    "norm": "norm",
    "neurons": "neurons",
    "seconds/edit": "s",
}

#: What the headings mean.
NOTE = (
    "drawn, said: the target, where the source is asked for; colour: kept in the target's pictures; "
    "others drawn, others said: as before, of everything else; s: seconds of the editor"
)

#: Those of them that are no shares.
_NUMBERS = {"norm": "{:.3g}", "neurons": "{:.0f}", "seconds/edit": "{:.1f}"}


@dataclass(frozen=True, eq=False)
class Compared:
    """A sweep's jobs, in its order.

    Attributes:
        frame: A row for each job. Columns: `run` (its folder's name), the varied settings, every figure of
            metrics.json that is a number (nested names joined by "/"), and `error`, None without one.
        varied: The settings whose values differ between the jobs.
    """

    frame: DataFrame
    varied: tuple[str, ...]

    @property
    def failed(self) -> bool:
        """Whether any job has an error."""
        return bool(self.frame["error"].notna().any())


def compare(folder: str | Path) -> Compared:
    """The jobs of a sweep.

    Args:
        folder: Of the sweep; each job's folder has its number for a name.
    """
    import pandas as pd

    from nam.report.tracking import flat

    jobs = sorted((path for path in Path(folder).iterdir() if path.name.isdigit()), key=lambda p: int(p.name))
    given = [_overrides(job) for job in jobs]
    names = dict.fromkeys(name for one in given for name in one)
    varied = [name for name in names if len({one.get(name) for one in given}) > 1]
    rows: list[dict[str, Any]] = []
    for job, settings in zip(jobs, given, strict=True):
        row: dict[str, Any] = {"run": job.name, **{name: settings.get(name) for name in varied}}
        error = _error(job)
        if error is None:
            metrics = read_json(job / METRICS_FILE)
            row |= dict(flat({name: value for name, value in metrics.items() if name != "matrix"}))
        rows.append({**row, "error": error})
    columns = dict.fromkeys(name for row in rows for name in row if name != "error")
    return Compared(pd.DataFrame(rows, columns=[*columns, "error"]).astype({"error": object}), tuple(varied))


def shown(compared: Compared) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of the table that is printed: settings, the main figures, and the errors if any."""
    frame = compared.frame
    figures = [name for name in SHOWN if name in frame and frame[name].notna().any()]
    columns = ["run", *compared.varied, *figures, *(["error"] if compared.failed else [])]
    rows = [[_cell(name, row[name]) for name in columns] for row in frame.to_dict("records")]
    return [SHOWN.get(name, name) for name in columns], rows


def markdown(compared: Compared) -> str:
    """The same table in Markdown."""
    names, rows = shown(compared)
    lines = [names, ["---"] * len(names), *([_escaped(cell) for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + f"\n{NOTE}.\n"


def _cell(name: str, value: Any) -> str:
    if value is None or value != value:  # NaN
        return ""
    if name in SHOWN:
        return _NUMBERS.get(name, "{:.0%}").format(value)
    return str(value)


def _escaped(cell: str) -> str:
    return " ".join(cell.split()).replace("|", "\\|")


def _overrides(job: Path) -> Mapping[str, str]:
    """What the job was started with, by key."""
    from omegaconf import OmegaConf

    given: Any = []
    if (job / ERROR_FILE).is_file():
        given = read_json(job / ERROR_FILE)["overrides"]
    elif (job / CONFIG_FILE).is_file():
        given = OmegaConf.load(job / CONFIG_FILE).overrides
    parts = (str(one).lstrip("+~").partition("=") for one in given)
    return {name: value for name, _, value in parts}


def _error(job: Path) -> str | None:
    """Why a job has no figures; None where it has."""
    if (job / ERROR_FILE).is_file():
        return str(read_json(job / ERROR_FILE)["error"])
    try:
        finished = read_json(job / MANIFEST_FILE).get("status") == "finished"
    except StoreError:
        finished = False
    return None if finished else "it did not come to its end"
