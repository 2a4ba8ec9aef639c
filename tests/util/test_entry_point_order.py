"""One module of a package may register entries in several registries, and be imported before they are listed."""

import sys
from pathlib import Path

import pytest

from lmms_steer.errors import UserError
from lmms_steer.registry import Registry


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module that an installed package declares under both groups."""
    info = tmp_path / "toy_steering-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-steering\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[toy.methods]\none = toy_steering\n[toy.operations]\ntwo = toy_steering\n")
    (tmp_path / "toy_steering.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "toy_steering", raising=False)
    return "toy_steering"


def test_a_module_that_is_already_imported_does_not_conflict_with_its_own_entry(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods, operations = Registry[int]("method", "toy.methods"), Registry[int]("operation", "toy.operations")
    monkeypatch.setitem(sys.modules, package, sys)
    methods.add("one", 1)
    operations.add("two", 2)
    assert methods.names() == ("one",) and operations.entries() == {"two": 2}


def test_an_entry_point_with_a_taken_name_is_refused(package: str) -> None:
    operations = Registry[int]("operation", "toy.operations")
    operations.add("two", 2)
    with pytest.raises(UserError, match="toy-steering"):
        operations.names()
