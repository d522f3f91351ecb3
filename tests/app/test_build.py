"""Values, and the project's own options, against signatures."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
from omegaconf import OmegaConf

import nam.data
from nam.app.build import build, build_all, check_call
from nam.app.config import compose, group_options
from nam.app.settings import check_attribution
from nam.checks import conforms
from nam.errors import ConfigError
from nam.relevance.levels import LevelsRelevance


@pytest.mark.parametrize(
    ("value", "hint", "fits"),
    [
        (1, int, True),
        (True, int, False),
        (1.0, int, False),
        (1, float, True),
        (False, float, False),
        ("1", float, False),
        (None, int | None, True),
        (None, int, False),
        ("a", Literal["a", "b"], True),
        ("c", Literal["a", "b"], False),
        (1, Literal[True], False),
        ([1], list[int], True),
        ("1", list[int], False),
        ({"a": 1}, Any, True),
    ],
)
def test_conforms(value: Any, hint: Any, fits: bool) -> None:
    assert conforms(value, hint) is fits


class Base:
    def __init__(self, *, width: int, depth: int = 2) -> None:
        pass


class Ours(Base):
    def __init__(self, *, colour: str = "red", **rest: Any) -> None:
        super().__init__(**rest)


Ours.__module__ = Base.__module__ = "nam.somewhere"


def test_a_class_of_ours_has_its_base_s_settings_too() -> None:
    check_call(Ours, {"width": 3, "colour": "blue"}, where="part.module")
    with pytest.raises(ConfigError, match=r"'part\.module\.widht' .*did you mean 'width'"):
        check_call(Ours, {"widht": 3}, where="part.module")
    with pytest.raises(ConfigError, match=r"'part\.module\.width' is missing"):
        check_call(Ours, {"colour": "blue"}, where="part.module")


def test_a_dataclass_s_hints_are_found_although_its_base_is_elsewhere() -> None:
    settings = {"aggregate": "none", "levels": [0.5], "through": "up"}
    check_call(LevelsRelevance, settings, where="relevance")
    with pytest.raises(
        ConfigError, match=r"^relevance\.aggregate must be 'none', 'mean', 'max' or 'sum', got 3$"
    ):
        check_call(LevelsRelevance, settings | {"aggregate": 3}, where="relevance")
    with pytest.raises(ConfigError, match=r"^expected a list: relevance\.levels=\[0\.5\]$"):
        check_call(LevelsRelevance, settings | {"levels": 0.5}, where="relevance")


def test_what_a_target_refuses_is_a_configuration_error() -> None:
    node = OmegaConf.create(
        {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "monitor": "x", "mode": "up"}
    )
    with pytest.raises(ConfigError, match="`mode` can be"):
        build(node)


def test_build_all_leaves_out_what_is_null() -> None:
    nodes = OmegaConf.create({"a": None, "b": {"_target_": "lightning.pytorch.callbacks.Timer"}})
    assert [type(built).__name__ for built in build_all(nodes)] == ["Timer"]
    assert build_all(None) == []


@pytest.mark.parametrize("group", ["data", "segmenter", "relevance", "reduction", "logger", "debug"])
def test_every_option_fits_the_real_signatures(group: str) -> None:
    for option in group_options(group):
        cfg = compose("attribute", [f"{group}={option}"])
        for key in OmegaConf.missing_keys(cfg):  # what only a user can know
            OmegaConf.update(cfg, key, ["horse"] if key.endswith("concepts") else "x.csv")
        check_attribution(cfg)


@pytest.mark.parametrize("experiment", [name for name in group_options("experiment") if "/" not in name])
def test_every_experiment_fits_the_real_signatures(experiment: str) -> None:
    cfg = compose("attribute", [f"experiment={experiment}"])
    check_attribution(cfg)
    assert len(cfg.reduction) > 1 or experiment.startswith("paper")  # those ask one thing


def test_a_module_that_cannot_be_imported_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torn.py").write_text("from nam.errors import NoSuchError")
    monkeypatch.setattr(nam.data, "__path__", [*nam.data.__path__, str(tmp_path)])
    for name, why in (("torn", "cannot import name 'NoSuchError'"), ("none", ".*no attribute 'none'")):
        with pytest.raises(ConfigError, match=f"'nam.data.{name}.Made' does not exist: {why}"):
            build(OmegaConf.create({"_target_": f"nam.data.{name}.Made"}))
