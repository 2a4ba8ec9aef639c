"""Gates: where an intervention acts, against decisions and additions that are written here."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lmms_steer import SteeringError, SteeringSpec, SteeringVectors, UserError, continuation, register_gate, steer
from lmms_steer.steering.anatomy import model_facts
from lmms_steer.steering.facts import ModelFacts
from lmms_steer.steering.gate_reader import GateReader
from lmms_steer.steering.gates import Probe, gates
from lmms_steer.steering.hooks import attach
from lmms_steer.steering.intervention import Intervention
from lmms_steer.steering.operations import ScaledVector, operations, register_operation
from lmms_steer.steering.resolve import resolve
from tests.helpers.checkpoints import build
from tests.helpers.models import batch_of, record, vectors
from tests.steering.reference import IMAGE_INPUTS
from tests.steering.test_hooks import TEXTS, forward, hook_counts

LAYER, ALPHA = 1, 2.0
V, C = vectors(scale=0.5), vectors(seed=1, concept="condition")
FACTS = ModelFacts("m", 4, 48)
PROBE = SteeringVectors(
    C.directions,
    {**C.provenance, "settings": {name: {str(layer): value for layer in range(4)} for name, value in
                                  (("weight_norm", 0.7), ("bias", -0.2))}},
)  # fmt: skip


def line(**keys: Any) -> str:
    given = {"vector": "v", "layer": LAYER, "alpha": ALPHA, "tokens": "both", "gate": "cosine", **keys}
    return ",".join(f"{key}={value}" for key, value in given.items() if value is not None)


def scores(gate: str, hidden: Tensor, layer: int, own: bool = False) -> Tensor:
    c = torch.from_numpy((V if own else C)[layer]).double()
    along: Tensor = hidden.double() @ c
    cosines: Tensor = along / hidden.double().norm(dim=-1) / c.norm()
    return cosines if gate == "cosine" else 1 / (1 + torch.exp(-(0.7 * along - 0.2)))


def between(values: Tensor) -> float:
    """A threshold in the widest gap between the middle values, far from all of them."""
    ordered = values.flatten().sort().values
    inner = ordered[len(ordered) // 4 : 3 * len(ordered) // 4 + 2]
    gap = int((inner[1:] - inner[:-1]).argmax())
    return float(inner[gap : gap + 2].mean())


def added_at(model: Any, chosen: Tensor, **inputs: Any) -> Tensor:
    """The logits with alpha·v added to the layer's output at the chosen positions, from one uncached pass."""

    def add(module: Any, args: Any, output: Any) -> Tensor:  # noqa: ARG001
        return torch.where(chosen.unsqueeze(-1), output + ALPHA * torch.from_numpy(V[LAYER]), output)

    handle = model.get_decoder().layers[LAYER].register_forward_hook(add)
    try:
        return forward(model, inputs, use_cache=False)
    finally:
        handle.remove()


@pytest.mark.parametrize(("gate", "gate_layer"), [("cosine", 0), ("cosine", None), ("probe", 0)])
def test_each_token_decides_for_itself(vlm: Any, gate: str, gate_layer: int | None) -> None:
    name, model, processor = vlm
    batch = batch_of(name, processor, *TEXTS)
    real, layer = batch["attention_mask"].bool(), LAYER if gate_layer is None else gate_layer
    own = gate_layer is None
    found = scores(gate, record(model, lambda: forward(model, batch))[layer], layer, own)
    threshold = between(found[real])
    keys: dict[str, Any] = {"gate": gate, "threshold": threshold, "read": "token"}
    keys |= {} if own else {"gate_layer": gate_layer, "gate_vector": "c"}
    for fires, chosen in (("above", found > threshold), ("below", found < threshold)):
        assert 0 < (chosen & real).sum() < real.sum()
        expected = added_at(model, chosen & real, **batch)
        with steer(model, line(**keys, fires=fires), {"v": V, "c": PROBE}):
            assert (forward(model, batch) - expected)[real].abs().max() < 1e-4
    counts, plain = hook_counts(model), forward(model, batch)
    with steer(model, line(**keys, alpha=0), {"v": V, "c": PROBE}):
        assert hook_counts(model) == counts
    with steer(model, line(threshold=1), {"v": V}):
        assert torch.equal(forward(model, batch), plain), "a gate that never fires is the unsteered model"


