"""Sites: what is changed inside of a layer, against edited models and hooks that are written here."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AfmoeConfig, AfmoeForCausalLM, GraniteConfig, GraniteForCausalLM

from lmms_steer import SteeringError, SteeringSpec, UserError, register_site, steer
from lmms_steer.steering.sites import find_module, sites
from tests.helpers.architectures import model as tiny
from tests.helpers.checkpoints import build
from tests.helpers.models import batch_of, vectors
from tests.steering.test_hooks import TEXTS, forward, hook_counts

LAYER, ALPHA = 1, 2.0
V = vectors(scale=0.5)
PUSH = ALPHA * torch.from_numpy(V[LAYER])


def line(site: str, **keys: Any) -> str:
    given = {"vector": "v", "layer": LAYER, "alpha": ALPHA, "tokens": "both", "site": site, **keys}
    return ",".join(f"{key}={value}" for key, value in given.items())


class Adding(nn.Module):
    """A module in the place of another one: it adds a vector at some positions of the other one's output."""

    def __init__(self, inner: Any, chosen: Tensor) -> None:
        super().__init__()
        self.inner, self.chosen = inner, chosen

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = self.inner(*args, **kwargs)
        hidden = output[0] if isinstance(output, tuple) else output
        changed = hidden + self.chosen.unsqueeze(-1) * PUSH[: hidden.shape[-1]]
        return (changed, *output[1:]) if isinstance(output, tuple) else changed


@contextmanager
def edited(layer: Any, name: str, chosen: Tensor) -> Iterator[None]:
    inner = getattr(layer, name)
    setattr(layer, name, Adding(inner, chosen))
    try:
        yield
    finally:
        setattr(layer, name, inner)


@contextmanager
def with_other_input(layer: Any, chosen: Tensor) -> Iterator[None]:
    original: Callable[..., Any] = layer.forward
    layer.forward = lambda hidden, *args, **kwargs: original(hidden + chosen.unsqueeze(-1) * PUSH, *args, **kwargs)
    try:
        yield
    finally:
        del layer.forward


def last_of(site: str, layer: Any) -> str:
    """The last module of a branch, from what these architectures are known to do."""
    normalises = "Gemma2" in type(layer).__name__ or "Gemma3" in type(layer).__name__
    if site == "mlp":
        return "post_feedforward_layernorm" if normalises else "mlp"
    return "post_attention_layernorm" if normalises else "self_attn"


@pytest.mark.parametrize("site", ["input", "mlp", "attention"])
def test_a_site_changes_what_an_edited_model_changes(vlm: Any, site: str) -> None:
    name, model, processor = vlm
    batch = batch_of(name, processor, *TEXTS)
    layer, image = model.get_decoder().layers[LAYER], batch["input_ids"] == model.config.image_token_id
    plain = forward(model, batch)
    with edited(layer, last_of(site, layer), image) if site != "input" else with_other_input(layer, image):
        expected = forward(model, batch)
    assert (expected - plain).abs().max() > 1e-3
    with steer(model, line(site, tokens="image"), {"v": V}):
        assert (forward(model, batch) - expected).abs().max() < 1e-5
    counts = hook_counts(model)
    with steer(model, line(site, alpha=0), {"v": V}):
        assert hook_counts(model) == counts
    assert torch.equal(forward(model, batch), plain)


@pytest.mark.parametrize("site", ["input", "mlp", "attention"])
def test_a_padded_batch_and_a_cache_change_nothing_at_a_site(causal_vlm: Any, site: str) -> None:
    name, model, processor = causal_vlm
    batch = batch_of(name, processor, *TEXTS)
    options = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, "output_logits": True}
    with steer(model, V, layer=LAYER, alpha=0.5, tokens="text", phase="all", site=site):
        together = forward(model, batch)[:, -1]
        alone = forward(model, batch_of(name, processor, TEXTS[0]))[:, -1]
        cached, whole = (
            torch.stack(model.generate(**batch, **options, use_cache=c, return_dict_in_generate=True).logits)
            for c in (True, False)
        )
    assert (together[0] - alone[0]).abs().max() < 1e-4
    assert (cached - whole).abs().max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["aria", "gemma4", "qwen3_5", "glm4v", "exaone4_5", "lfm3_vl", "inkling2"])
