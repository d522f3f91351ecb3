"""What the progress bar says of its speed."""

from __future__ import annotations

import pytest
from rich.progress import Progress as Bars

from nam.app.callbacks import Progress, Speed


class Clock:
    """Seconds that pass when they are told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def shown(bars: Bars) -> str:
    """What the column writes for the first task."""
    return str(Speed("").render(bars.tasks[0]))


def test_a_loop_of_one_step_has_a_speed_at_its_end(clock: Clock) -> None:
    bars = Bars(get_time=clock, disable=True)
    task = bars.add_task("one", total=1)
    assert shown(bars) == "0.00it/s"
    clock.now = 4.0
    bars.advance(task)
    assert bars.tasks[0].finished
    assert shown(bars) == "0.25it/s"
    clock.now = 8.0
    assert shown(bars) == "0.25it/s"  # the end is the end


def test_a_longer_loop_has_the_speed_that_lightning_shows(clock: Clock) -> None:
    bars = Bars(get_time=clock, disable=True)
    task = bars.add_task("many", total=9)
    for clock.now in (10.0, 12.0, 14.0):
        bars.advance(task)
    assert bars.tasks[0].speed == pytest.approx(0.5)
    assert shown(bars) == "0.50it/s"


def test_the_column_is_in_the_bar() -> None:
    bar = Progress()
    columns = bar.configure_columns(trainer=None)  # type: ignore[arg-type]
    assert sum(isinstance(column, Speed) for column in columns) == 1
    assert len(columns) == len(super(Progress, bar).configure_columns(trainer=None))  # type: ignore[arg-type]