@pytest.mark.parametrize(("gate", "read"), [("cosine", "prompt"), ("probe", "last")])
def test_the_prompt_decides_for_its_sequence_through_generation(causal_vlm: Any, gate: str, read: str) -> None:
    name, model, processor = causal_vlm
    batch = batch_of(name, processor, *TEXTS)
    length, real = batch["input_ids"].shape[1], batch["attention_mask"].bool()
    hidden = record(model, lambda: forward(model, batch))[0]
    alone = [record(model, lambda t=text, i=i: forward(model, one(batch, i)))[0] for i, text in enumerate(TEXTS)]
    pooled = torch.stack([h[0, -1] if read == "last" else h[0].mean(0) for h in alone])
    assert (hidden[0, -1] - alone[0][0, -1]).abs().max() < 1e-4
    found = scores(gate, pooled, 0)
    keys = {"gate": gate, "gate_layer": 0, "gate_vector": "c", "read": read, "threshold": float(found.mean())}
    acts = found > found.mean()
    assert acts.sum() == 1
    options = {"max_new_tokens": 3, "min_new_tokens": 3, "return_dict_in_generate": True, "output_logits": True}
    for more in (
        {"do_sample": False},
        {"do_sample": False, "use_cache": False},
        {"do_sample": True, "num_return_sequences": 2, "top_k": 0},
        {"do_sample": False, "num_beams": 2},
    ):
        copies = more.get("num_return_sequences", 1)
        torch.manual_seed(0)
        with steer(model, line(**keys, phase="all", tokens="text"), {"v": V, "c": PROBE}):
            output = model.generate(**batch, **options, **more, suppress_tokens=[model.config.image_token_id])
        if "num_beams" in more:
            beams = output.sequences
            continue
        whole = torch.ones_like(output.sequences)
        whole[:, :length] = real.repeat_interleave(copies, 0)
        text = whole.bool() & (output.sequences != model.config.image_token_id)
        images = {k: repeated(v, copies) for k, v in batch.items() if k in IMAGE_INPUTS}
        for kind in {"token_type_ids", "mm_token_type_ids"} & batch.keys():
            kinds = batch[kind].repeat_interleave(copies, 0)
            images[kind] = torch.nn.functional.pad(kinds, (0, whole.shape[1] - length))
        chosen = text & acts.repeat_interleave(copies).unsqueeze(1)
        expected = added_at(model, chosen, input_ids=output.sequences, attention_mask=whole, **images)
        logits = torch.stack(output.logits, 1)
        assert (logits - expected[:, length - 1 : -1]).abs().max() < 2e-4, more
    # of a prompt alone, both beams are all steered or not at all
    row = int(acts.nonzero()[0, 0])
    for place, spec in ((row, line(phase="all", tokens="text", gate="cosine", threshold=-1)), (1 - row, None)):
        settings = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, "num_beams": 2}
        with steer(model, spec if spec else SteeringSpec(), {"v": V}):
            single = model.generate(**one(batch, place), **settings, suppress_tokens=[model.config.image_token_id])
        assert torch.equal(single[0, -3:], beams[place, -3:])


def test_without_a_mask_pad_tokens_are_no_part_of_the_prompt_that_decides(causal_vlm: Any) -> None:
    name, model, processor = causal_vlm
    batch = batch_of(name, processor, *TEXTS)
    real = batch["attention_mask"].bool()
    row = int((~real).any(1).nonzero()[0, 0])
    hidden = record(model, lambda: forward(model, batch))[0][row]
    with_pads, without = scores("cosine", torch.stack([hidden.mean(0), hidden[real[row]].mean(0)]), 0).tolist()
    keys = {"gate": "cosine", "gate_layer": 0, "gate_vector": "c", "read": "prompt", "tokens": "text"}
    spec = line(**keys, threshold=(with_pads + without) / 2)
    options: dict[str, Any] = {"max_new_tokens": 2, "min_new_tokens": 2, "do_sample": False}
    options |= {"return_dict_in_generate": True, "output_logits": True}
    options |= {"suppress_tokens": [model.config.image_token_id]}
    with steer(model, spec, {"v": V, "c": PROBE}):
        expected = torch.stack(model.generate(**batch, **options).logits)
        found = torch.stack(model.generate(**(batch | {"attention_mask": None}), **options).logits)
    assert (found - expected).abs().max() < 1e-4


def repeated(value: Tensor, copies: int) -> Tensor:
    """The images of each prompt, which may be several rows, as often as the prompt."""
    by_prompt: Tensor = value.reshape(len(TEXTS), -1, *value.shape[1:])
    return by_prompt.repeat_interleave(copies, 0).flatten(0, 1)


