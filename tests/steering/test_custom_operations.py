"""Operations that this package does not know: registered, declared by another package, or given as functions."""

import functools
import json
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch

from lmms_steer import Intervention, SteeringError, SteeringSpec, UserError, register_operation, steer
from lmms_steer.harness.steered import SteeredPaliGemma
from lmms_steer.inspection.prompt import inspect_prompt
from lmms_steer.steering.facts import ModelFacts
from lmms_steer.steering.operations import (
    Operation,
    ScaledVector,
    apply_operation,
    find_operation,
    operations,
    rotate,
)
from lmms_steer.steering.resolve import resolve
from lmms_steer.steering.resolved import own_code
from tests.helpers.checkpoints import build
from tests.helpers.models import batch_of, picture, record, vectors
from tests.helpers.own_operations import once, register_as_mine, twice

TEXTS = ("where is the cat ?", "how many cups are on the table ?")
FACTS = ModelFacts("m", 4, 48)
V = vectors()


def double(hidden: torch.Tensor, vector: ScaledVector) -> torch.Tensor:
    """Twice the scaled vector is added."""
    return hidden + 2 * vector.delta


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    monkeypatch.setattr(operations, "_entries", dict(operations._entries))
    monkeypatch.setitem(vars(operations), "_entry_points", {})


@pytest.fixture
def doubled() -> Operation:
    register_operation(
        "double", description="h' = h + 2 s u", effect="{s:.4g} along v is added twice", default_alpha=0.25
    )(double)
    return operations.get("double")


@pytest.fixture(scope="module")
def model_and_batch() -> tuple[Any, dict[str, Any]]:
    model, processor = build("paligemma2")
    return model, batch_of("paligemma2", processor, *TEXTS)


