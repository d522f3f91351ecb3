"""Where each part of a sequence of tokens stands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """Positions `start` (included) to `stop` (excluded) of a sequence without padding."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.stop))


@dataclass(frozen=True)
class Spans:
    """What each part of a sequence is. The parts follow one another; an absent part is empty."""

    system: Span
    picture: Span
    text: Span
    answer: Span
    img: Span

    @classmethod
    def of_lengths(cls, *, system: int, picture: int, text: int, answer: int, img: int) -> Spans:
        """Spans of parts with these numbers of tokens, one after the other."""
        spans, start = [], 0
        for length in (system, picture, text, answer, img):
            spans.append(Span(start, start + length))
            start += length
        return cls(*spans)

    def __len__(self) -> int:
        return self.img.stop

    def until(self, stop: int) -> Spans:
        """What of each part stands before position `stop`."""
        parts = (self.system, self.picture, self.text, self.answer, self.img)
        return Spans(*(Span(min(part.start, stop), min(part.stop, stop)) for part in parts))