def one(batch: dict[str, Any], row: int) -> dict[str, Any]:
    """One row of a batch, without its padding."""
    start = int(batch["attention_mask"][row].long().argmax())
    per_row = len(batch["input_ids"])
    parts = {}
    for key, value in batch.items():
        share = len(value) // per_row
        cut = value[row * share : (row + 1) * share]
        parts[key] = cut[:, start:] if value.shape == batch["input_ids"].shape else cut
    return parts


def test_a_prompt_that_a_call_does_not_show_is_refused_and_not_guessed(causal_vlm: Any) -> None:
    name, model, processor = causal_vlm
    batch = batch_of(name, processor, *TEXTS)
    spec = line(read="prompt", threshold=-1, tokens="text", phase="all")
    token = {"input_ids": torch.full((2, 1), 5), "use_cache": True}
    refused = pytest.raises(SteeringError, match="gate=cosine,read=prompt reads the whole prompt")
    with steer(model, spec, {"v": V}):
        cache = model(**batch, use_cache=True).past_key_values
        with continuation(1), refused:
            model(**token, past_key_values=cache)
        with continuation(batch["input_ids"].shape[1]), refused:
            model(**batch, use_cache=False)
    with steer(model, line(read="prompt", threshold=-1, tokens="text"), {"v": V}), continuation(1):
        model(**token, past_key_values=model(**batch, use_cache=True).past_key_values)
    if name != "llava":
        return
    with steer(model, spec, {"v": V}), refused:
        model.generate(**batch, max_new_tokens=2, prefill_chunk_size=8)


def test_gammas_and_layers_share_what_the_gate_read_before_they_act(causal_vlm: Any) -> None:
    name, model, processor = causal_vlm
    batch = batch_of(name, processor, TEXTS[0])
    hidden = record(model, lambda: forward(model, batch))[LAYER]
    score = float(scores("cosine", hidden[0].mean(0), LAYER, own=True))
    # after the image tokens have changed, the score is another one, on the other side of the threshold
    image = batch["input_ids"][0] == model.config.image_token_id
    moved = hidden[0] + image.unsqueeze(-1) * 1.001 * ALPHA * torch.from_numpy(V[LAYER])
    later = float(scores("cosine", moved.mean(0), LAYER, own=True))
    keys = {"read": "prompt", "fires": "below", "gamma_image": 1.001}
    assert later > score
    with steer(model, line(**keys, threshold=(score + later) / 2), {"v": V}):
        gated = forward(model, batch)
    with steer(model, line(**keys, threshold=1), {"v": V}):
        assert torch.equal(gated, forward(model, batch))


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"gate": "cosin"}, "unknown gate 'cosin': did you mean 'cosine'"),
        ({"gate": "probe"}, "gate=probe needs a probe: add gate_vector=NAME"),
        ({"gate": "probe", "gate_vector": "v"}, "has no probe's weight norm and bias at layer 1"),
        ({"gate": "probe", "gate_vector": "c", "site": "mlp"}, "a probe reads a layer's output: add gate_layer"),
        ({"gate": "probe", "gate_vector": "c", "threshold": 2}, "threshold=2: gate=probe has scores from 0 to 1"),
        ({"threshold": -1.5}, "threshold=-1.5: gate=cosine has scores from -1 to 1"),
        ({"threshold": "high"}, "threshold=high: expected a finite number"),
        ({"fires": "up"}, "unknown fires 'up'.*known: above, below"),
        ({"read": "tokens"}, "unknown read 'tokens': did you mean 'token'"),
        (
            {"gate_layer": 2},
            "gate_layer=2: layer 1 is steered before that is read: give gate_layer=1 or less, or",
        ),
        (
            {"gate_layer": 1, "site": "input"},
            "gate_layer=1: layer 1 is steered before that is read: give gate_layer=0, or leave it out: then what is",
        ),
        (
            {"gate_layer": 1, "layer": None, "layers": "0-2"},
            "gate_layer=1: layer 0, the first of layers=0-2, is steered before that is read: give gate_layer=0, or",
        ),
        ({"gate_layer": 0, "layer": 0, "site": "mlp"}, "gate_layer=0: layer 0 is steered before that is read: leave"),
        (
            {"gate_layer": 0, "layer": 0, "site": "mlp", "gate": "probe", "gate_vector": "c"},
            "layer 0 is steered before that is read: steer a layer above 0$",
        ),
        ({"gate_vector": "missing"}, "unknown vector 'missing'"),
        ({"gate_vector": "narrow"}, "vector 'narrow' has width 8"),
    ],
)
def test_wrong_gates_are_one_line(keys: dict[str, Any], expected: str) -> None:
    narrow = vectors(4, 8)
    with pytest.raises(UserError, match=expected) as caught:
        resolve(SteeringSpec.parse(line(**keys)), FACTS, {"v": V, "c": PROBE, "narrow": narrow})
    assert len(str(caught.value).splitlines()) == 1


