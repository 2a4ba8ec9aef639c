"""A spec round-trips, and every mistake in one is reported in one line."""

from pathlib import Path

import numpy as np
import pytest

from lmms_steer import Intervention, SteeringSpec, SteeringVectors, UserError
from lmms_steer.errors import unknown_name
from lmms_steer.steering.facts import ModelFacts
from lmms_steer.steering.resolve import resolve
from lmms_steer.steering.resolved import ResolvedSpec
from tests.helpers.models import vectors


@pytest.mark.parametrize(
    "spec",
    [
        SteeringSpec(),
        SteeringSpec((Intervention("spatial"),)),
        SteeringSpec((Intervention("tiny-gemma2/spatial/mean_shift", 3, 0.5, "image"),)),
        SteeringSpec(
            (Intervention('a,b; "c" = d.safetensors', 0, -1e-7, "both", "all"), Intervention("b", 2, 1 / 3, "text"))
        ),
    ],
)
def test_a_spec_round_trips_to_one_line_and_to_yaml(spec: SteeringSpec, tmp_path: Path) -> None:
    assert "\n" not in str(spec)
    assert SteeringSpec.parse(str(spec)) == spec
    (tmp_path / "s.yaml").write_text(spec.to_yaml())
    assert SteeringSpec.from_yaml(tmp_path / "s.yaml") == spec


def test_values_are_read_in_the_types_that_lmms_eval_passes() -> None:
    assert Intervention(20241101, "3", "1e-3").vector == "20241101"  # type: ignore[arg-type]
    assert Intervention("v", 3.0, 1).layer == 3  # type: ignore[arg-type]
    assert Intervention("'quoted'").vector == "quoted"


