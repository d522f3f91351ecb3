"""The table of a sweep, of folders that were made by hand."""

from __future__ import annotations

import json
from pathlib import Path

from nam.report.comparison import compare, markdown, shown


def job(folder: Path, number: int, *overrides: str, status: str = "finished", **figures: float) -> None:
    path = folder / str(number)
    path.mkdir()
    (path / "config.yaml").write_text(json.dumps({"overrides": overrides}))
    (path / "manifest.json").write_text(json.dumps({"status": status}))
    (path / "metrics.json").write_text(json.dumps({**figures, "matrix": {"cat": {"cat": 1}}}))


def test_rows_are_jobs_and_columns_what_differs(tmp_path: Path) -> None:
    job(tmp_path, 0, "edit.source=cat", "edit.k=8", drawn=0.5, norm=1.25)
    job(tmp_path, 2, "edit.source=cat", "edit.k=32", status="running")
    job(tmp_path, 10, "edit.source=cat", "edit.k=128", "+x=1", drawn=1.0, norm=1234.5)
    (tmp_path / "3").mkdir()
    error = {"error": "a | b\nc", "overrides": ["edit.source=cat", "edit.k=64"]}
    (tmp_path / "3" / "error.json").write_text(json.dumps(error))
    (tmp_path / "multirun.yaml").write_text("")
    found = compare(tmp_path)
    assert found.varied == ("edit.k", "x")
    assert found.failed
    assert found.frame["run"].tolist() == ["0", "2", "3", "10"]
    assert found.frame["edit.k"].tolist() == ["8", "32", "64", "128"]
    assert "matrix/cat/cat" not in found.frame
    names, rows = shown(found)
    assert names == ["run", "edit.k", "x", "drawn", "norm", "error"]
    assert rows[0] == ["0", "8", "", "50%", "1.25", ""]
    assert rows[1] == ["2", "32", "", "", "", "it did not come to its end"]
    assert rows[3] == ["10", "128", "1", "100%", "1.23e+03", ""]
    assert "| 3 | 64 |  |  |  | a \\| b c |\n" in markdown(found)


def test_without_failures_there_is_no_column_of_errors(tmp_path: Path) -> None:
    job(tmp_path, 0, "edit.k=8", said=0.5)
    job(tmp_path, 1, "edit.k=9", said=0.25)
    found = compare(tmp_path)
    assert not found.failed
    assert shown(found)[0] == ["run", "edit.k", "said"]
    assert found.frame["error"].tolist() == [None, None]
