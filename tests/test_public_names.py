"""The names of the top-level package: each is there, is typed, and costs nothing before it is used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lmms_steer


def typed_names() -> dict[str, str]:
    """name ▸ module, of the imports that type checkers see."""
    tree = ast.parse(Path(lmms_steer.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name: str(node.module) for node in imports for alias in node.names}


@pytest.mark.parametrize("name", [name for name in lmms_steer.__all__ if name != "search"])
def test_a_public_name_is_what_its_module_defines(name: str) -> None:
    assert getattr(lmms_steer, name).__module__ == lmms_steer._MODULE_OF[name]


def test_search_is_a_package_that_can_be_called() -> None:
    code = (
        "import inspect, lmms_steer; from lmms_steer.search.api import search\n"
        "assert inspect.signature(lmms_steer.search) == inspect.signature(search)\n"
        "from lmms_steer.search.options import SearchOptions; assert callable(lmms_steer.search)\n"
        "try: lmms_steer.search('pretrained=tiny-paligemma2', 'spatail', 'tiny_spatial_select', 'study')\n"
        "except lmms_steer.UserError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("unknown vector 'spatail': did you mean 'spatial'?")


def test_type_checkers_see_the_same_names() -> None:
    assert typed_names() == lmms_steer._MODULE_OF
    shown = [name for name in dir(lmms_steer) if not name.startswith("_")]
    assert shown == sorted([*lmms_steer.__all__, "concepts"]), "tab completion shows the public names and no others"
    with pytest.raises(AttributeError, match="has no attribute 'steeer'"):
        lmms_steer.steeer  # noqa: B018


def test_importing_the_package_imports_no_torch() -> None:
    code = "import lmms_steer, sys; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
