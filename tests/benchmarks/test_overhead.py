"""The benchmark of costs: its jobs do the same work, and its table says what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import overhead
from benchmarks.cost import jobs, pairs
from benchmarks.cost.shape import MANY, Case, Shape
from nam.app.config import group_options
from nam.options import option

TINY = Shape(layers=2, hidden=32, ffn=48, heads=2, vocabulary=500, prompt=9)


@pytest.fixture(scope="module")
def case() -> Case:
    return Case(TINY)


def scores(case: Case, name: str, count: int = 1) -> list[torch.Tensor]:
    return jobs.attribution(case, option("reduction", name), count)()


def test_jobs_and_peers_give_the_same_scores(case: Case) -> None:
    direct = scores(case, "acu", MANY)
    assert direct[0].shape == (2, 48)
    for mine, other in zip(direct, jobs.hooks_direct(case, MANY), strict=True):
        torch.testing.assert_close(mine, other)
    torch.testing.assert_close(scores(case, "acu"), jobs.captum_direct(case))
    gradient = scores(case, "gradxact")
    torch.testing.assert_close(gradient, jobs.hooks_gradient(case))
    torch.testing.assert_close(gradient, jobs.captum_gradient(case))


def test_the_two_forward_passes_compute_the_same_logits(case: Case) -> None:
    torch.testing.assert_close(case.same_logits(3), case.forward()[0, -1, case.tokens[:3]])


def test_ratios_are_taken_pair_by_pair_and_each_order_comes() -> None:
    now, order = 0.0, ""

    def spend(name: str, seconds: float) -> None:
        nonlocal now, order
        now, order = now + seconds, order + name

    found = pairs.measure(
        lambda: spend("j", 3.0),
        forward=lambda: spend("f", 2.0),
        same_logits=lambda: spend("s", 1.5),
        pairs=4,
        clock=lambda: now,
    )
    assert (found.forward.value, found.same_logits.value, found.forward.n) == (1.5, 2.0, 4)
    assert order == "fsj" + "jsf" + "fsj" + "jsf" + "fsj"


def test_peak_memory_sees_what_is_let_go_again() -> None:
    held = pairs.peak_memory(lambda: torch.ones(25_000_000).sum())
    if held is not None:  # where the system can tell
        assert 95e6 < held < 130e6


def test_every_method_and_peer_has_a_row_in_each_table(tmp_path: Path) -> None:
    arguments = [
        "--pairs",
        "1",
        "--threads",
        "1",
        "--out",
        str(tmp_path),
        "--only",
        "acu,gradxact,hooks,captum",
    ]
    rows = overhead.main(arguments, shape=TINY)
    labels = [row.spec.name for row in rows if row.section == overhead.FORWARD]
    assert "nam: acu, 1 target" in labels
    assert f"nam: acu, {MANY} targets" in labels
    assert "nam: gradxact, 1 target" in labels
    assert sum(label.startswith("captum") for label in labels) == 2
    for section in (overhead.SAME, overhead.MEMORY):
        assert [row.spec.name for row in rows if row.section == section] == labels
    by_label = {row.spec.name: row for row in rows if row.section == overhead.FORWARD}
    assert by_label["nam: acu, 1 target"].spec.target == 0.8
    assert by_label["nam: gradxact, 1 target"].spec.target == 1.6
    written = json.loads((tmp_path / "overhead.json").read_text())
    assert len(written["rows"]) == len(rows)
    assert "nnsight" in (tmp_path / "overhead.md").read_text()


def test_every_option_becomes_a_job(case: Case) -> None:
    assert {job.name.split()[1] for job in jobs.our_jobs(case)} == set(group_options("reduction"))


def test_a_job_that_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        overhead.main(["--only", "nothing"], shape=TINY)
    assert "--only: no job has such a name" in capsys.readouterr().out
