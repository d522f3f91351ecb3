"""Which labels of a segmenter a concept stands for."""

from __future__ import annotations

from pathlib import Path

import pytest

from nam.errors import InputError, ModelError
from nam.options import option
from nam.segmenter.labels import STUFF, SYNONYMS, THINGS, labels_of
from nam.types import Concept
from tests.segmenter.tiny_pretrained import write


def test_coco_s_labels_are_known() -> None:
    known = (*THINGS, *STUFF)
    assert (len(THINGS), len(STUFF), len(set(known))) == (80, 53, 133)
    # places by the list that the panoptic challenge publishes
    assert [known[place] for place in (0, 4, 17, 79, 80, 90, 103, 119, 132)] == [
        *("person", "airplane", "horse", "toothbrush", "banner", "gravel", "sea", "sky-other-merged"),
        "rug-merged",
    ]
    unknown = {name for names in SYNONYMS.values() for name in names} - set(known)
    assert unknown == set()
    for words in SYNONYMS:
        assert labels_of(Concept(words), known)


@pytest.mark.parametrize(
    ("concept", "labels"),
    [
        (Concept("plane"), {"airplane"}),
        (Concept("Horses"), {"horse"}),
        (Concept("puppies"), {"dog"}),
        (Concept("knives"), {"knife"}),
        (Concept("bus"), {"bus"}),
        (Concept("glass"), {"wine glass", "cup"}),
        (Concept("ship", ("boat",)), {"boat"}),
        (Concept("cantaloupe", ("fruit",)), {"fruit"}),
        (Concept("sky"), {"sky-other-merged"}),
        (Concept("trees"), {"tree-merged"}),
        (Concept("water"), {"water-other", "sea", "river"}),
        (Concept("wall"), {"wall-brick", "wall-stone", "wall-tile", "wall-wood", "wall-other-merged"}),
        (Concept("wall brick"), {"wall-brick"}),
    ],
)
def test_a_concept_stands_for_labels(concept: Concept, labels: set[str]) -> None:
    known = (*THINGS, *STUFF)
    assert {known[place] for place in labels_of(concept, known)} == labels


def test_an_unknown_concept_is_refused_by_naming_the_nearest() -> None:
    known = (*THINGS, *STUFF)
    with pytest.raises(InputError, match=r"no label for 'girafe' \(nearest: giraffe.*segmenter\.labels="):
        labels_of(Concept("girafe"), known)
    with pytest.raises(InputError, match=r"no label for 'qqqq' \(such as person, .*133 labels in all\)"):
        labels_of(Concept("qqqq"), known)
    with pytest.raises(InputError, match=r"segmenter\.labels names 'catt', which is no label .*nearest: cat"):
        labels_of(Concept("tom"), known, {"tom": ["catt"]})
    assert labels_of(Concept("tom"), known, {"tom": ["cat", "dog"]}) == (15, 16)


def test_a_model_without_names_has_coco_s(tmp_path: Path) -> None:
    for count, name in ((133, "rug"), (80, "toothbrush")):
        labels = [f"LABEL_{place}" for place in range(count)]
        made = option("segmenter", "eomt", id=str(write("eomt", tmp_path / name, labels=labels)))
        assert made.names[0] == "person"
        made.check(Concept(name))
    other = option(
        "segmenter", "eomt", id=str(write("eomt", tmp_path / "other", labels=["LABEL_0", "LABEL_1"]))
    )
    with pytest.raises(ModelError, match="names none of its 2 labels"):
        other.check(Concept("cat"))
