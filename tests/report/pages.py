"""Reports of made-up runs, parsed: what tests look for in a page."""

from __future__ import annotations

from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from nam.report import build_report
from nam.store import Run, RunWriter, SampleResult
from tests.store.results import MANIFEST, words

EVIL = "<script>alert('x')</script>\"><img src=x onerror=alert(1)> {{ 7 * 7 }}"


#: The template's own tags.
ALLOWED = {
    *("html", "head", "meta", "title", "style", "body", "main", "section", "footer", "h1", "h2", "h3"),
    *("p", "div", "span", "a", "b", "i", "code", "mark", "table", "tr", "th", "td"),
    *("details", "summary", "figure", "figcaption", "img"),
}


class Page(HTMLParser):
    """Tags with their attributes, and the text outside style sheets."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._skip = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._skip = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._skip = False

    def handle_data(self, data: str) -> None:
        if not self._skip:
            self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def run_of(
    folder: Path,
    results: Sequence[SampleResult],
    *,
    finish: bool = True,
    words: Any = words,
    top: int = 20,
    **manifest: Any,
) -> Run:
    with RunWriter(folder, manifest={**MANIFEST, **manifest}, words=words, top=top) as writer:
        for one in results:
            writer.add(one)
        if finish:
            writer.finish()
    return Run(folder)


def page_of(run: Run, **options: Any) -> Page:
    path = build_report(run, **options)
    assert path == run.folder / "report.html"
    return Page(path.read_text(encoding="utf-8"))