def test_an_empty_side_is_refused_and_an_empty_reader_is_the_gates_own() -> None:
    empty: dict[str, Any] = {"fires": None}
    with pytest.raises(UserError, match="unknown fires 'None': known: above, below"):
        Intervention("v", layer=1, gate="cosine", **empty)
    assert Intervention("v", layer=1, gate="cosine", read=None) == Intervention("v", layer=1, gate="cosine")


@pytest.mark.parametrize("key", ["threshold=0.1", "fires=below", "read=last", "gate_layer=0", "gate_vector=c"])
def test_a_key_of_a_gate_without_a_gate_is_refused(key: str) -> None:
    with pytest.raises(UserError, match=f"{key} is a key of a gate: add gate=cosine or gate=probe"):
        SteeringSpec.parse(f"vector=v,layer=1,{key}")


def test_a_gate_is_part_of_the_line_and_of_the_hash() -> None:
    spec = SteeringSpec.parse(line(gate_vector="c", gate_layer=0, threshold=0.25, fires="below", read="prompt"))
    assert SteeringSpec.parse(str(spec)) == spec and str(spec).endswith(
        "gate=cosine,gate_vector=c,gate_layer=0,threshold=0.25,fires=below,read=prompt"
    )
    probe = SteeringSpec.parse(line(gate="probe", gate_vector="c"))
    hashes = {
        resolve(spec, FACTS, {"v": V, "c": C}).sha256,
        resolve(spec, FACTS, {"v": V, "c": vectors(seed=2)}).sha256,
        resolve(SteeringSpec.parse(line()), FACTS, {"v": V}).sha256,
        resolve(probe, FACTS, {"v": V, "c": PROBE}).sha256,
    }
    assert len(hashes) == 4
    assert resolve(spec, FACTS, {"v": V, "c": C}).record()["gate_vectors"][0]["sha256"] == C.sha256


def test_a_control_replaces_what_is_added_and_not_what_the_gate_reads() -> None:
    resolved = resolve(SteeringSpec.parse(line(control="random:0")), FACTS, {"v": V})
    assert resolved.gates[0] is not None and resolved.gates[0].sha256 == V.sha256 != resolved.vectors[0].sha256


def dot(hidden: Tensor, probe: Probe) -> Tensor:
    return hidden @ probe.direction


def test_a_registered_gate_and_vectors_as_a_gate_s(vlm: Any) -> None:
    name, model, processor = vlm
    if "dot" not in gates:
        register_gate("dot", description="h·c", threshold=0.0)(dot)
    batch = batch_of(name, processor, *TEXTS)
    hidden, real = record(model, lambda: forward(model, batch))[LAYER], batch["attention_mask"].bool()
    chosen = (hidden @ torch.from_numpy(C[LAYER]) > 0) & real
    expected = added_at(model, chosen, **batch)
    with steer(model, V, layer=LAYER, alpha=ALPHA, tokens="both", gate="dot", gate_vector=C) as resolved:
        assert (forward(model, batch) - expected)[real].abs().max() < 1e-4
    assert np.array_equal(resolved.gates[0][LAYER], C[LAYER])  # type: ignore[index]


def test_a_gate_that_changes_its_argument_in_place_changes_no_hidden_state(monkeypatch: pytest.MonkeyPatch) -> None:
    def in_place(hidden: Tensor, probe: Probe) -> Tensor:
        return hidden.zero_()[..., 0] + probe.bias

    monkeypatch.setattr(gates, "_entries", dict(gates._entries))
    register_gate("in_place", description="0", threshold=-1.0)(in_place)
    model, processor = build("paligemma2")
    batch = batch_of("paligemma2", processor, *TEXTS)
    with steer(model, line(gate="in_place"), {"v": V}):
        changed = forward(model, batch)
    with steer(model, f"vector=v,layer={LAYER},alpha={ALPHA},tokens=both", {"v": V}):
        assert torch.equal(forward(model, batch), changed)