def test_what_the_mlp_adds_reaches_the_layer_s_output_unchanged(architecture: str) -> None:
    """Of a vector at the last module before the addition, the layer's output gains just the vector."""
    made = tiny(architecture)
    ids, push = torch.tensor([[20, 21, 22, 23]]), vectors(4, 64)
    if architecture == "gemma4":
        # its layers go on after the addition
        for layer in made.get_decoder().layers:
            layer.hidden_size_per_layer_input = 0
    logits = {}
    for site in ("residual", "mlp"):
        with torch.no_grad(), steer(made, line(site), {"v": push}):
            logits[site] = made(input_ids=ids, use_cache=False).logits
    assert not torch.equal(logits["mlp"], made(input_ids=ids, use_cache=False).logits)
    assert (logits["mlp"] - logits["residual"]).abs().max() < 1e-4


def test_wrong_sites_are_one_line() -> None:
    with pytest.raises(UserError, match="unknown site 'mpl': did you mean 'mlp'"):
        SteeringSpec.parse(line("mpl"))
    hybrid, push = tiny("nemotron_h_omni"), vectors(4, 64)
    for site in ("mlp", "attention"):
        expected = f"site={site}: layer 1 of this model, a NemotronHBlock, has no module"
        with pytest.raises(UserError, match=expected), steer(hybrid, line(site), {"v": push}):
            pass
        assert not sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in hybrid.modules())


@pytest.mark.parametrize("site", ["mlp", "attention"])
def test_layers_that_scale_what_they_add_have_no_such_site(site: str) -> None:
    sizes = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
    for scale, refused in ((0.22, True), (1.0, False)):
        config = GraniteConfig(vocab_size=50, num_key_value_heads=4, residual_multiplier=scale, **sizes)
        granite = GraniteForCausalLM(config)
        expected = pytest.raises(UserError, match=f"site={site}: .* GraniteDecoderLayer, add 0.22 times what their")
        with expected if refused else nullcontext(), steer(granite, line(site), {"v": vectors(4, 48)}):
            pass


@pytest.mark.parametrize(
    ("found", "why"),
    [
        ({"residual_scale": 0.5}, "add 0.5 times what their mlp returns"),
        ({"mlp_beta_factor": 2.0}, "add 2 times what their mlp returns"),
        ({"attn_beta_factor": 2.0}, None),
        ({"attn_residual_add_idx": 1}, "do not simply add what their mlp returns"),
        ({"lambda_1": nn.Parameter(torch.ones(1))}, "do not simply add what their mlp returns"),
    ],
)
def test_layers_that_add_otherwise_are_known_by_what_they_have(found: dict[str, Any], why: str | None) -> None:
    layer = nn.Module()
    layer.mlp = nn.Linear(4, 4)
    for name, value in found.items():
        setattr(layer, name, value)
    with nullcontext() if why is None else pytest.raises(UserError, match=why):
        assert find_module(sites.get("mlp"), nn.ModuleList([layer]), 0) is layer.mlp


def afmoe() -> Any:
    sizes = {"hidden_size": 48, "intermediate_size": 64, "moe_intermediate_size": 16, "num_hidden_layers": 4}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12}
    config = AfmoeConfig(vocab_size=50, num_dense_layers=4, num_experts=4, num_experts_per_tok=2, **sizes, **heads)
    return AfmoeForCausalLM(config).eval()


@pytest.mark.parametrize("site", ["mlp", "attention"])
@pytest.mark.parametrize("make", [afmoe, lambda: tiny("molmo2", norm_after=True)], ids=["afmoe", "molmo2"])
def test_what_is_added_behind_a_norm_is_in_the_residual_s_units(make: Callable[[], Any], site: str) -> None:
    torch.manual_seed(0)
    model = make()
    (layer, width), ids = (model.get_decoder().layers[LAYER], model.get_input_embeddings().weight.shape[1]), [[9, 8]]
    push = vectors(4, width)
    # the MLP would also answer to what the attention adds
    if site == "attention":
        layer.mlp.register_forward_hook(lambda *_: torch.zeros(1, 2, width))
    outputs: list[Tensor] = []
    layer.register_forward_hook(
        lambda _, __, output: outputs.append(output[0] if isinstance(output, tuple) else output)
    )
    for steered in (nullcontext(), steer(model, line(site), {"v": push})):
        with steered, torch.inference_mode():
            model(input_ids=torch.tensor(ids))
    expected = ALPHA * torch.from_numpy(push[LAYER])
    assert torch.allclose(outputs[1] - outputs[0], expected.expand(1, 2, width), atol=1e-4)


