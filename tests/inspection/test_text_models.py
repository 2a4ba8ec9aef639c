"""`lmms-steer inspect` with a text model: steered tokens, relative strengths, greedy continuations, the figure."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lmms_steer import UserError, steer
from lmms_steer.harness.steered_text import SteeredText, create_any_model
from lmms_steer.inspection.command import run_inspect
from lmms_steer.inspection.prompt import inspect_prompt
from lmms_steer.inspection.strengths import specs_by_strength
from lmms_steer.steering.spec import SteeringSpec
from tests.helpers.lm_eval_tasks import save_llama

PROMPT = "the cat is on the"
ARGS = "pretrained=tiny-gemma2,vector=tiny-gemma2/colour-red,layer=2,alpha=0.5,tokens=both,phase=all"


def continued(lm: Any, line: str, tokens: int) -> str:
    inputs = lm.tokenizer(PROMPT, return_tensors="pt")
    with steer(lm.model, line), torch.inference_mode():
        ids = lm.model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
    return str(lm.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


@pytest.mark.slow
def test_inspect_shows_a_text_model_s_steered_tokens_and_what_it_writes_at_each_strength(tmp_path: Path) -> None:
    lines = list(run_inspect("steered_hf", ARGS, PROMPT, [], tmp_path / "p.svg", alphas=(1.0, 8.0), new_tokens=5))
    printed = "\n".join(lines)
    plain = SteeredText(pretrained="tiny-gemma2")
    assert "text tokens: 6 of 6 steered" in printed and "image tokens" not in printed
    assert "[<bos> the cat is on the]" in lines
    spec = ARGS.split(",", 1)[1]
    for alpha in (0, 1, 8):
        text = continued(plain, spec.replace("alpha=0.5", f"alpha={alpha}"), 5)
        assert f"  alpha {alpha}  {text!r}" in lines
    texts = {line.split("'")[1] for line in lines if line.startswith("  alpha ")}
    assert len(texts) > 1, "the strengths differ"
    assert "next token" in (tmp_path / "p.svg").read_text()


@pytest.mark.slow
def test_the_added_vector_is_compared_with_the_mean_norm_without_the_first_token() -> None:
    lm = create_any_model("steered_hf", ARGS)
    seen = inspect_prompt(lm, [], PROMPT)
    inputs = lm.tokenizer(PROMPT, return_tensors="pt")
    with torch.no_grad():
        steered = lm.model(**inputs).logits[0, -1].softmax(-1)
        lm.attachment.remove()
        unsteered = lm.model(**inputs).logits[0, -1].softmax(-1)
        hidden = lm.model(**inputs, output_hidden_states=True).hidden_states[3][0]
    for word, *shares in seen.compared:
        (number,) = lm.tokenizer(word, add_special_tokens=False).input_ids
        assert shares == pytest.approx([float(unsteered[number]), float(steered[number])], rel=1e-5)
    assert {seen.before[0][0], seen.after[0][0]} <= {word for word, *_ in seen.compared}
    mean = float(hidden[1:].norm(dim=-1).mean())
    (added,) = seen.added["text"]
    lines = list(run_inspect("steered_hf", ARGS, PROMPT, [], None))
    first = float(hidden[0].norm())
    assert (
        f"  text tokens: 6 of 6 steered, mean |h| = {mean:.4g}, the first token ({first:.4g}) left out;"
        f" {added / mean:.2g} of that is added"
    ) in lines
    shown = [line.split("  ")[1] for line in lines if line.startswith("  alpha")]
    assert shown == ["alpha 0", "alpha 0.25", "alpha 0.5", "alpha 1"]


def test_strengths_of_several_interventions_are_scaled_together() -> None:
    spec = SteeringSpec.parse("vector=v,layer=1,alpha=1,tokens=text; vector=w,layer=2,alpha=-2,tokens=last")
    scaled = specs_by_strength(spec, None)
    assert list(scaled) == ["alphas x 0", "alphas x 0.5", "alphas x 1", "alphas x 2"] and scaled["alphas x 1"] == spec
    assert [part.alpha for part in scaled["alphas x 2"].interventions] == [2, -4]
    with pytest.raises(UserError, match="strengths of one intervention, and this spec has 2 interventions"):
        specs_by_strength(spec, [1.0])
    with pytest.raises(UserError, match="this spec has no intervention"):
        specs_by_strength(SteeringSpec(), [1.0])


@pytest.mark.parametrize(
    ("args", "images", "message"),
    [
        (ARGS, ["x"], "tiny-gemma2 is a text model: it takes no images"),
        (f"{ARGS},prompt_format=chat", [], "the tokenizer of tiny-gemma2 has no chat template"),
        (f"{ARGS},prompt_format=paligemma", [], "unknown prompt_format 'paligemma'"),
        (f"{ARGS},size=3", [], "size=3: tiny-gemma2 is a text model, which has no such setting"),
        (ARGS.replace("both,phase=all", "image"), [], "tokens=image: Gemma2ForCausalLM has no image tokens"),
    ],
)
def test_what_a_text_model_does_not_have_is_refused(args: str, images: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        create_any_model("steered_hf", args).model_inputs(["x"], [images])


def test_any_text_checkpoint_is_continued_from_its_chat_template(tmp_path: Path) -> None:
    save_llama(tmp_path / "m")
    lm = SteeredText(pretrained=str(tmp_path / "m"))
    lm.tokenizer.chat_template = "{% for m in messages %}user {{ m['content'] }} .{% endfor %} assistant"
    lm.prompt_format = "chat"
    assert lm.tokenizer.decode(lm.model_inputs(["the cat"])["input_ids"][0]) == "user the cat . assistant"
    padded = lm.model_inputs(["the cat", "a long table ?"])["attention_mask"]
    assert padded[0, 0] == 0 and bool(padded[:, -1].all()), "padded on the left"