def layer_output(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    return record(model, lambda: model(**batch))[1]


def test_the_decorator_returns_the_function_unchanged() -> None:
    assert register_operation("double", description="d", effect="e")(double) is double
    assert operations.get("double").function is double


def test_a_registered_operation_is_used_by_its_name_in_steer(
    doubled: Operation, model_and_batch: tuple[Any, dict[str, Any]]
) -> None:
    model, batch = model_and_batch
    before = layer_output(model, batch)
    with steer(model, "vector=v,layer=1,alpha=0.5,tokens=both,operation=double", {"v": V}) as resolved:
        after = layer_output(model, batch)
    real = batch["attention_mask"].bool()
    delta = torch.from_numpy(V[1]) * 0.5
    assert torch.equal(after[real], before[real] + 2 * delta) and torch.equal(after[~real], before[~real])
    assert resolved.record()["spec"] == "vector=v,layer=1,alpha=0.5,tokens=both,operation=double"


def test_a_registered_operation_is_used_through_model_args_and_inspected(doubled: Operation, tmp_path: Path) -> None:
    path = vectors(5, 96, model="tiny-gemma2").save(tmp_path / "v.safetensors")
    args = f"pretrained=tiny-paligemma2,vector={path},layer=1,tokens=image,operation=double"
    lm = SteeredPaliGemma.create_from_arg_string(args)
    assert lm.resolved.spec.interventions[0].alpha == 0.25
    assert json.dumps(lm.steering_record["spec"]).endswith('operation=double"')
    inspection = inspect_prompt(lm, [picture(0)], "what colour is the square ?")
    strength = 0.25 * float(torch.from_numpy(lm.resolved.vectors[0][1]).norm())
    assert inspection.effects == [f"image: {strength:.4g} along v is added twice"]
    assert sum(inspection.steered) == inspection.kinds.count("image") == 16


def test_an_operation_of_another_package_is_found_by_its_entry_point(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "foreign_steering.py").write_text(
        "from lmms_steer import register_operation\n\n\n"
        "@register_operation('negate', description='minus h', effect='h is negated', uses_length=False)\n"
        "def negate(hidden, vector):\n    return -hidden\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    point = EntryPoint("negate", "foreign_steering:negate", "lmms_steer.operations")
    monkeypatch.setitem(vars(operations), "_entry_points", {"negate": [point]})
    assert Intervention("v", operation="negate").operation == "negate"
    with pytest.raises(UserError, match="length plays no part"):
        Intervention("v", operation="negate", scale="unit")


def test_an_unknown_name_is_refused_with_the_nearest(doubled: Operation) -> None:
    with pytest.raises(UserError, match="unknown operation 'duoble': did you mean 'double'"):
        SteeringSpec.parse("vector=v,operation=duoble")
    with pytest.raises(UserError, match="unknown operation 'rotat': did you mean 'rotate'"):
        find_operation("rotat")
    with pytest.raises(UserError, match="unknown operation '3'"):
        find_operation(3)  # type: ignore[arg-type]


def test_a_name_that_is_taken_and_an_effect_that_cannot_be_formatted_are_refused(doubled: Operation) -> None:
    with pytest.raises(ValueError, match="operation 'double' is already registered"):
        register_operation("double", description="d", effect="e")(double)
    with pytest.raises(ValueError, match=r"effect '\{strength\}' may only refer to \{s\} and \{alpha\}"):
        register_operation("other", description="d", effect="{strength}")(double)
    assert "other" not in operations


def test_a_function_replaces_the_operation_of_a_spec(model_and_batch: tuple[Any, dict[str, Any]]) -> None:
    model, batch = model_and_batch
    spec = "vector=v,layer=1,alpha=0.5,tokens=both"
    before = layer_output(model, batch)
    real = batch["attention_mask"].bool()
    plain = resolve(SteeringSpec.parse(spec), FACTS, {"v": V})
    described = Operation("mine", "d", double, "twice {s:.4g}")
    for operation, name in ((double, "double"), (described, "mine")):
        for given in (spec, plain):
            with steer(model, given, {"v": V}, operation=operation) as resolved:
                after = layer_output(model, batch)
            assert torch.equal(after[real], before[real] + torch.from_numpy(V[1]))
            assert resolved.record()["operation"] == name and resolved.sha256 != plain.sha256
    with steer(model, spec, {"v": V}, operation="rotate") as resolved:
        assert resolved.record()["spec"].endswith("operation=rotate") and "operation" not in resolved.record()
    with steer(model, spec, {"v": V}, operation=rotate) as resolved:
        assert resolved.operation is None and resolved.spec.interventions[0].operation == "rotate"
    assert not [m for m in model.modules() if m._forward_hooks]


def test_a_function_s_own_settings_are_checked_and_fill_in_alpha() -> None:
    own = Operation("mine", "d", double, "e", default_alpha=0.125)
    assert resolve(SteeringSpec.parse("vector=v"), FACTS, {"v": V}, own).spec.interventions[0].alpha == 0.125
    with pytest.raises(UserError, match="operation=mine: the vector's length plays no part"):
        resolve(SteeringSpec.parse("vector=v,scale=unit"), FACTS, {"v": V}, replace(own, uses_length=False))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_not_masked_stays_to_the_bit_and_the_function_sees_float32(dtype: torch.dtype) -> None:
    seen: list[torch.dtype] = []

    def ten_thousandths(hidden: torch.Tensor, vector: ScaledVector) -> torch.Tensor:
        seen.append(hidden.dtype)
        return hidden + 1e-4

    hidden = torch.randn(2, 3, 48).to(dtype)
    mask = torch.tensor([[True, False, True], [False, False, True]])
    unit = torch.from_numpy(V[1] / V[1].sum())
    vector = ScaledVector(unit, unit, 1.0, 1.0)
    changed = apply_operation(find_operation(ten_thousandths), hidden, vector, mask)
    assert seen == [torch.float32] and changed.dtype == dtype
    assert torch.equal(changed[~mask], hidden[~mask])
    assert torch.equal(changed[mask], (hidden[mask].float() + 1e-4).to(dtype))


def test_operations_and_specs_are_read_without_torch() -> None:
    code = (
        "import sys; from lmms_steer import SteeringSpec, register_operation\n"
        "from lmms_steer.steering.operations import operations\n"
        "SteeringSpec.parse('vector=v,operation=ablate')\n"
        "print([entry.description for entry in operations.entries().values()])\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_two_functions_of_one_name_have_two_hashes() -> None:
    spec = SteeringSpec.parse("vector=v,layer=1,alpha=1,tokens=both")
    facts = ModelFacts("some-backbone", 4, 48)

    def push(hidden: torch.Tensor, vector: ScaledVector, by: int = 1) -> torch.Tensor:
        return hidden + by * vector.delta

    functions: tuple[Any, ...] = (
        lambda hidden, vector: hidden + vector.delta,
        lambda hidden, vector: hidden - vector.delta,
    )
    factory = (functools.partial(push, by=by) for by in (2, 3))
    hashes = {resolve(spec, facts, {"v": V}, operation=function).sha256 for function in (*functions, push, *factory)}
    assert len(hashes) == 5


def test_two_versions_of_a_registered_operation_have_two_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    def registered_as(function: Any) -> str:
        register_as_mine(monkeypatch, function)
        return sha256("mine")

    def sha256(operation: str) -> str:
        spec = SteeringSpec.parse(f"vector=v,layer=1,alpha=1,tokens=both,operation={operation}")
        return resolve(spec, FACTS, {"v": V}).sha256

    assert registered_as(once) == registered_as(once) != registered_as(twice)
    # what is this package's has the hash of its name alone
    assert own_code(Intervention("v", operation="clamp", site="mlp", gate="cosine")) == {}
    assert list(own_code(Intervention("v", operation="mine"))) == ["operation mine"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_function_that_changes_its_argument_in_place_reaches_no_other_position(dtype: torch.dtype) -> None:
    def in_place(hidden: torch.Tensor, vector: ScaledVector) -> torch.Tensor:
        return hidden.add_(vector.delta)

    hidden, mask = torch.zeros(1, 3, 4, dtype=dtype), torch.tensor([[False, True, False]])
    vector = ScaledVector(torch.ones(4), torch.ones(4) / 2, 2.0, 1.0)
    changed = apply_operation(find_operation(in_place), hidden, vector, mask)
    assert changed[0, :, 0].tolist() == [0, 1, 0] and not hidden.any()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda hidden, vector: (hidden + vector.delta).numpy(),
            "returned a ndarray, and not a tensor of real numbers",
        ),
        (
            lambda hidden, _: hidden.to(torch.complex64),
            "returned a tensor of torch.complex64, and not a tensor of real",
        ),
        # the last line of somebody's own code, not torch's
        (lambda hidden, _: hidden.to("meta") @ hidden, r"failed \(test_custom_operations.py, line \d+\): "),
        (lambda hidden, _: hidden / hidden.norm(), "returned values that are not finite, for hidden states that are"),
    ],
)
def test_an_operation_that_returns_no_numbers_is_refused(function: Any, message: str) -> None:
    vector = ScaledVector(torch.ones(4), torch.ones(4) / 2, 2.0, 1.0)
    with pytest.raises(SteeringError, match=f"^operation '<lambda>' {message}"):
        apply_operation(find_operation(function), torch.zeros(1, 3, 4), vector, torch.ones(1, 3).bool())


def test_what_is_not_finite_at_positions_that_are_not_steered_does_not_matter() -> None:
    hidden, mask = torch.tensor([[[0.0, 0.0], [3.0, 4.0]]]), torch.tensor([[False, True]])
    vector = ScaledVector(torch.ones(2), torch.ones(2), 1.0, 1.0)
    unit = find_operation(lambda hidden, _: hidden / hidden.norm(dim=-1, keepdim=True))
    assert torch.allclose(apply_operation(unit, hidden, vector, mask)[0], torch.tensor([[0.0, 0.0], [0.6, 0.8]]))


def test_an_operation_that_returns_another_shape_is_refused() -> None:
    vector = ScaledVector(torch.ones(4), torch.ones(4) / 2, 2.0, 1.0)
    with pytest.raises(RuntimeError, match=r"returned shape \[4\] for hidden states of shape \[1, 3, 4\]"):
        apply_operation(
            find_operation(lambda hidden, vector: vector.delta), torch.zeros(1, 3, 4), vector, torch.ones(1, 3).bool()
        )