def test_functions_that_change_the_vector_or_the_probe_in_place_steer_every_call_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def louder(hidden: Tensor, vector: ScaledVector) -> Tensor:
        vector.unit.mul_(2)
        return hidden + vector.delta.mul_(1.5)

    def shifted(hidden: Tensor, probe: Probe) -> Tensor:
        return hidden @ probe.direction.sub_(0.5)

    monkeypatch.setattr(gates, "_entries", dict(gates._entries))
    monkeypatch.setattr(operations, "_entries", dict(operations._entries))
    register_operation("louder", description="0", effect="0")(louder)
    register_gate("shifted", description="0", threshold=0.0)(shifted)
    model, processor = build("llava")
    batch = batch_of("llava", processor, *TEXTS)
    with steer(model, line(operation="louder", gate="shifted"), {"v": V}):
        first, second = (forward(model, batch) for _ in range(2))
    assert torch.equal(first, second) and not torch.equal(first, forward(model, batch))


@pytest.mark.parametrize(("threshold", "limits"), [(0.0, (1, 2)), ("a", (-1, 1)), (0.0, (1, -1))])
def test_a_gate_whose_own_threshold_is_refused_in_a_spec_is_not_registered(threshold: Any, limits: Any) -> None:
    with pytest.raises(ValueError, match=f"gate 'mine': threshold={threshold!r} is no number from {limits[0]} to"):
        register_gate("mine", description="0", threshold=threshold, limits=limits)


@pytest.mark.parametrize("gate", ["failing", "of_one_number"])
def test_a_gate_that_fails_is_a_steering_error_that_is_kept(gate: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(hidden: Tensor, probe: Probe) -> Tensor:
        raise KeyError(f"{hidden.dim()} {probe.bias:g}")

    def of_one_number(hidden: Tensor, probe: Probe) -> Tensor:  # noqa: ARG001
        return hidden.mean()

    monkeypatch.setattr(gates, "_entries", dict(gates._entries))
    register_gate(gate, description="0", threshold=-1.0)({"failing": failing, "of_one_number": of_one_number}[gate])
    model, processor = build("paligemma2")
    batch = batch_of("paligemma2", processor, *TEXTS)
    told: list[SteeringError] = []
    spec = resolve(SteeringSpec.parse(line(gate=gate)), model_facts(model), {"v": V})
    attachment = attach(model, spec, on_failure=told.append)
    expected = (
        r"failed \(test_gates.py, line \d+\): KeyError: '3 0'"
        if gate == "failing"
        else r"returned shape \[\] for hidden states of shape"
    )
    try:
        with pytest.raises(SteeringError, match=f"gate '{gate}' {expected}"):
            forward(model, batch)
        assert told == [attachment.failure]
    finally:
        attachment.remove()


@pytest.mark.parametrize("fires", ["above", "below"])
@pytest.mark.parametrize("read", ["token", "prompt"])
def test_a_gate_of_one_s_own_that_returns_no_numbers_is_refused(
    fires: str, read: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gates, "_entries", dict(gates._entries))
    for name, function, message in (
        ("of_numpy", lambda hidden, probe: (hidden @ probe.direction).numpy(), "returned a ndarray, and not a tensor"),
        ("of_nan", lambda hidden, probe: (hidden @ probe.direction - 1e9).log(), "returned nan"),
    ):
        register_gate(name, description="0", threshold=0.0)(function)
        model, processor = build("paligemma2")
        batch = batch_of("paligemma2", processor, *TEXTS)
        refused = pytest.raises(SteeringError, match=f"gate '{name}' {message}")
        with steer(model, line(gate=name, fires=fires, read=read), {"v": V}), refused:
            forward(model, batch)


def test_a_gate_of_one_s_own_may_divide_by_the_norm_of_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "_entries", dict(gates._entries))
    register_gate("angle", description="0", threshold=0.0)(
        lambda hidden, probe: hidden @ probe.direction / hidden.norm(dim=-1)
    )
    reader = GateReader(SteeringSpec.parse(line(gate="angle")).interventions[0], V)
    hidden = torch.stack([torch.zeros(48), torch.from_numpy(V[LAYER]), -torch.from_numpy(V[LAYER])])[None]
    assert reader.fires(hidden).tolist() == [[False, True, False]]
