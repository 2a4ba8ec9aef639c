"""`scale=relative` for text models: what the norms are measured on, and that `steer` uses them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTNeoXConfig, GPTNeoXForCausalLM

from lmms_steer import SteeringVectors, UserError, find_alpha, measure_norms, steer
from lmms_steer.models.own_prompts import SENTENCES
from lmms_steer.tiny_world.checkpoints import weights_dir
from lmms_steer.vectors import store
from tests.helpers.checkpoints import build
from tests.helpers.models import record, vectors

LINE = "vector=v,layer=2,alpha=0.5,tokens=both,scale=relative"


@pytest.fixture(scope="module")
def gemma() -> tuple[Any, Any]:
    folder = str(weights_dir("tiny-gemma2"))
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def test_a_text_model_is_measured_on_sentences_without_their_first_position(
    gemma: tuple[Any, Any], own_cache: Path
) -> None:
    model, tokenizer = gemma
    batches = [tokenizer(sentence, return_tensors="pt") for sentence in SENTENCES]
    with torch.no_grad():
        hidden = [model(**batch, output_hidden_states=True).hidden_states[3][0, 1:].float() for batch in batches]
    measured = measure_norms(model, tokenizer)[2]
    assert measured["both"] == measured["text"] == pytest.approx(float(torch.cat(hidden).norm(dim=-1).mean()), rel=1e-4)
    assert measured["last"] == pytest.approx(float(torch.stack([h[-1].norm() for h in hidden]).mean()), rel=1e-4)
    assert "image" not in measured
    (file,) = (own_cache / "norms").iterdir()
    file.write_text(file.read_text().replace("both: ", "both: 1"))
    assert measure_norms(model, tokenizer)[2]["both"] != measured["both"], "read from the cache"


def test_a_wrapped_model_is_measured_for_steer() -> None:
    import peft

    folder = str(weights_dir("tiny-gemma2"))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    wrapped: Any = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"])).eval()
    v = SteeringVectors.load(store.find("tiny-gemma2/colour-red", None).path)
    norms = measure_norms(wrapped, tokenizer)
    with steer(wrapped, LINE, {"v": v}) as resolved:
        assert resolved.norms == norms


def test_steer_adds_a_relative_strength_once_the_norms_were_measured() -> None:
    folder = str(weights_dir("tiny-gemma2"))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    v = SteeringVectors.load(store.find("tiny-gemma2/colour-red", None).path)
    with (
        pytest.raises(UserError, match=r"call lmms_steer.measure_norms\(model, processor\)"),
        steer(model, LINE, {"v": v}),
    ):
        pass
    norms = measure_norms(model, tokenizer)
    batch = tokenizer("the cat is on the table", return_tensors="pt")
    plain = record(model, lambda: model(**batch))
    with steer(model, LINE, {"v": v}) as resolved:
        steered = record(model, lambda: model(**batch))
    added = (steered[2] - plain[2]).norm(dim=-1)
    assert torch.allclose(added, torch.full_like(added, 0.5 * norms[2]["both"]), rtol=1e-4)
    assert resolved.norms == norms and resolved.spec.interventions[0].alpha == 0.5


def test_what_is_measured_while_a_model_trains_is_what_it_is_without_dropout(own_cache: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(weights_dir("tiny-gemma2"))
    config = GPTNeoXConfig(vocab_size=len(tokenizer), hidden_size=48, num_hidden_layers=4, num_attention_heads=4,
                           intermediate_size=64, hidden_dropout=0.5)  # fmt: skip
    model = GPTNeoXForCausalLM(config).train()
    model.gpt_neox.layers[1].eval()
    training = [module.training for module in model.modules()]
    place: dict[str, Any] = {"layer": 2, "tokens": "both", "scale": "relative"}
    norms, found = measure_norms(model, tokenizer), find_alpha(model, tokenizer, vectors(), 0.01, **place)
    assert [module.training for module in model.modules()] == training
    model.eval()
    for folder in ("norms", "budgets"):
        for path in (own_cache / folder).iterdir():
            path.unlink()
    assert measure_norms(model, tokenizer) == norms
    again = find_alpha(model, tokenizer, vectors(), 0.01, **place)
    assert again.spec.interventions == found.spec.interventions


def test_a_multimodal_model_is_not_measured_with_its_tokenizer() -> None:
    model, processor = build("llava")
    with pytest.raises(UserError, match="a LlavaForConditionalGeneration takes images, so pass its processor"):
        measure_norms(model, processor.tokenizer)
    norms = measure_norms(model, processor)
    assert set(norms[0]) == {"image", "text", "both", "last"}
    with steer(model, LINE.replace("both", "image"), {"v": vectors()}) as resolved:
        assert resolved.norms == norms


def test_lm_eval_s_steered_model_takes_a_relative_strength(own_cache: Path) -> None:
    from lmms_steer.harness.lm_eval import SteeredHFLM

    spec = {"vector": "tiny-gemma2/spatial", "layer": 3, "alpha": 0.5, "tokens": "both", "scale": "relative"}
    lm = SteeredHFLM(pretrained="tiny-gemma2", device="cpu", **spec)
    assert lm.attachment and lm.resolved.norms is not None and set(lm.resolved.norms[3]) == {"text", "both", "last"}
    (file,) = (own_cache / "norms").iterdir()
    header = file.read_text().splitlines()[0]
    assert header.endswith("tiny-gemma2, layer by layer, on 16 sentences, without their first position")


def test_what_is_kept_for_the_weights_is_not_measured_in_a_steered_model(
    gemma: tuple[Any, Any], own_cache: Path
) -> None:
    model, tokenizer = gemma
    v = SteeringVectors.load(store.find("tiny-gemma2/colour-red", None).path)

    def alpha() -> object:
        return find_alpha(model, tokenizer, v, 0.1, layer=2, tokens="both")

    for measure in (lambda: measure_norms(model, tokenizer), alpha):
        with pytest.raises(UserError, match="outside of the steer block"), steer(model, v, layer=0, tokens="both"):
            measure()
    assert not [*own_cache.glob("norms/*"), *own_cache.glob("budgets/*")]


def test_adapters_have_norms_of_their_own() -> None:
    import peft

    folder = str(weights_dir("tiny-gemma2"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).float().eval()
    plain = measure_norms(model, tokenizer)
    wrapped: Any = peft.get_peft_model(model, peft.LoraConfig(target_modules=["down_proj"], init_lora_weights=False))
    wrapped.eval()
    assert measure_norms(wrapped, tokenizer)[2]["both"] != pytest.approx(plain[2]["both"], rel=1e-3)
    with wrapped.disable_adapter():
        assert measure_norms(wrapped, tokenizer)[2]["both"] == pytest.approx(plain[2]["both"], rel=1e-4)
