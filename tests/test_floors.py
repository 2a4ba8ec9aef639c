"""Import floors: a room imports only from its own floor or those above it, and there is no import circle."""

import ast
from functools import cache
from pathlib import Path

import pytest

import lmms_steer

PACKAGE = Path(lmms_steer.__file__).parent
FLOORS = (
    ("errors", "registry", "_util"),
    ("concepts", "scoring", "statistics", "plots"),
    ("tiny_world", "smol"),
    ("vectors",),
    ("steering",),
    ("models",),
    ("extraction", "replay"),
    ("harness",),
    ("data", "inspection"),
    ("search", "comparison"),
    ("board", "word_curves"),
    ("recipes",),
    ("demo",),
    ("cli",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# the top-level package holds only a constant and lazy re-exports, so every room may import it
FREE = ("lmms_steer",)


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in PACKAGE.rglob("*.py")}


@cache
def imports_of(module: str) -> set[str]:
    """The package's modules that a module imports, wherever in its code; imports for type checkers count too."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lmms_steer"):
            below = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES.keys()
            found |= below or {str(node.module)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in MODULES}
    return found - {module, *FREE}


def room_of(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("module", [name for name in MODULES if name not in FREE])
def test_a_room_imports_from_the_same_or_a_lower_floor(module: str) -> None:
    forbidden = [other for other in imports_of(module) if FLOOR[room_of(other)] > FLOOR[room_of(module)]]
    assert not forbidden


def test_no_module_imports_itself_through_others() -> None:
    edges = {module: imports_of(module) for module in MODULES if module not in FREE}
    while leaves := [module for module, targets in edges.items() if not targets & edges.keys()]:
        for leaf in leaves:
            del edges[leaf]
    assert not edges, f"in a circle, or above one: {sorted(edges)}"


def test_every_room_has_a_floor() -> None:
    assert {room_of(module) for module in MODULES if module not in FREE} == set(FLOOR)
