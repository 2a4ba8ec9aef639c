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


@pytest.mark.parametrize("name", lmms_steer.__all__)
def test_a_public_name_is_what_its_module_defines(name: str) -> None:
    assert getattr(lmms_steer, name).__module__ == lmms_steer._MODULE_OF[name]


def test_type_checkers_see_the_same_names() -> None:
    assert typed_names() == lmms_steer._MODULE_OF
    assert set(lmms_steer.__all__) <= set(dir(lmms_steer))
    with pytest.raises(AttributeError, match="has no attribute 'steeer'"):
        lmms_steer.steeer  # noqa: B018


def test_importing_the_package_imports_no_torch() -> None:
    code = "import lmms_steer, sys; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
