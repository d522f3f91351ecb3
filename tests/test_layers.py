"""Imports go one way, in the order that docs/architecture.md gives."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "nam"
PAGE = PACKAGE.parent / "docs" / "architecture.md"


def order() -> list[str]:
    """The files and folders of the package as the page's first table lists them."""
    rows = [line.split(" | ")[0] for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    return [name for row in rows for name in re.findall(r"`([a-z_]+)(?:/|\.py)`", row)]


def imported(node: ast.AST) -> Iterator[str]:
    """Modules of this package that are imported when the code runs, at the top or inside a function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.ImportFrom) and child.module == "nam":
            yield from (f"nam.{alias.name}" for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module:
            yield child.module
        elif isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        yield from imported(child)


def test_imports_go_one_way() -> None:
    place = {name: number for number, name in enumerate(order())}
    files = [path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem != "__init__"]
    wrong = []
    for path in files:
        mine = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for module in imported(ast.parse(path.read_text())):
            top, _, rest = module.partition(".")
            theirs = rest.partition(".")[0]
            if top == "nam" and theirs and place[theirs] > place[mine]:
                wrong.append(f"{path.relative_to(PACKAGE)} imports {module}")
    assert not wrong
    assert set(place) == {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in files}
