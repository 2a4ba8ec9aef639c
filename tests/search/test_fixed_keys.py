"""`--spec`: searches whose cells have more keys than layer, alpha and tokens; replayed where that is exact."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from lmms_steer import SteeringSpec, SteeringVectors, UserError, steer
from lmms_steer.harness.steered import SteeredPaliGemma
from lmms_steer.replay.agreement import agrees, next_logits
from lmms_steer.replay.changes import Change
from lmms_steer.replay.engine import Replay
from lmms_steer.replay.hooked import HookedBatch
from lmms_steer.replay.setup import ReplayOptions
from lmms_steer.search.fixed_keys import FixedKeys
from lmms_steer.search.generation_scorer import GenerationScorer
from lmms_steer.search.options import SearchOptions
from lmms_steer.steering.anatomy import model_facts
from lmms_steer.steering.resolve import resolve
from lmms_steer.tiny_world.question_sets import load_question_set
from tests.helpers.models import batch_of, vectors
from tests.helpers.searches import result_of, search_into
from tests.steering.test_gates import PROBE

TEXTS = ("where is the cat ?", "how many cups are on the table ?")
TARGETS = ("image", "both", "last")
KEYS = (
    "site=mlp,scale=token,operation=norm_preserving",
    "site=attention,gamma_image=2",
    "site=input,scale=unit",
    "operation=ablate,gate=cosine,threshold=0.02",
    "site=mlp,gate=cosine,read=prompt,threshold=-0.02",
    "site=input,gate=probe,gate_vector=p,gate_layer=0,read=last,threshold=0.4",
)


def change(model: Any, keys: str, alpha: float = 1.0, control: str = "") -> Change:
    line = f"vector=v,layers='1-3',alpha=1,tokens=both,{keys}{control}".replace("'", "")
    return Change(resolve(SteeringSpec.parse(line), model_facts(model), {"v": vectors(), "p": PROBE}), alpha)


@pytest.mark.slow
@pytest.mark.parametrize("vlm", ["paligemma2", "llava", "qwen2_5_vl", "smolvlm"], indirect=True)
def test_replayed_cells_equal_the_hooks_at_every_layer_and_target(vlm: Any) -> None:
    name, model, processor = vlm
    batch, moved = batch_of(name, processor, *TEXTS), []
    for keys in KEYS:
        replay = Replay(model, batch, ReplayOptions(TARGETS, site=FixedKeys.parse(keys).intervention.site))
        for layer in (1, 3):
            # a gamma of tokens that are not steered is refused
            targets = [tokens for tokens in TARGETS if "gamma_image" not in keys or tokens != "last"]
            cells = [(alpha, tokens) for alpha in (0.6, -1.3) for tokens in targets]
            changes = [change(model, keys, alpha) for alpha, _ in cells]
            replayed = replay.steer_all(layer, changes, [tokens for _, tokens in cells])
            for (alpha, tokens), logits in zip(cells, replayed, strict=True):
                line = f"vector=v,layer={layer},alpha={alpha},tokens={tokens},{keys}"
                with steer(model, line, {"v": vectors(), "p": PROBE}), torch.no_grad():
                    expected = model(**batch).logits[:, -1]
                assert (logits - expected).abs().max() < 2e-5, (keys, layer, alpha, tokens)
            moved.append(float((replayed - replay.base).abs().max()))
    assert sum(effect > 1e-3 for effect in moved) > len(moved) / 2, "steering must have an effect"
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.get_decoder().modules())


@pytest.mark.parametrize("causal_vlm", ["llava"], indirect=True)
def test_the_first_layer_s_input_and_a_random_vector_s_gate_are_replayed(
    causal_vlm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, model, processor = causal_vlm
    batch = batch_of(name, processor, *TEXTS)
    replay, hooked = Replay(model, batch, ReplayOptions(("image",), site="input")), HookedBatch(model, batch)
    for keys, control in (("site=input", ""), ("site=input,gate=cosine", ",control=random:3")):
        cell = Change(
            resolve(SteeringSpec.parse(f"vector=v,layer=0,alpha=1,tokens=image,{keys}{control}"), model_facts(model),
                    {"v": vectors()}), 0.7)  # fmt: skip
        assert (replay.steer(0, cell, "image") - hooked.steer(0, cell, "image")).abs().max() < 2e-5
        assert agrees(replay, hooked, 0, cell, "image", next_logits)
    hidden = replay.site_tensor(1, replay.site)[replay.masks["image"]]
    middle = float(torch.cosine_similarity(hidden, torch.from_numpy(vectors()[1]), dim=-1).median()) + 1e-4
    gated, everywhere = change(model, f"site=input,gate=cosine,threshold={middle}"), change(model, "site=input")
    assert not torch.equal(replay.steer(1, gated, "image"), replay.steer(1, everywhere, "image"))
    # what the model with hooks changes is another set of positions, or another strength
    true = replay.steer_all
    for wrong in (everywhere, change(model, f"site=input,gate=cosine,threshold={middle}", 2.0)):
        monkeypatch.setattr(replay, "steer_all", lambda layer, _, targets, w=wrong: true(layer, [w], targets))
        assert not agrees(replay, hooked, 1, gated, "image", next_logits)


@pytest.mark.slow
@pytest.mark.parametrize("causal_vlm", ["llava"], indirect=True)
def test_text_after_a_replayed_prompt_is_that_of_the_model_with_hooks(causal_vlm: Any) -> None:
    name, model, processor = causal_vlm
    batch = batch_of(name, processor, *TEXTS)
    config = SimpleNamespace(output_type="generate_until", generation_kwargs={"max_new_tokens": 5}, task="t")
    config.metric_list = [{"metric": "acc"}]
    scorer = GenerationScorer(SimpleNamespace(model=model), SimpleNamespace(config=config), [], batch)
    keys = "site=mlp,scale=token,operation=norm_preserving"
    options = ReplayOptions(("image", "last"), generates=True, site="mlp")
    replay, hooked = Replay(model, batch, options), HookedBatch(model, batch)
    assert replay.starts["last"] > 0, "the keys and values of earlier positions are reused"
    for layer, tokens in ((1, "image"), (2, "last")):
        cell = change(model, keys, 3.0)
        assert scorer.agrees(replay, hooked, layer, cell, tokens)
        pair = [cell, change(model, keys, -2.0)]
        written = [scorer.generate(source, layer, pair, [tokens] * 2) for source in (replay, hooked)]
        assert [ids.tolist() for ids in written[0]] == [ids.tolist() for ids in written[1]]


KEY_LINE = "operation=norm_preserving,scale=token,site=mlp,gate=cosine,threshold=-0.1"


@pytest.mark.slow
def test_a_search_measures_and_chooses_specs_with_the_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = {"alphas": "0.3,1", "tokens": "image,both", "layers": "1,4", "limit": 12}
    lines = search_into(tmp_path / "a", spec=KEY_LINE, **grid)
    assert f"every cell: {KEY_LINE}" in lines and not any("forward passes" in line or "hooks" in line for line in lines)
    table = pq.read_table(tmp_path / "a" / "cells.parquet").to_pylist()
    assert len(table) == 12, "image tokens of the last layer's MLP cannot reach the answer"
    cell = next(c for c in table if (c["layer"], c["tokens"], c["alpha"], c["vector"]) == (1, "both", 1.0, "counting"))
    lm = SteeredPaliGemma(pretrained="tiny-paligemma2")
    rows = load_question_set("counting", "select")[:12]
    right, kls = [], []
    for row in rows:
        inputs = lm.model_inputs([row["question"]], [[row["image"]]])
        with torch.inference_mode():
            base = lm.model(**inputs, use_cache=False).logits[0, -1].double().log_softmax(-1)
            with steer(lm.model, f"vector=counting,layer=1,alpha=1,tokens=both,{KEY_LINE}"):
                logits = lm.model(**inputs, use_cache=False).logits[0, -1].double()
        kls.append(float((base.exp() * (base - logits.log_softmax(-1))).sum()))
        ids = [lm.first_token(word) for word in row["choices"]]
        right.append(int(logits[ids].argmax()) == "ABCDEF".index(row["answer"].strip("()")))
    assert cell["accuracy"] == pytest.approx(np.mean(right)) and cell["kl"] == pytest.approx(np.mean(kls), rel=1e-3)
    chosen, control = (
        SteeringSpec.from_yaml(tmp_path / "a" / f"{file}.yaml").interventions[0]
        for file in ("choice", "control_random_0")
    )
    for intervention in (chosen, control):
        assert str(intervention).replace(",control=random:0", "").endswith(KEY_LINE)
    assert any(
        line.startswith("resumed: 1 measured batch") for line in search_into(tmp_path / "a", spec=KEY_LINE, **grid)
    )
    with pytest.raises(UserError, match="--spec operation=.*site=mlp.* there, none here"):
        search_into(tmp_path / "a", **grid)


@pytest.mark.slow
def test_cells_of_the_vision_tower_are_measured_by_full_forward_passes(tmp_path: Path) -> None:
    tower = SteeredPaliGemma(pretrained="tiny-paligemma2").config.vision_config
    drawn = np.random.default_rng(0).standard_normal((tower.num_hidden_layers, tower.hidden_size))
    file = tmp_path / "noise.safetensors"
    SteeringVectors(dict(enumerate(drawn)), {"model": "m", "concept": "noise", "method": "drawn"}).save(file)
    keys = "scale=token,site=vision"
    lines = search_into(tmp_path / "s", spec=keys, vectors=(str(file),), layers="", limit=8, alphas="0.5", controls=0)
    assert (
        "every cell is measured by full forward passes: site=vision lies before the layers that a replay runs" in lines
    )
    assert not any("hooks" in line for line in lines)
    assert len(pq.read_table(tmp_path / "s" / "cells.parquet")) == tower.num_hidden_layers
    (best,) = result_of(tmp_path / "s")["vectors"].values()
    (chosen,) = SteeringSpec.from_yaml(tmp_path / "s" / "choice.yaml").interventions
    assert (chosen.site, chosen.tokens, chosen.layer) == ("vision", "both", best["best"]["layer"])


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"spec": "layer=3"}, "--spec layer=3: vectors, single layers, alphas and tokens are what is searched"),
        ({"spec": "layers=1-3"}, "--spec layers=1-3: .* have options of their own"),
        ({"spec": "sight=mlp"}, "unknown key 'sight' in --spec: did you mean 'site'"),
        ({"spec": "site=mpl"}, "unknown site 'mpl': did you mean 'mlp'"),
        ({"spec": "gate=probe"}, "gate=probe needs a probe"),
        ({"spec": "site=mlp", "strategy": "race+screen"}, "--strategy race.screen: it drops cells by what"),
        ({"spec": "site=mlp", "keep": True}, "--keep saves layer, alpha and tokens alone"),
        ({"spec": "phase=decode", "score": "letters"}, "no token is generated, so nothing is steered"),
        ({"spec": "site=vision", "tokens": "image,both"}, "steers every patch, so give one of them"),
        ({"spec": "gamma_image=2"}, "^--tokens image,text,both with --spec gamma_image=2: tokens=text,gamma_image=2: "),
        ({"spec": "site=vision", "tokens": "text"}, "every patch is steered there, leave tokens out"),
    ],
)
def test_wrong_keys_are_one_line(tmp_path: Path, more: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        SearchOptions("steered_hf", "pretrained=x", ("v",), "task", tmp_path, **more)
