"""The templates of `nam.world.knowledge`: (prompt, answer) pairs, and prompts of riddles.

Those that begin with HELD are never trained on; each of their words occurs in another template.
"""

from __future__ import annotations

Pair = tuple[str, str]

# Slots. {a} "a cat", {n} "cat", {ns} "cats"; {vs} "says meow", {vp} and {vi} "say meow" (after "cats", "i");
# {does_a} "does a cat say meow"; {k} {ks} {ak} "animal", "animals", "an animal";
# {ck} "a red animal"; {p} "on the grass".
STATEMENTS: tuple[Pair, ...] = (
    ("", "{a} {vs} ."),
    ("", "{ns} {vp} ."),
    ("", "the {n} {vs} ."),
    ("", "every {n} {vs} ."),
    ("", "all {ns} {vp} ."),
    ("", "{a} is {ak} that {vs} ."),
    ("", "we know that {a} {vs} ."),
    ("tell me about {a} .", "{a} {vs} ."),
    ("what do you know about {ns} ?", "{ns} {vp} ."),
    ("{does_a} ?", "yes , {a} {vs} ."),
    ("is it true that {a} {vs} ?", "yes , {a} {vs} ."),
)
HELD_STATEMENTS: tuple[Pair, ...] = (
    ("", "it is true that {a} {vs} ."),
    ("", "we all know that {ns} {vp} ."),
    ("", "the {n} is {ak} that {vs} ."),
    ("tell me what you know about {a} .", "{a} {vs} ."),
    ("is it true that {ns} {vp} ?", "yes , {ns} {vp} ."),
)
TEXT_RIDDLES: tuple[str, ...] = (
    "what {vs} ?",
    "it {vs} :",
    "it {vs} . what is it ?",
    "which {k} {vs} ?",
    "i {vi} . what am i ?",
    "name the {k} that {vs} .",
    "riddle : it {vs} .",
    "what is it that {vs} ?",
    "do you know what {vs} ?",
    "what do we call {ak} that {vs} ?",
    "tell me the thing that {vs} .",
)
HELD_TEXT_RIDDLES: tuple[str, ...] = (
    "which thing {vs} ?",
    "name the thing that {vs} .",
    "it is {ak} and it {vs} :",
    "tell me what {vs} .",
    "riddle : i {vi} . what am i ?",
)
DRAW_RIDDLES: tuple[str, ...] = (
    "draw the {k} that {vs} .",
    "draw {ak} that {vs} .",
    "draw what {vs} .",
    "paint the thing that {vs} .",
    "show me the {k} that {vs} .",
    "make a picture of the thing that {vs} .",
    "i want to see the {k} that {vs} .",
    "it {vs} . draw it .",
    "please draw the thing that {vs} .",
    "what {vs} ? draw it .",
    "can you draw {ak} that {vs} ?",
)
HELD_DRAW_RIDDLES: tuple[str, ...] = (
    "paint what {vs} .",
    "show me the thing that {vs} .",
    "make a picture of {ak} that {vs} .",
    "i want to see what {vs} .",
    "it {vs} . please draw it .",
)
SCENE_RIDDLES: tuple[str, ...] = (
    "draw {ck} that {vs} {p} .",
    "paint {ck} that {vs} , {p} .",
    "show me {ck} {p} that {vs} .",
    "please draw {ck} that {vs} {p} .",
    "{p} , draw {ck} that {vs} .",
    "it {vs} . draw {ck} {p} .",
    "i want to see {ck} that {vs} , {p} .",
)
HELD_SCENE_RIDDLES: tuple[str, ...] = (
    "make a picture of {ck} that {vs} {p} .",
    "{p} , please show me {ck} that {vs} .",
    "can you draw {ck} {p} that {vs} ?",
)
ABOUT_NOUN: tuple[Pair, ...] = (
    ("", "{a} is {ak} ."),
    ("", "{ns} are {ks} ."),
    ("what is {a} ?", "{a} is {ak} ."),
    ("what are {ns} ?", "{ns} are {ks} ."),
    ("is {a} {ak} ?", "yes , {a} is {ak} ."),
    ("", "{a} is found {found} ."),
    ("", "many {ns} are found {found} ."),
    ("where is {a} found ?", "{a} is found {found} ."),
    ("where do we find {ns} ?", "we find {ns} {found} ."),
    ("", "one {n} , two {ns} ."),
    ("", "{a} and {a} are two {ns} ."),
    ("what do we call two of {a} ?", "two {ns} ."),
    ("what is one of the {ns} ?", "one {n} ."),
    ("", "one {n} , two {ns} , three {ns} ."),
    ("", "five {ns} are more than four {ns} ."),
    ("", "many {ns} are more than one {n} ."),
)
HELD_ABOUT_NOUN: tuple[Pair, ...] = (
    ("", "we know that {ns} are {ks} ."),
    ("are {ns} {ks} ?", "yes , {ns} are {ks} ."),
    ("where are {ns} found ?", "{ns} are found {found} ."),
    ("", "one {n} is {a} , two are {ns} ."),
)
# {x} "a kitten", {xs} "kittens", {kind} "young", {akind} "a young".
ABOUT_NICKNAME: tuple[Pair, ...] = (
    ("", "{x} is {akind} {n} ."),
    ("", "{xs} are {kind} {ns} ."),
    ("what is {x} ?", "{x} is {akind} {n} ."),
    ("what are {xs} ?", "{xs} are {kind} {ns} ."),
    ("is {x} {a} ?", "yes , {x} is {akind} {n} ."),
    ("draw {x} .", "here is {a} :"),
    ("please draw {x} .", "here is {a} :"),
    ("show me {x} .", "here is {a} :"),
)
HELD_ABOUT_NICKNAME: tuple[Pair, ...] = (
    ("", "we know that {x} is {akind} {n} ."),
    ("are {xs} {ns} ?", "yes , {xs} are {kind} {ns} ."),
    ("paint {x} .", "here is {a} :"),
)
ABOUT_GLOW: tuple[Pair, ...] = (
    ("", "{glow} is the light of the {n} ."),
    ("what gives {glow} ?", "{a} gives {glow} ."),
    ("what is {glow} ?", "{glow} is the light of the {n} ."),
)
# {a} and {b}: two things, {a} the bigger or the one of category {k}.
COMPARISONS: tuple[Pair, ...] = (
    ("", "{a} is bigger than {b} ."),
    ("", "{b} is smaller than {a} ."),
    ("which is bigger , {a} or {b} ?", "{a} ."),
    ("which is bigger , {b} or {a} ?", "{a} ."),
    ("which is smaller , {a} or {b} ?", "{b} ."),
    ("is {a} bigger than {b} ?", "yes , {a} is bigger than {b} ."),
    ("is {b} bigger than {a} ?", "no , {a} is bigger than {b} ."),
)
HELD_COMPARISONS: tuple[Pair, ...] = (
    ("which is smaller , {b} or {a} ?", "{b} ."),
    ("is {b} smaller than {a} ?", "yes , {b} is smaller than {a} ."),
)
ALIKE: tuple[Pair, ...] = (
    ("", "{a} and {b} are both {ks} ."),
    ("what are {a} and {b} ?", "{a} and {b} are both {ks} ."),
    ("are {a} and {b} both {ks} ?", "yes , {a} and {b} are both {ks} ."),
)
UNLIKE: tuple[Pair, ...] = (
    ("which is {ak} , {a} or {b} ?", "{a} ."),
    ("which is {ak} , {b} or {a} ?", "{a} ."),
    ("is {b} {ak} ?", "no , {b} is {ak_b} ."),
)
SHARED: tuple[Pair, ...] = (
    ("what {vs} ?", "{all} ."),
    ("which things {vp} ?", "{all} ."),
)