def test_numbers_of_numpy_are_numbers() -> None:
    made = Intervention("v", np.int64(3), np.float32(0.5), gate="cosine", threshold=np.float32(0.25))  # type: ignore[arg-type]
    assert made == Intervention("v", 3, 0.5, gate="cosine", threshold=0.25)
    assert type(made.layer) is int and type(made.alpha) is float
    with pytest.raises(UserError, match="alpha=True: expected a finite number"):
        Intervention("v", 3, np.bool_(True))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("vector=v,layer=-1", "layer=-1.*from 0 up"),
        ("vector=v,layer=1.5", "layer=1.5.*whole number.*decoder layer$"),
        ("vector=v,layer=0-2", "layer=0-2: expected one whole .*; for several write layers=0-2$"),
        ('vector=v,layer="3,7"', 'layer=3,7: expected one whole .*; for several write layers="3,7"$'),
        ('vector=v,tokens="image,text"', "tokens 'image,text': expected one of .*; both means text and all media$"),
        ("vector=v,tokens=image+text", "tokens 'image.text': .*; both means text and all media$"),
        ("vector=v,tokens=image+last", "tokens 'image.last': .*; for several, write an intervention for each$"),
        ("vector=v,tokens=image+txt", "unknown tokens 'image.txt'"),
        ("vector=v,alpha=nan", "alpha=nan.*finite"),
        ("vector=v,alpha=inf", "alpha=inf.*finite"),
        ("vector=v,alpha=strong", "alpha=strong.*finite"),
        ("vector=v,tokens=imgae", "unknown tokens 'imgae': did you mean 'image'"),
        ("vector=v,phase=prompt", "unknown phase 'prompt'.*all, decode, prefill"),
        ("vector=v,phase=decode,tokens=image", "steers nothing"),
        ("vector=v,operation=ablate,scale=unit", "length plays no part"),
        ("vector=v,operation=rotate,scale=token", "length plays no part"),
        ("vector=v,gamma_text=x", "gamma_text=x: expected a finite number"),
        (
            "vector=v,tokens=text,gamma_image=0.5",
            "tokens=text,gamma_image=0.5: .* video tokens, .* not steered",
        ),
        ("vector=v,tokens=last,gamma_image=2", "tokens=last,gamma_image=2: gamma_image is a factor"),
        ("vector=v,tokens=audio,gamma_image=2", "tokens=audio,gamma_image=2: "),
        ("vector=v,tokens=image,gamma_text=2", "tokens=image,gamma_text=2: .* at text tokens, which are not steered"),
        ("vector=v,tokens=both,phase=decode,gamma_image=0", "tokens=both,phase=decode,gamma_image=0: "),
        ("vector=v,aplha=1", "unknown steering key 'aplha': did you mean 'alpha'"),
        ("layer=3,alpha=1", "names no vector"),
        ("vector=v,layer=1,layer=2", "'layer' is given twice"),
        ("spatial", "cannot read the spec"),
        (r'vector="a\qb"', r'cannot read "a\\qb": in quotes a backslash'),
        (r'vector="a\ud800b"', "names no vector"),
        (r'tokens="a\nb"', r"tokens='a\\nb' names no vector"),
        (r'vector="a\u2028b"', "names no vector"),
        ("vector=a\nb", "names no vector"),
        ("vector=\0", "names no vector"),
        ("vector=''", "names no vector"),
        (r'vector=v,layer="1\n2"', r"layer='1\\n2': expected one whole number"),
        (f"vector=v,alpha={'9' * 4000}", "alpha=9+…: expected a finite number"),
        (f"vector=v,layer={'9' * 400}", "layer=9+…: expected one whole number"),
        ("vector=v,alpha=1e400", "alpha=1e400: expected a finite number"),
        ("vector=v,layer=-inf", "layer=-inf: expected one whole number"),
        (f"vector=v,control=random:{'9' * 5000}", "expected a seed"),
        ("vector=v,,layer=1", "cannot read the spec at ',layer=1'"),
        (f"vector={'v' * 400},layer=1,layer=2", "'layer' is given twice in 'vector=v+…'"),
    ],
)
def test_a_mistake_is_one_line_with_the_value(line: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected) as caught:
        SteeringSpec.parse(line)
    assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 300


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("interventions: [{vector: v, layer: 1, layer: 2}]", "line 1: 'layer' is given twice"),
        ("interventions: [{vector: v}]\ninterventions: [{vector: w}]", "'interventions' is given twice"),
        ("interventions: [{vector: v, control: 3}]", "unknown control '3'"),
        ("interventions: [{vector: v, control: [random]}]", "unknown control"),
        ("interventions: [{vector: [a]}]", "names no vector"),
        ("interventions: [{vector: v, alpha: .nan}]", "alpha=nan"),
        (f"interventions: [{{vector: v, alpha: {'9' * 400}}}]", "alpha=9+…: expected a finite"),
        (
            f"interventions: [{{vector: v, layer: {'9' * 5000}}}]",
            "line 1: a int of 5000 characters",
        ),
        (
            "interventions: [{vector: v, layer: 2026-13-45}]",
            "line 1: .2026-13-45. is not a valid timestamp",
        ),
        ("[" * 3000, "s.yaml, line 1: nested too deeply, more than 100 levels"),
    ],
)
def test_a_mistake_in_a_file_is_one_line_with_the_value(text: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(UserError, match=expected) as caught:
        SteeringSpec.from_yaml(tmp_path / "s.yaml")
    assert len(str(caught.value).splitlines()) == 1
    for name in ("\0", 3):
        with pytest.raises(UserError, match="cannot read the steering file"):
            SteeringSpec.from_args({"steering": name})


def test_the_example_of_the_error_is_what_a_steering_file_takes(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("interventions:\n  - vector=spatial,layer=3\n")
    with pytest.raises(UserError, match="is not a steering file") as caught:
        SteeringSpec.from_yaml(tmp_path / "s.yaml")
    example = str(caught.value).split("such as ")[1]
    (tmp_path / "s.yaml").write_text(f"interventions:\n  {example}\n")
    assert str(SteeringSpec.from_yaml(tmp_path / "s.yaml")) == "vector=spatial,layer=3,alpha=0.5,tokens=image"


def test_a_control_beside_a_file_is_at_the_file_s_place(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    chosen = SteeringSpec.parse("vector=v,layer=1,alpha=2,tokens=image; vector=w,layer=2,alpha=1,tokens=text")
    about = {"chosen_on": "t", "budget": "kl:0.1", "budget_for": "layer=1"}
    path.write_text(SteeringSpec(chosen.interventions, about).to_yaml())
    spec = SteeringSpec.from_args({"steering": str(path), "control": "random:3"})
    assert [str(one) for one in spec.interventions] == [f"{one},control=random:3" for one in chosen.interventions]
    assert spec.provenance == {"chosen_on": "t"}
    with pytest.raises(UserError, match="unknown control 'rnadom'"):
        SteeringSpec.from_args({"steering": str(path), "control": "rnadom:3"})
    with pytest.raises(UserError, match="s.yaml and alpha: give the file or the single keys, not both"):
        SteeringSpec.from_args({"steering": str(path), "control": "random:3", "alpha": 1})
    path.write_text(spec.to_yaml())
    with pytest.raises(UserError, match="the file has a control already: leave control out"):
        SteeringSpec.from_args({"steering": str(path), "control": "random:4"})


def test_a_mistake_in_a_file_names_the_intervention(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    for wrong, expected in (("alhpa: 1", "unknown steering key 'alhpa'"), ("layer: x", "layer=x")):
        path.write_text(f"interventions:\n- {{vector: v}}\n- {{vector: w, {wrong}}}\n")
        with pytest.raises(UserError) as caught:
            SteeringSpec.from_yaml(path)
        assert str(caught.value).startswith(f"{str(path)!r}, intervention 2: {expected}")


@pytest.mark.parametrize(
    "text", ["", "- a", "interventions: 3", "interventions: [{vector: v}]\nmore: 1", "a: [", "\x00"]
)
def test_a_file_that_is_not_a_steering_file_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(UserError, match="steering file|not valid YAML"):
        SteeringSpec.from_yaml(tmp_path / "s.yaml")


def test_the_nearest_name_is_suggested() -> None:
    assert "did you mean 'spatial'? known: counting, spatial" in str(
        unknown_name("concept", "spatail", ["spatial", "counting"])
    )
    assert "did you mean" not in str(unknown_name("concept", "zzz", ["spatial"]))


def test_specs_and_vectors_say_in_one_line_what_they_are() -> None:
    spec = SteeringSpec.parse("vector=spatial,layer=1; vector=counting")
    assert repr(spec) == f"SteeringSpec {spec}" == "SteeringSpec vector=spatial,layer=1; vector=counting"
    assert repr(SteeringSpec()) == "SteeringSpec (empty: the unsteered model)"
    made = vectors(5, 64, model="tiny-gemma2", settings={"anchors": 20})
    assert repr(made) == "SteeringVectors spatial, mean_shift from tiny-gemma2 (layers 0-4, width 64, 20 anchors)"
    assert str(SteeringVectors({3: np.ones(8, np.float32)}, {})).endswith("from unknown (layer 3, width 8)")
    resolved = resolve(SteeringSpec.parse("vector=v,layer=1,alpha=2,tokens=image"), ModelFacts("m", 5, 64), {"v": made})
    assert str(resolved) == f"ResolvedSpec vector=v,layer=1,alpha=2,tokens=image (sha256 {resolved.sha256[:8]})"
    assert repr(ResolvedSpec()) == "ResolvedSpec (empty: the unsteered model)"
    assert ResolvedSpec() == ResolvedSpec() and ResolvedSpec() != resolved


@pytest.mark.parametrize(("text", "line"), [("layer: 010", "layer=10"), ("layers: 1-3", "layers=1-3")])
def test_layers_in_a_file_are_read_as_written(text: str, line: str, tmp_path: Path) -> None:
    path = tmp_path / "steering.yaml"
    path.write_text(f"interventions:\n  - {{vector: v, {text}, alpha: 1, tokens: text}}\n")
    assert SteeringSpec.from_yaml(path) == SteeringSpec.parse(f"vector=v,{line},alpha=1,tokens=text")
    path.write_text(path.read_text().replace(text, "layers: 3:7"))
    with pytest.raises(UserError, match="3:7"):
        SteeringSpec.from_yaml(path)


def test_several_layers_under_layer_are_told_their_key() -> None:
    with pytest.raises(UserError, match="for several write layers="):
        Intervention("v", layer=[1, 2], alpha=1.0, tokens="text")  # type: ignore[arg-type]
