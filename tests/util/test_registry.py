"""The registry: built-in entries, entries of scripts, and entry points of installed packages."""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import pytest

from lmms_steer.errors import UserError
from lmms_steer.registry import Registry

GROUP = "lmms_steer_tests.fruits"


@dataclass(frozen=True)
class Fruit:
    name: str
    description: str


fruits: Registry[Fruit] = Registry("fruit", GROUP)


@pytest.fixture(autouse=True)
def empty_registry() -> Iterator[None]:
    """Extensions find the registry as `tests.util.test_registry.fruits`; each test gets a new one."""
    global fruits  # noqa: PLW0603
    fruits = Registry("fruit", GROUP)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("extension_"):
            del sys.modules[name]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Install a package with one module and one entry point, as pip does: files in a folder of sys.path."""

    def write(package: str, name: str, code: str | None = None) -> None:
        module = f"extension_{package}"
        register = f"registry.fruits.add({name!r}, registry.Fruit({name!r}, 'of {package}'))\nfruit = None\n"
        code = register if code is None else code
        (tmp_path / f"{module}.py").write_text(f"from tests.util import test_registry as registry\n{code}")
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {module}:fruit\n")

    monkeypatch.syspath_prepend(str(tmp_path))
    return write


def test_an_entry_is_found_by_its_name_and_an_unknown_name_suggests_the_nearest() -> None:
    fruits.add("apple", Fruit("apple", "round"))
    fruits.add("melon", Fruit("melon", "large"))
    assert fruits.get("apple").description == "round" and fruits.names() == ("apple", "melon")
    assert "apple" in fruits and "aple" not in fruits and list(fruits) == ["apple", "melon"]
    assert fruits.entries()["melon"].description == "large"
    with pytest.raises(UserError, match="unknown fruit 'aple': did you mean 'apple'. known: apple, melon"):
        fruits.get("aple")


@pytest.mark.parametrize("name", ["", "Apple", "9lives", "a b", "a-b", "a.b", "a+b"])
def test_a_name_that_files_and_specs_cannot_hold_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="expected lower-case letters, digits and '_', starting with a letter"):
        fruits.add(name, Fruit(name, ""))


def test_a_name_is_registered_once() -> None:
    fruits.add("apple", Fruit("apple", "first"))
    with pytest.raises(ValueError, match="fruit 'apple' is already registered"):
        fruits.add("apple", Fruit("apple", "second"))
    assert fruits.get("apple").description == "first"


def test_built_in_entries_are_registered_when_they_are_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    global fruits  # noqa: PLW0603
    add = "test_registry.fruits.add('apple', test_registry.Fruit('apple', 'built in'))"
    (tmp_path / "extension_builtins.py").write_text(f"from tests.util import test_registry\n{add}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    fruits = Registry("fruit", GROUP, ("extension_builtins",))
    assert "extension_builtins" not in sys.modules
    assert fruits.names() == ("apple",) and fruits.get("apple").description == "built in"


def test_an_installed_package_adds_an_entry_that_is_imported_when_it_is_requested(install: Callable[..., None]) -> None:
    fruits.add("apple", Fruit("apple", "round"))
    install("orchard", "quince")
    assert fruits.names() == ("apple", "quince") and "quince" in fruits
    assert "extension_orchard" not in sys.modules, "listing names imports nothing"
    assert fruits.get("quince").description == "of orchard"
    assert list(fruits.entries()) == ["apple", "quince"]


def test_an_installed_package_may_be_imported_before_its_entry_is_requested(install: Callable[..., None]) -> None:
    install("orchard", "quince")
    __import__("extension_orchard")
    assert fruits.names() == ("quince",) and fruits.get("quince").description == "of orchard"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("raise RuntimeError('no licence')", "the fruit 'quince' of orchard cannot be loaded: no licence"),
        ("import no_such_module", "the fruit 'quince' of orchard cannot be loaded: No module named 'no_such_module'"),
        ("", "the fruit 'quince' of orchard cannot be loaded: module 'extension_orchard' has no attribute 'fruit'"),
        (
            "fruit = None",
            r"orchard declares the fruit 'quince' \(extension_orchard:fruit\) but does not register it",
        ),
    ],
)
def test_a_broken_package_is_one_line_and_costs_no_other_entry(
    install: Callable[..., None], code: str, expected: str
) -> None:
    fruits.add("apple", Fruit("apple", "round"))
    install("orchard", "quince", code)
    with pytest.raises(UserError, match=expected):
        fruits.get("quince")
    assert fruits.get("apple").description == "round" and fruits.names() == ("apple", "quince")


def test_what_a_package_registered_before_its_import_failed_is_forgotten(
    install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    others: Registry[Fruit] = Registry("vegetable", "lmms_steer.test_vegetables")
    monkeypatch.setattr("tests.util.test_registry.others", others, raising=False)
    register = "test_registry.{0}.add('{1}', test_registry.Fruit('{1}', 'half'))"
    code = "; ".join(
        register.format(*entry) for entry in (("fruits", "quince"), ("fruits", "plum"), ("others", "leek"))
    )
    install("orchard", "quince", f"from tests.util import test_registry\n{code}\nraise RuntimeError('no licence')")
    for _ in range(2):
        with pytest.raises(UserError, match="'quince' of orchard cannot be loaded: no licence"):
            fruits.get("quince")
    assert not fruits.loaded() and not others.loaded()


def test_a_name_that_two_packages_declare_is_refused_when_it_is_requested(install: Callable[..., None]) -> None:
    fruits.add("apple", Fruit("apple", "round"))
    install("orchard", "quince")
    install("garden", "quince")
    assert fruits.names() == ("apple", "quince"), "listing names works"
    with pytest.raises(UserError, match=r"'quince' is declared by (orchard and by garden|garden and by orchard)"):
        fruits.get("quince")


@pytest.mark.parametrize(("name", "reason"), [("apple", "is taken"), ("Bad-Name", "is not a valid name")])
def test_a_package_cannot_take_a_name_or_use_an_invalid_one(
    install: Callable[..., None], caplog: pytest.LogCaptureFixture, name: str, reason: str
) -> None:
    fruits.add("apple", Fruit("apple", "round"))
    install("orchard", name)
    assert fruits.names() == ("apple",) and fruits.get("apple").description == "round"
    assert f"ignoring the fruit '{name}' of orchard: it {reason}" in caplog.text


def test_a_broken_package_is_left_out_of_all_entries_with_a_warning(
    install: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    fruits.add("apple", Fruit("apple", "round"))
    install("orchard", "quince", "import no_such_module")
    assert list(fruits.loaded()) == ["apple"] and not caplog.text
    assert list(fruits.entries()) == ["apple"]
    assert "the fruit 'quince' of orchard cannot be loaded" in caplog.text


def builtin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """A registry whose one built-in module has this code."""
    global fruits  # noqa: PLW0603
    (tmp_path / "extension_builtins.py").write_text(f"from tests.util import test_registry\n{code}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    fruits = Registry("fruit", GROUP, ("extension_builtins",))


ADD_APPLE = "test_registry.fruits.add('apple', test_registry.Fruit('apple', 'built in'))"


gate = Event()


def test_threads_wait_for_the_built_in_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate.clear()
    builtin(tmp_path, monkeypatch, f"test_registry.gate.wait(60)\n{ADD_APPLE}")
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(fruits.get, "apple") for _ in range(2)]
        assert not wait(both, timeout=0.05).done, "neither answers before the module is imported"
        gate.set()
        assert [future.result().description for future in both] == ["built in"] * 2


def test_a_built_in_module_that_cannot_be_imported_keeps_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builtin(tmp_path, monkeypatch, "import no_such_module")
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="no_such_module"):
            fruits.get("apple")


def test_a_script_that_takes_a_built_in_name_is_told_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builtin(tmp_path, monkeypatch, ADD_APPLE)
    fruits.add("apple", Fruit("apple", "mine"))
    for _ in range(2):
        with pytest.raises(UserError, match="'apple' is already registered: it is the name of a built-in fruit"):
            fruits.names()