def norm_before_mlp(layer: nn.Module) -> nn.Module:
    children = dict(layer.named_children())
    return children.get("pre_feedforward_layernorm", children["post_attention_layernorm"])


def test_a_registered_site_is_a_value_of_the_key(vlm: Any) -> None:
    name, model, processor = vlm
    if "norm_after" not in sites:
        register_site("norm_after", description="the norm before the MLP")(norm_before_mlp)
    batch = batch_of(name, processor, *TEXTS)
    layer = model.get_decoder().layers[LAYER]
    norm = next(name for name, module in layer.named_children() if module is norm_before_mlp(layer))
    with edited(layer, norm, batch["attention_mask"].bool()):
        expected = forward(model, batch)
    with steer(model, line("norm_after"), {"v": V}):
        assert (forward(model, batch) - expected).abs().max() < 1e-5
    assert SteeringSpec.parse(line("norm_after")) == SteeringSpec.parse(str(SteeringSpec.parse(line("norm_after"))))


def test_a_site_of_another_width_is_one_line_with_both_widths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sites, "_entries", dict(sites._entries))

    def neurons(layer: Any) -> Any:
        return layer.mlp.down_proj

    register_site("neurons", description="of the MLP", changes="input")(neurons)
    model, processor = build("paligemma2")
    batch = batch_of("paligemma2", processor, *TEXTS)
    wide = model.get_decoder().layers[LAYER].mlp.down_proj.in_features
    message = f"layer 1 has the width {wide} at site=neurons, and the vector 48"
    with pytest.raises(SteeringError, match=message), steer(model, line("neurons"), {"v": V}):
        forward(model, batch)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda _: "mlp", "its function returned a str for layer 1: expected a module of the layer, or None"),
        (lambda layer: layer.mlp.forward, "its function returned a method for layer 1"),
        (lambda layer: layer.no_such_part, "its function failed at layer 1: AttributeError: .*no_such_part"),
    ],
)
def test_a_site_s_function_that_finds_no_module_is_one_line(
    function: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sites, "_entries", dict(sites._entries))
    register_site("own", description="of a user")(function)
    model, _ = build("paligemma2")
    before = hook_counts(model)
    with pytest.raises(UserError, match=f"^site=own: {message}"), steer(model, line("own"), {"v": V}):
        pytest.fail("steered")
    assert hook_counts(model) == before


def test_a_site_whose_module_does_not_run_is_refused_and_not_taken_for_an_effect_of_zero(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sites, "_entries", dict(sites._entries))

    def mlp(layer: Any) -> Any:
        return layer.mlp

    register_site("unused", description="a list of modules is never called")(lambda one: nn.ModuleList([mlp(one)]))
    register_site("used", description="what a module of the layer returns")(mlp)
    model, processor = build("paligemma2")
    batch = batch_of("paligemma2", processor, *TEXTS)
    with steer(model, line("unused"), {"v": V}):
        for run in (lambda: forward(model, batch), lambda: model.generate(**batch, max_new_tokens=2)):
            with pytest.raises(SteeringError, match="site=unused: .* layer 1, a ModuleList, did not run in this"):
                run()
    with steer(model, line("used"), {"v": V}):
        model.generate(**batch, max_new_tokens=2)


def test_a_site_changes_an_input_or_an_output_of_one_of_two_towers() -> None:
    for keys, message in (({"changes": "inputs"}, "changes='inputs' is none of output, input"),
                          ({"tower": "visoin"}, "tower='visoin' is none of decoder, vision")):  # fmt: skip
        with pytest.raises(ValueError, match=f"site 'own': {message}"):
            register_site("own", description="of a user", **keys)(lambda layer: layer)  # type: ignore[arg-type]
    assert "own" not in sites
