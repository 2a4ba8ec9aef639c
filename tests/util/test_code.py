"""The hash of a function changes with its code, and not with its comments, its layout or the file that it is in."""

import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lmms_steer._util.code import bound_values, code_sha256, is_built_in
from lmms_steer.registry import Registry

DOUBLE = "def change(hidden, factor=2):\n    return hidden * factor\n"


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], Any]:
    """A text of a module ▸ its function `change`, from a file of its own."""
    count = 0

    def load(text: str) -> Any:
        nonlocal count
        count += 1
        path = tmp_path / f"own_{count}.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.change

    return load


def test_comments_layout_and_place_make_no_difference(written: Callable[[str], Any]) -> None:
    same = "# changed\n\n\ndef change( hidden,factor = 2 ):\n    # twice\n    return (hidden\n        * factor)\n"
    assert code_sha256(written(DOUBLE)) == code_sha256(written(same))


@pytest.mark.parametrize("other", [DOUBLE.replace("* factor", "+ factor"), DOUBLE.replace("=2", "=3"),
                                   f"from functools import cache\n@cache\n{DOUBLE}"])  # fmt: skip
def test_code_defaults_and_decorators_do(written: Callable[[str], Any], other: str) -> None:
    assert code_sha256(written(DOUBLE)) != code_sha256(written(other))


def test_code_without_a_file_is_known_by_what_it_does() -> None:
    def typed(text: str) -> Any:
        names: dict[str, Any] = {}
        exec(text, names)
        return names["change"]

    assert code_sha256(typed(DOUBLE)) == code_sha256(typed(f"\n\n{DOUBLE}"))
    inner = "def change(hidden):\n    return (lambda h: h * 2)(hidden)\n"
    for text, other in ((DOUBLE, DOUBLE.replace("*", "+")), (inner, inner.replace("2", "3"))):
        assert code_sha256(typed(text)) != code_sha256(typed(other))


def test_a_lambda_a_partial_function_and_an_object_have_a_hash(written: Callable[[str], Any]) -> None:
    change = written(DOUBLE)
    assert code_sha256(partial(change, factor=3)) != code_sha256(partial(change, factor=4)) != code_sha256(change)
    assert len(code_sha256(lambda h: h + 1)) == 64
    callable_object = written("class C:\n    def __call__(self, h):\n        return h\n\n\nchange = C()\n")
    other_object = written("class C:\n    def __call__(self, h):\n        return -h\n\n\nchange = C()\n")
    assert code_sha256(callable_object) != code_sha256(other_object)
    assert code_sha256(len) != code_sha256(abs)


class Pushing:
    def __init__(self, by: Any) -> None:
        self.by = by

    def __call__(self, h: Any) -> Any:
        return h + self.by

    def push(self, h: Any) -> Any:
        return self(h)


def closing_over(by: Any) -> Any:
    def push(h: Any) -> Any:
        return h + by

    return push


def with_default(by: Any) -> Any:
    def push(h: Any, by: Any = by) -> Any:
        return h + by

    return push


@pytest.mark.parametrize("make", [Pushing, closing_over, with_default, lambda by: Pushing(by).push])
@pytest.mark.parametrize(
    ("one", "other"),
    [(2, 3), (np.arange(3), np.arange(1, 4)), (torch.ones(2), torch.zeros(2)), ({"a": [1]}, {"a": [2]}),
     (abs, closing_over)],
    ids=["numbers", "arrays", "tensors", "mappings", "functions"],
)  # fmt: skip
def test_functions_of_one_code_are_told_apart_by_what_they_are_bound_to(make: Any, one: Any, other: Any) -> None:
    assert code_sha256(make(one)) == code_sha256(make(one))
    assert code_sha256(make(one)) != code_sha256(make(other))
    assert bound_values(make(one)) != bound_values(make(other))


def test_a_plain_function_is_bound_to_nothing() -> None:
    assert bound_values(closing_over) == bound_values(len) == []


def test_a_function_may_close_over_itself() -> None:
    def countdown(n: int) -> int:
        return countdown(n - 1) if n else 0

    assert len(code_sha256(countdown)) == 64


def test_a_registry_keeps_the_code_of_what_is_not_this_package_s(written: Callable[[str], Any]) -> None:
    class Entry:
        def __init__(self, function: Any) -> None:
            self.function = function

    registry = Registry[Entry]("thing", "lmms_steer.no_such_group")
    registry.add("own", Entry(written(DOUBLE)))
    registry.add("built_in", Entry(code_sha256))
    assert registry.code("own") == code_sha256(written(DOUBLE))
    assert registry.code("built_in") is None and registry.code("unknown") is None
    assert is_built_in(code_sha256) and not is_built_in(written(DOUBLE))
