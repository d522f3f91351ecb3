"""Every word of the world's language, gathered from the tables that make its sentences."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from nam.world import dialogues, facts, language, phrasings, templates, words
from nam.world.scene import COLOURS, NOUNS, PLACES


@lru_cache(maxsize=1)
def vocabulary() -> tuple[str, ...]:
    """The words and punctuation marks that captions, dialogue and knowledge can contain, sorted."""
    tables: list[Any] = [NOUNS, COLOURS, PLACES, "a an and no thing things"]
    for module in (words, templates, language, dialogues, facts, phrasings):
        tables += [value for name, value in vars(module).items() if name.isupper()]
    texts: set[str] = set()
    for table in tables:
        _gather(table, texts)
    return tuple(sorted(words.words_of(texts)))


def _gather(value: Any, texts: set[str]) -> None:
    """Collect every string inside nested tables; dictionary keys count where they are strings."""
    if isinstance(value, str):
        texts.add(value)
    elif isinstance(value, facts.Fact):
        texts.update((value.singular, value.plural, value.first_person))
    elif isinstance(value, dict):
        for key, item in value.items():
            _gather((key if isinstance(key, str) else (), item), texts)
    elif isinstance(value, tuple | list):
        for item in value:
            _gather(item, texts)
