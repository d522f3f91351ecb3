"""How items are shared out: every one once, however many processes there are."""

from __future__ import annotations

import pytest

from nam.data.items import Item
from nam.data.predict import PredictData, Share
from nam.data.prompts import ScenePrompts
from nam.errors import ConfigError

SOURCE = ScenePrompts(concepts=("cat",), draw=5, draw_two=0, draw_riddle=0, riddle=0, caption=0)


@pytest.mark.parametrize("size", [0, 1, 7, 12])
@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("done", [(), (0, 3, 4)])
def test_every_item_is_in_one_share(size: int, world: int, done: tuple[int, ...]) -> None:
    shares = [Share(size, rank=rank, world=world, done=done) for rank in range(world)]
    found = [index for share in shares for index in share]
    assert sorted(found) == [index for index in range(size) if index not in done]
    lengths = [len(share) for share in shares]
    assert sum(lengths) == len(found)
    assert max(lengths) - min(lengths) <= 1


def test_batches_hold_whole_items_in_order() -> None:
    data = PredictData(source=SOURCE, batch_size=2)
    data.done = {1}
    batches: list[list[Item]] = list(data.predict_dataloader())  # type: ignore[arg-type]
    assert [[item.index for item in batch] for batch in batches] == [[0, 2], [3, 4]]
    assert all(isinstance(item, Item) for batch in batches for item in batch)


def test_impossible_settings_name_their_key() -> None:
    with pytest.raises(ConfigError, match=r"data\.batch_size"):
        PredictData(source=SOURCE, batch_size=0)
    with pytest.raises(ConfigError, match=r"data\.num_workers"):
        PredictData(source=SOURCE, num_workers=-1)
    with pytest.raises(ConfigError, match="holds nothing"):
        PredictData(
            source=ScenePrompts(concepts=("cat",), draw=0, draw_two=0, draw_riddle=0, riddle=0, caption=0)
        )
