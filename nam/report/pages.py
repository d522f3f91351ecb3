"""What every page has in common: how it is written, and how it says what made a run."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from nam.store.files import atomic, clean

#: Name of the report inside a run folder.
REPORT_FILE = "report.html"


def write_page(template: str, folder: Path, **values: Any) -> Path:
    """Write report.html into a run folder, which opens offline; its path. Nothing in it is left unescaped.

    Args:
        template: A file of `nam/report/templates`.
        folder: The run folder.
        values: What the template shows.

    Raises:
        StoreError: it cannot be written.
    """
    environment = Environment(
        loader=PackageLoader("nam.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template).render(**values)
    path = folder / REPORT_FILE
    with atomic(path) as temporary:
        temporary.write_text(clean(page), encoding="utf-8")
    return path


def facts_of(manifest: Mapping[str, Any], *, without: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """What one needs to repeat a run, as name and value."""
    facts = []
    for name, value in manifest.items():
        if name in without:
            continue
        if name == "peak_memory" and isinstance(value, dict):
            value = {key: f"{size / 2**20:,.0f} MiB" for key, size in value.items() if isinstance(size, int)}
        if name in ("started", "finished"):
            value = moment(value)
        if value not in (None, "", [], {}):
            facts.append((name.replace("_", " "), short(value)))
    return facts


def moment(stamp: Any) -> str:
    """A time of the manifest as one reads it; whatever else stands there, as it is."""
    try:
        found = datetime.fromisoformat(stamp)
    except (TypeError, ValueError):
        return short(stamp) if stamp else ""
    return f"{found.day} {found:%B %Y, %H:%M %Z}".rstrip()


def short(value: Any) -> str:
    """The value as one reads it: four digits of a number with a point, lists and tables without brackets."""
    if isinstance(value, list):
        return ", ".join(map(short, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {short(item)}" for key, item in value.items() if item is not None)
    if isinstance(value, float):
        return "< 0.001" if 0 < value < 0.001 else f"{value:.4g}"
    return str(value)
