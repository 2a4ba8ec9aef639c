"""`extract`, `load_vectors` and `steer` from Python: the same vectors and the same steering as by command and spec."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import lmms_steer
from lmms_steer import Intervention, SteeringVectors, UserError
from lmms_steer.concepts import Concept, Pair
from lmms_steer.extraction.command import extract_to_store
from lmms_steer.vectors.backbones import checkpoint

RED = "tiny-gemma2/colour-red/mean_shift"


@pytest.fixture(scope="module")
def gemma() -> Any:
    folder = checkpoint("tiny-gemma2")
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def logits(gemma: Any, *given: Any, **options: Any) -> torch.Tensor:
    model, tokenizer = gemma
    with lmms_steer.steer(model, *given, **options), torch.inference_mode():
        found: torch.Tensor = model(**tokenizer("the ball is", return_tensors="pt")).logits
    return found


def test_extract_returns_what_the_command_stores(tmp_path: Path, own_cache: Path) -> None:
    list(extract_to_store("tiny-gemma2", ["colour-red"], ["mean_shift"], tmp_path))
    vectors = lmms_steer.extract("tiny-gemma2", "colour-red")
    assert vectors.sha256 == SteeringVectors.load(tmp_path / f"{RED}.safetensors").sha256
    assert (own_cache / "vectors" / f"{RED}.safetensors").is_file()
    assert lmms_steer.load_vectors("colour-red", "tiny-gemma2").sha256 == vectors.sha256
    some = lmms_steer.extract("tiny-gemma2", ["colour-red"], "pca", store=tmp_path, layers=[1, 2])
    assert {name: one.layers for name, one in some.items()} == {"tiny-gemma2/colour-red/pca": (1, 2)}
    typed = lmms_steer.extract("tiny-gemma2", "colour-red", "pca", store=tmp_path, layers="1-2", replace=True)
    assert typed.sha256 == some["tiny-gemma2/colour-red/pca"].sha256
    assert lmms_steer.extract("tiny-gemma2", "colour-red", "pca", store=tmp_path, layers=2, replace=True).layers == (2,)
    for wrong, message in (
        ("2-1", "2-1: 2-1 runs backwards"),
        ([], ": expected layers"),
        ([-1], "-1: expected layers"),
    ):
        with pytest.raises(UserError, match=f"layers={message}"):
            lmms_steer.extract("tiny-gemma2", "colour-red", layers=wrong)
    with pytest.raises(UserError, match="did you mean 'colour-red'"):
        lmms_steer.extract("tiny-gemma2", "color-red")


def test_own_sentences_are_a_file_or_an_object(tmp_path: Path) -> None:
    file = tmp_path / "blue.yaml"
    file.write_text("name: blue\npairs:\n  - blue: the cup is blue on the table\n  - blue: a blue ball is here\n")
    pairs = [Pair("blue", "the cup is blue on the table"), Pair("blue", "a blue ball is here")]
    concept = Concept("blue", "", pairs)  # type: ignore[arg-type]
    expected = lmms_steer.extract("tiny-gemma2", str(file), store=tmp_path / "0")
    assert lmms_steer.extract("tiny-gemma2", file, store=tmp_path / "1").sha256 == expected.sha256
    assert lmms_steer.extract("tiny-gemma2", concept, store=tmp_path / "2").sha256 == expected.sha256
    several = lmms_steer.extract("tiny-gemma2", [file, "counting"], store=tmp_path / "3")
    assert list(several) == ["tiny-gemma2/blue/mean_shift", "tiny-gemma2/counting/mean_shift"]
    given: dict[str, Any] = {"model": "steered_paligemma", "scores": "separation", "layers": [1]}
    scored = [
        lmms_steer.layers("pretrained=tiny-paligemma2", RED, concept=one, **given).scores
        for one in (None, file, concept)
    ]
    assert scored[1] == scored[2] != scored[0]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["The cup is blue.", "A blue ball."], "expected the name of a concept, a .yaml, .* got 'The cup is blue.'"),
        ("The cup is blue.", "expected the name of a concept, .* got 'The cup is blue.'"),
        ({"name": "blue", "pairs": []}, "expected .*, or a list of them; got a dict"),
        (None, "expected .*, or a list of them; got a NoneType"),
        ([Pair("blue", "The cup is blue.")], r"expected the name of a concept, .* got Pair\(anchor='blue'"),
        (Concept("blue", "", (("blue", "It is blue."),)), r"'Concept blue': expected pairs .* got \('blue', 'It"),  # type: ignore[arg-type]
        (Concept("blue", "", (Pair("", "It is blue."),)), "'Concept blue': expected pairs .* of texts"),
        (Concept("a/b", "", (Pair("blue", "It is blue."),)), "'Concept a/b': the concept's name 'a/b' also names"),
        (Concept("blue", "", ()), "'Concept blue' has no pair of anchor and sentence"),
    ],
)
def test_what_is_no_concept_is_refused_in_one_line(wrong: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        lmms_steer.extract("tiny-gemma2", wrong, store=tmp_path)
    with pytest.raises(UserError, match="--questions are about one concept"):
        lmms_steer.extract("tiny-gemma2", tmp_path / "x.yaml", questions=tmp_path / "q.jsonl")


def test_vectors_and_a_name_steer_as_the_spec_does(gemma: Any) -> None:
    expected = logits(gemma, f"vector={RED},layer=2,alpha=0.5,tokens=both,scale=unit")
    fields = {"layer": 2, "alpha": 0.5, "tokens": "both", "scale": "unit"}
    vectors = lmms_steer.load_vectors(RED)
    assert torch.equal(logits(gemma, vectors, **fields), expected)
    assert torch.equal(logits(gemma, RED, **fields), expected)
    assert not torch.equal(logits(gemma, RED, **fields | {"layer": 1}), expected)
    controlled = logits(gemma, f"vector={RED},layer=2,alpha=0.5,tokens=both,scale=unit,control=random:1")
    assert torch.equal(logits(gemma, vectors, **fields, control="random:1"), controlled)


def test_what_cannot_be_meant_is_refused(gemma: Any) -> None:
    with pytest.raises(UserError, match="layer=2 beside the spec 'vector=.*a spec has its own keys"):
        logits(gemma, f"vector={RED}", layer=2)
    with pytest.raises(UserError, match="unknown vector 'tiny-gemma2/colour-rde'"):
        logits(gemma, "tiny-gemma2/colour-rde", layer=2)
    with pytest.raises(UserError, match="unknown tokens 'img'"):
        logits(gemma, lmms_steer.load_vectors(RED), tokens="img")


def test_vectors_under_a_name_that_the_spec_does_not_use_are_refused(gemma: Any) -> None:
    red, blue = (lmms_steer.load_vectors(f"tiny-gemma2/colour-{name}") for name in ("red", "blue"))
    fields = "layer=2,alpha=0.5,tokens=both"
    with pytest.raises(UserError, match=f"'mine': ….: the spec does not use that name, only {RED}"):
        logits(gemma, f"vector={RED},{fields}", {"mine": blue})
    with pytest.raises(UserError, match="'Blue': ….: the spec does not use that name, only red, blue"):
        logits(gemma, f"vector=red,{fields};vector=blue,{fields}", {"red": red, "Blue": blue})
    with pytest.raises(UserError, match="'other': ….: the spec does not use that name"):
        logits(gemma, red, {"other": blue}, layer=2)
    both = {"red": red, "blue": blue}
    alone = logits(gemma, f"vector=red,{fields}", {"red": red})
    assert torch.equal(logits(gemma, f"vector=red,{fields}", both), alone), "all that the spec uses is given"
    gated = logits(gemma, f"vector=red,{fields},gate=cosine,threshold=-1,gate_vector=blue", both)
    assert torch.equal(gated, alone)
    assert not torch.equal(logits(gemma, lmms_steer.SteeringSpec(()), both), alone)


def test_a_file_of_a_spec_steers_as_its_line_does(gemma: Any, tmp_path: Path) -> None:
    line, file = f"vector={RED},layer=2,alpha=0.5,tokens=both", tmp_path / "choice.yaml"
    file.write_text(f"interventions:\n  - {{vector: {RED}, layer: 2, alpha: 0.5, tokens: both}}\n")
    assert torch.equal(logits(gemma, str(file)), logits(gemma, line))
    assert torch.equal(logits(gemma, file), logits(gemma, line))
    with pytest.raises(UserError, match="alpha=1 beside the spec .*a spec has its own keys"):
        logits(gemma, file, alpha=1)


def test_the_path_of_a_vector_s_file_may_contain_an_equals_sign(gemma: Any, tmp_path: Path) -> None:
    file = lmms_steer.load_vectors(RED).save(tmp_path / "alpha=1" / "red.safetensors")
    fields = {"layer": 2, "alpha": 0.5, "tokens": "both"}
    assert torch.equal(logits(gemma, file, **fields), logits(gemma, RED, **fields))
    assert isinstance(file, Path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.zeros(96), r"got a Tensor: make vectors of it first, SteeringVectors\({layer: direction}"),
        ({2: torch.zeros(96)}, "got a dict: make vectors of it first"),
        ({"vector": RED, "layer": 2}, r"got a mapping: SteeringSpec.from_dicts\("),
        (None, "expected vectors, the name or file of a vector, or a spec .*, got None"),
        ([RED], "expected vectors, the name or file of a vector, or a spec .*, got \\['tiny-gemma2"),
    ],
    ids=["tensor", "directions", "mapping", "nothing", "list"],
)
def test_what_is_no_vector_and_no_spec_is_refused(gemma: Any, given: Any, message: str) -> None:
    for fields in ({}, {"layer": 2}):
        with pytest.raises(UserError, match=message):
            logits(gemma, given, **fields)


@pytest.mark.parametrize("third", [2, [RED]])
def test_a_third_argument_that_holds_no_vectors_by_name_is_refused(gemma: Any, third: Any) -> None:
    with pytest.raises(UserError, match="the third argument is vectors by name"):
        logits(gemma, RED, third)


def test_vectors_say_what_they_are_in_a_few_words() -> None:
    vectors = lmms_steer.load_vectors(RED)
    assert len(repr(vectors)) < 120 and "colour-red" in repr(vectors)
    table = vectors.to_pandas()
    assert table["layer"].tolist() == [0, 1, 2, 3, 4] and table["norm"].tolist() == list(vectors.norms.values())
    hostile = SteeringVectors(vectors.directions, {"model": "<script>", "concept": "&", "method": "m"})
    assert "<script>" not in hostile._repr_html_() and "&lt;script&gt;/&amp;/m" in hostile._repr_html_()


WRAPPER = SimpleNamespace(model=torch.nn.Linear(2, 2), config={})


@pytest.mark.parametrize(
    ("model", "instead"),
    [("tiny-paligemma2", ""), (torch.nn.Linear(2, 2), ""), (None, ""), (WRAPPER, ": pass its .model")],
)
def test_steer_takes_a_loaded_model(model: Any, instead: str) -> None:
    with (
        pytest.raises(UserError, match=f"^steer takes a loaded model .* and not a {type(model).__name__}{instead}$"),
        lmms_steer.steer(model, "vector=counting,layer=1,alpha=1,tokens=text"),
    ):
        pass


def test_steer_logs_what_it_filled_in_and_what_to_be_warned_of(gemma: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "lmms_steer")
    vectors = lmms_steer.load_vectors(RED)
    logits(gemma, vectors, layer=2)
    (note,) = [record for record in caplog.records if record.name.startswith("lmms_steer")]
    assert note.levelname == "INFO" and "(alpha, tokens: lmms-steer's defaults" in note.getMessage()
    assert "these vectors were given themselves" in note.getMessage()
    caplog.clear()
    logits(gemma, SteeringVectors(vectors.directions, {"model": "llama"}), layer=2, alpha=1, tokens="both")
    (warning,) = [record for record in caplog.records if record.name.startswith("lmms_steer")]
    assert warning.levelname == "WARNING" and "was made from llama, not for tiny-gemma2" in warning.getMessage()


def test_several_interventions_are_objects_or_one_line(gemma: Any) -> None:
    red, blue = (lmms_steer.load_vectors(RED.replace("red", colour)) for colour in ("red", "blue"))
    both = [Intervention("a", 1, 0.5, "both"), Intervention("b", 2, -0.5, "both")]
    given = {"a": red, "b": blue}
    together = logits(gemma, both, given)
    line = "vector=a,layer=1,alpha=0.5,tokens=both; vector=b,layer=2,alpha=-0.5,tokens=both"
    assert torch.equal(together, logits(gemma, line, given))
    assert torch.equal(logits(gemma, both[0], {"a": red}), logits(gemma, red, layer=1, alpha=0.5, tokens="both"))
    assert not torch.equal(together, logits(gemma, both[0], {"a": red}))


def test_layers_are_numbers_of_any_kind(gemma: Any) -> None:
    one = logits(gemma, RED, layers="1,3", alpha=0.5, tokens="both")
    for layers in ([1, 3], (3, 1), {1, 3}, np.array([1, 3])):
        assert torch.equal(logits(gemma, RED, layers=layers, alpha=0.5, tokens="both"), one)
    with pytest.raises(UserError, match='for several write layers="1,3"'):
        logits(gemma, RED, layer=[1, 3], alpha=0.5, tokens="both")


def test_vectors_are_equal_by_content_and_keep_their_own_numbers() -> None:
    rows = {layer: np.full(4, layer + 1, dtype=np.float32) for layer in range(2)}
    vectors = SteeringVectors(rows, {"model": "m"})
    assert (
        vectors == SteeringVectors(rows, {"model": "m"}) and len({vectors, SteeringVectors(rows, {"model": "m"})}) == 1
    )
    assert vectors == SteeringVectors(rows, {"model": object()}) and vectors != 1
    assert vectors != SteeringVectors({0: rows[0]}, {}) and vectors != SteeringVectors({0: rows[1], 1: rows[0]}, {})
    before = vectors.sha256
    rows[0][:] = 9
    assert vectors.sha256 == before


def test_what_is_no_name_is_said_to_be_none(gemma: Any, tmp_path: Path) -> None:
    model, tokenizer = gemma
    vectors = lmms_steer.load_vectors(RED)
    path = vectors.save(tmp_path / "mine.safetensors")
    assert lmms_steer.load_vectors(path) == vectors
    folder = Path(checkpoint("tiny-gemma2"))
    assert lmms_steer.Backbone(folder).source["n_layers"] == 5
    assert "SteeringVectors colour-red" in repr(lmms_steer.extract(folder, "colour-red", store=tmp_path))
    saved = "got a Gemma2ForCausalLM: save it with save_pretrained and give the folder"
    for call, expected in (
        (lambda: lmms_steer.load_vectors(cast(Any, vectors)), "load_vectors takes the name or the file of a vector"),
        (lambda: lmms_steer.extract(model, "colour-red"), saved),
        (lambda: lmms_steer.Backbone(model), saved),
        (
            lambda: lmms_steer.extract("tiny-gemma2", "colour-red, spatial"),
            "of several concepts give a list",
        ),
        (lambda: lmms_steer.inspect("a", {"pretrained": model}), saved),
        (lambda: lmms_steer.find_alpha(model, None, RED, 0.1, layer=1, tokens="both"), "its tokenizer"),
        (lambda: lmms_steer.measure_norms(model, cast(Any, None)), "a text model with its tokenizer"),
        (lambda: lmms_steer.inspect("a", {"pretrained": None}), "no model: add pretrained=NAME"),
        (lambda: vectors.save(tmp_path / "v.pt"), "the name of a vector's file ends in .safetensors"),
    ):
        with pytest.raises(UserError, match=expected):
            call()
