"""What is told of a wrong key: by itself where it is inside of what was set, never as its own neighbour."""

from __future__ import annotations

import pytest

from nam.app.config import compose
from nam.app.explain import explain, wrong_item

INSIDE = [
    (["data=coco", "data.source.prompts={describ: x}"], "did you mean 'data.source.prompts.describe'?"),
    (["data=coco", "data.source.prompts.describ=x"], "did you mean 'data.source.prompts.describe'?"),
    (["data=scenes", "data.source={drw: 1}"], "did you mean 'data.source.draw'?"),
]


@pytest.mark.parametrize(("overrides", "hint"), INSIDE)
def test_a_key_inside_of_a_value_is_named(overrides: list[str], hint: str) -> None:
    with pytest.raises(Exception, match="Could not override") as caught:
        compose("attribute", overrides)
    line = explain(caught.value, "attribute", overrides)
    key = line.partition("'")[2].partition("'")[0]
    assert key in ("data.source.prompts.describ", "data.source.drw")
    assert line == f"unknown key {key!r}: {hint}"


def test_a_key_inside_of_a_list_is_told() -> None:
    overrides = ["data=words", "data.source.prompts.x=1"]
    with pytest.raises(ValueError, match="invalid literal"):  # OmegaConf's, which says nothing of the key
        compose("attribute", overrides)
    line = "data.source.prompts is a list, which has no 'x': set data.source.prompts=[...]"
    assert wrong_item("attribute", overrides) == line
    assert wrong_item("attribute", ["data=words", "data.source.prompts=[a]", "seed=1"]) == ""
