"""The templates of captions. Those that begin with _HELD are never trained on.

They are new arrangements of what is trained on: each way of joining two things in them ("and", "beside", a
comma) occurs in a trained template too. What a word never seen in a role means cannot be known.
"""

from __future__ import annotations

from typing import NamedTuple


class Template(NamedTuple):
    """A caption with slots; `noun_phrase` means that it can follow "draw ..."."""

    text: str
    noun_phrase: bool = True


# Slots. {a} {b}: "a red horse"; {bare_a} {bare_b}: "red horse"; {n} {m}: the nouns; {c} {d}: their colours;
# {p}: "on the grass"; {q}: "the grass".
_ONE_PLACE = (
    Template("{a} {p}"),
    Template("there is {a} {p}", False),
    Template("{p} , {a}", False),
    Template("{a} , {p}"),
    Template("one {bare_a} {p}"),
    Template("the {bare_a} {p}"),
    Template("{bare_a} {p}"),
    Template("{q} , with {a}"),
    Template("{q} with {a}"),
    Template("{a} is {p}", False),
    Template("{p} there is {a}", False),
)
_ONE_PLACE_COLOUR = (
    Template("a {n} that is {c} , {p}"),
    Template("a {n} that is {c} {p}"),
    Template("a {n} {p} , the {n} is {c}"),
)
_ONE = (
    Template("{a}"),
    Template("there is {a}", False),
    Template("one {bare_a}"),
    Template("the {bare_a}"),
    Template("{bare_a}"),
    Template("just one {bare_a}"),
    Template("only {a}"),
    Template("it is {a}", False),
)
_ONE_COLOUR = (Template("a {n} that is {c}"), Template("the {n} is {c}", False))
_TWO_PLACE = (
    Template("{a} and {b} {p}"),
    Template("there is {a} and {b} {p}", False),
    Template("{p} , {a} and {b}", False),
    Template("{a} and {b} , {p}"),
    Template("one {bare_a} and one {bare_b} {p}"),
    Template("the {bare_a} and the {bare_b} {p}"),
    Template("{bare_a} and {bare_b} {p}"),
    Template("{q} , with {a} and {b}"),
    Template("{a} next to {b} {p}"),
    Template("{a} with {b} {p}"),
    Template("{a} to the left of {b} {p}"),
    Template("left {a} , right {b} , {p}"),
    Template("{p} there is {a} and {b}", False),
    Template("{p} , {a} beside {b}", False),
    Template("{q} with {a} , {b}"),
    Template("{bare_a} , {bare_b} , {p}"),
)
_TWO_PLACE_COLOUR = (Template("a {n} that is {c} and a {m} that is {d} {p}"),)
_TWO = (
    Template("{a} and {b}"),
    Template("there is {a} and {b}", False),
    Template("one {bare_a} and one {bare_b}"),
    Template("the {bare_a} and the {bare_b}"),
    Template("{bare_a} and {bare_b}"),
    Template("{a} next to {b}"),
    Template("{a} with {b}"),
    Template("left {a} , right {b}"),
    Template("it is {a} and {b}", False),
    Template("it is {a} beside {b}", False),
    Template("{bare_a} , {bare_b}"),
)
_TWO_COLOUR = (Template("a {n} that is {c} and a {m} that is {d}"),)

_HELD_ONE_PLACE = (
    Template("{p} we see {a}", False),
    Template("{a} that is {p}"),
    Template("{p} is {a}", False),
)
_HELD_ONE_PLACE_COLOUR = (Template("the {n} is {c} and {p}", False),)
_HELD_ONE = (Template("we see {a}", False), Template("just {a}"), Template("only one {bare_a}"))
_HELD_ONE_COLOUR = (Template("one {n} that is {c}"),)
_HELD_TWO_PLACE = (
    Template("{p} we see {a} and {b}", False),
    Template("{a} beside {b} {p}"),
    Template("{p} is {a} and {b}", False),
    Template("{a} , {b} , {p}"),
)
_HELD_TWO_PLACE_COLOUR = (Template("one {n} that is {c} and one {m} that is {d} {p}"),)
_HELD_TWO = (
    Template("we see {a} and {b}", False),
    Template("{a} beside {b}"),
    Template("{a} , {b}"),
)
_HELD_TWO_COLOUR = (Template("one {n} that is {c} and one {m} that is {d}"),)

# (held out, two things, place said): (templates for any colours, templates that need every colour)
_TEMPLATES: dict[tuple[bool, bool, bool], tuple[tuple[Template, ...], tuple[Template, ...]]] = {
    (False, False, True): (_ONE_PLACE, _ONE_PLACE_COLOUR),
    (False, False, False): (_ONE, _ONE_COLOUR),
    (False, True, True): (_TWO_PLACE, _TWO_PLACE_COLOUR),
    (False, True, False): (_TWO, _TWO_COLOUR),
    (True, False, True): (_HELD_ONE_PLACE, _HELD_ONE_PLACE_COLOUR),
    (True, False, False): (_HELD_ONE, _HELD_ONE_COLOUR),
    (True, True, True): (_HELD_TWO_PLACE, _HELD_TWO_PLACE_COLOUR),
    (True, True, False): (_HELD_TWO, _HELD_TWO_COLOUR),
}
#: (held out, two things, place said, every colour said, noun phrases only) -> templates.
CHOICES: dict[tuple[bool, bool, bool, bool, bool], tuple[Template, ...]] = {}
for _key, (_any, _coloured) in _TEMPLATES.items():
    for _has_colours in (False, True):
        _all = _any + _coloured if _has_colours else _any
        CHOICES[(*_key, _has_colours, False)] = _all
        CHOICES[(*_key, _has_colours, True)] = tuple(t for t in _all if t.noun_phrase)
