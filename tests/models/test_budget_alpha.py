"""`alpha=kl:0.1`: the alpha that is found does that damage, is kept, and holds for nothing else."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from scipy.stats import entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

import lmms_steer
from lmms_steer import UserError, steer
from lmms_steer.harness.steered import SteeredPaliGemma
from lmms_steer.models import budget_alpha, own_prompts
from lmms_steer.steering.spec import SteeringSpec
from lmms_steer.tiny_world.checkpoints import weights_dir
from tests.helpers.models import vectors

PLACE = {"layer": 1, "tokens": "image"}


@pytest.fixture(autouse=True)
def few_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_prompts, "SCENES", 4)
    monkeypatch.setattr(own_prompts, "SENTENCES", own_prompts.SENTENCES[:4])


def steered(**keys: Any) -> SteeredPaliGemma:
    return SteeredPaliGemma(pretrained="tiny-paligemma2", **{"vector": "counting", **PLACE, "alpha": "kl:0.1", **keys})


def damage(model: Any, processor: Any, spec: str) -> float:
    """The mean over the prompts of the largest KL among the tokens that the unsteered model writes, in float64."""
    found = []
    for batch in own_prompts.own_prompts(model, processor, None, False).batches:
        start = batch["input_ids"].shape[1]
        settings = {"do_sample": False, "max_new_tokens": 8, "return_dict_in_generate": True, "output_logits": True}
        with torch.no_grad():
            plain = model.generate(**batch, **settings)
            ids = plain.sequences[0, start:].tolist()
            forced = {"prefix_allowed_tokens_fn": lambda _, seen, ids=ids, start=start: [ids[len(seen) - start]]}
            settings["max_new_tokens"] = len(ids)
            with steer(model, spec):
                moved = model.generate(**batch, **settings, **forced)
        rows = [[torch.softmax(row[0].double(), -1).numpy() for row in one.logits] for one in (plain, moved)]
        found.append(max(entropy(p, q) for p, q in zip(*rows, strict=True)))
    return float(np.mean(found))


def test_the_alpha_that_is_found_does_the_damage_and_the_record_names_both(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = steered()
    lm.attachment.remove()
    (intervention,) = lm.resolved.spec.interventions
    assert damage(lm.model, lm.processor, f"{intervention}") == pytest.approx(0.1, rel=0.021)
    record = lm.steering_record
    assert f"alpha={intervention.alpha:g}" in record["spec"] and record["provenance"]["budget"] == "kl:0.1"
    assert record["provenance"]["budget_on"] == "4 drawn scenes" and "became alpha=" in record["notes"][-1]
    plain = SteeredPaliGemma(pretrained="tiny-paligemma2", vector="counting", alpha=intervention.alpha, **PLACE)
    assert plain.resolved.sha256 == lm.resolved.sha256, "the same as with the number"

    monkeypatch.setattr(budget_alpha, "_search", lambda *_: pytest.fail("it was found before"))
    assert steered().resolved.spec == lm.resolved.spec
    (file,) = (own_cache / "budgets").iterdir()
    kept = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**kept, "vector_sha256": "0" * 64}))
    with pytest.raises(UserError, match="resolved for the budget kl:0.1 with another vector"):
        steered()
    file.write_text(yaml.safe_dump({**kept, "alpha": -1.0}))
    with pytest.raises(UserError, match="cannot read the alpha in .*delete it to find it again"):
        steered()
    # another vector and another place have files of their own
    for other in ({"vector": "spatial"}, {"layer": 2}, {"alpha": "kl:0.2"}):
        with pytest.raises(pytest.fail.Exception, match="it was found before"):
            steered(**other)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"alpha": "kl:50"}, r"alpha=kl:50 cannot be reached: KL .* at alpha 4096, on 4 drawn scenes"),
        ({"alpha": "kl:much"}, "alpha=kl:much: expected a number of nats above 0"),
        ({"tokens": None}, "alpha=kl:0.1: the alpha is found for one place: give layer .* and tokens too"),
        ({"vector": "@image_contrast"}, "alpha=kl:0.1: @image_contrast is another vector for each question"),
    ],
)
def test_a_budget_without_an_alpha_is_refused(own_cache: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        steered(**keys)
    assert not (own_cache / "budgets").exists()


def test_in_python_the_alpha_of_a_text_model_is_found_on_sentences(own_cache: Path) -> None:
    folder = str(weights_dir("tiny-gemma2"))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    own = vectors(5, 96)
    found = lmms_steer.find_alpha(model, tokenizer, own, 0.1, layer=2, tokens="both")
    assert found.spec.provenance["budget_on"] == "4 sentences" and found.spec.provenance["budget"] == "kl:0.1"
    assert found.spec.provenance["budget_kl"] == pytest.approx(0.1, rel=0.02)
    again = lmms_steer.find_alpha(model, tokenizer, own, "kl:0.1", layer=2, tokens="both")
    assert again.spec == found.spec and len(list((own_cache / "budgets").iterdir())) == 1
    with steer(model, found) as resolved:
        assert resolved.spec.interventions[0].alpha == found.spec.interventions[0].alpha
    with pytest.raises(UserError, match="unknown steering key 'sight': did you mean 'site'"):
        lmms_steer.find_alpha(model, tokenizer, own, 0.1, layer=2, tokens="both", sight="mlp")
    with pytest.raises(UserError, match="alpha=2: find_alpha finds the alpha: leave it out"):
        lmms_steer.find_alpha(model, tokenizer, own, 0.1, layer=2, tokens="both", alpha=2)
    wrapped = torch.nn.DataParallel(model)
    assert lmms_steer.find_alpha(wrapped, tokenizer, own, 0.1, layer=2, tokens="both").spec == found.spec


def test_an_alpha_or_norms_of_one_model_are_refused_by_another(own_cache: Path, tmp_path: Path) -> None:
    folder = str(weights_dir("tiny-gemma2"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model, other = (AutoModelForCausalLM.from_pretrained(folder).eval() for _ in range(2))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.3)
    other.save_pretrained(tmp_path / "other")
    other = AutoModelForCausalLM.from_pretrained(tmp_path / "other").eval()
    own = vectors(5, 96)
    found = lmms_steer.find_alpha(model, tokenizer, own, 0.1, layer=2, tokens="both")
    with pytest.raises(UserError, match="the budget kl:0.1 on .*, and this is"), steer(other, found):
        pass
    lmms_steer.measure_norms(model, tokenizer)
    with steer(model, own, layer=2, alpha=0.2, tokens="both", scale="relative") as relative:
        pass
    with steer(model, relative):
        pass
    refused = "scale=relative: the spec was resolved with norms that were not measured on this model"
    with pytest.raises(UserError, match=refused), steer(other, relative):
        pass
    lmms_steer.measure_norms(other, tokenizer)
    with pytest.raises(UserError, match=refused), steer(other, relative):
        pass
    with steer(other, relative.spec, {relative.vectors[0].name: own}) as again:
        assert again.norms != relative.norms
    found = lmms_steer.find_alpha(other, tokenizer, own, 0.1, layer=2, tokens="both", scale="relative")
    with steer(other, found):
        pass


def test_what_is_no_spec_is_said_to_be_none() -> None:
    with pytest.raises(UserError, match="steering is a SteeringVectors: expected a SteeringSpec, or a spec's file"):
        SteeringSpec.from_args({"steering": vectors()})
    with pytest.raises(UserError, match="steering=vector=spatial,layer=2 is no file: give its keys as arguments"):
        SteeringSpec.from_args({"steering": "vector=spatial,layer=2"})
