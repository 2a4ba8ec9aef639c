"""`compare`, `search`, `layers` and `inspect` from Python: typed results with a table, a figure and safe HTML."""

import dataclasses
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas
import pyarrow.parquet as pq
import pytest
from matplotlib.figure import Figure
from PIL import Image
from typer.testing import CliRunner

import lmms_steer
from lmms_steer import Study, UserError
from lmms_steer.cli import app
from tests.helpers.runs import BASE, STEERED, write_run

PNG = b"\x89PNG"


def test_a_comparison_is_a_table_a_figure_and_files(tmp_path: Path) -> None:
    base = write_run(tmp_path / "b", {"a": BASE, "<b>": BASE})
    steered = write_run(tmp_path / "s", {"a": STEERED, "<b>": BASE}, spec="vector=v,layer=1")
    board = lmms_steer.compare({"plain": base, "<script>x": steered}, baseline="plain")
    assert repr(board) == "Leaderboard of 2 systems on 2 tasks, baseline 'plain'"
    # what the command prints into a pipe
    printed = CliRunner().invoke(app, ["compare", f"plain={base}", f"<script>x={steered}", "--baseline", "plain"])
    assert [line.rstrip() for line in printed.output.splitlines()] == str(board).splitlines()
    board.write(csv=tmp_path / "board.csv")
    table = board.to_pandas()
    written = pandas.read_csv(tmp_path / "board.csv")
    assert table["gain"].tolist() == pytest.approx(written["gain"].tolist(), nan_ok=True)
    assert table.set_index(["task", "system"]).loc[("a", "<script>x"), "gain"] == pytest.approx(0.1)
    html = board._repr_html_()
    assert "<script>" not in html and "&lt;script&gt;x" in html and "<b>" not in html and "+10.0" in html
    with pytest.raises(UserError, match="unknown kind of plot 'maps'"):
        board.plot("maps")
    with pytest.raises(UserError, match="unknown --pictures 'our'"):
        board.write(pictures="our")


def test_a_figure_is_shown_by_a_notebook_and_leaves_its_backend_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a notebook's, in place of the one that a process without a screen has anyway
    monkeypatch.setitem(mpl.rcParams, "backend", "svg")
    runs = {name: write_run(tmp_path / name, {"a": scores}) for name, scores in (("x", BASE), ("y", STEERED))}
    before = mpl.rcParams["backend"], dict(mpl.rcParams)
    figure = lmms_steer.compare(runs, baseline="x").plot()
    assert isinstance(figure, Figure) and figure._repr_png_()[:4] == PNG  # type: ignore[attr-defined]
    assert (mpl.rcParams["backend"], dict(mpl.rcParams)) == before


@pytest.mark.slow
def test_a_search_returns_its_study(tmp_path: Path) -> None:
    vectors = lmms_steer.load_vectors("tiny-gemma2/colour-red")
    study = lmms_steer.search(
        {"pretrained": "tiny-paligemma2"}, vectors, "tiny_colour_select", tmp_path / "s", model="steered_paligemma",
        layers=[0, 1], alphas=[0.5, 1], tokens=["image"], controls=1, limit=8,
    )  # fmt: skip
    table = study.to_pandas()
    assert sorted({*zip(table["layer"], table["alpha"], strict=True)}) == [(0, 0.5), (0, 1), (1, 0.5), (1, 1)]
    assert table["gain"].tolist() == pq.read_table(tmp_path / "s/cells.parquet")["gain"].to_pylist()
    best = study.result.vectors[vectors.name].best
    assert str(study.choice()) == f"vector={vectors.name},layer={best.layer},alpha={best.alpha:g},tokens=image"
    assert repr(Study.read(tmp_path / "s")) == repr(study) and "8 cells on 8 questions" in repr(study)
    heading, titles, row, _ = str(study).splitlines()
    assert "baseline" in heading and titles.split()[:3] == ["vector", "best", "cell"]
    assert row.split("   ")[:2] == [vectors.name, f"layer={best.layer},alpha={best.alpha:g},tokens=image"]
    assert vectors.name in study._repr_html_() and study.plot()._repr_png_()[:4] == PNG
    with pytest.raises(UserError, match="unknown vector of this search 'red': known: tiny-gemma2"):
        study.choice("red")
    assert study.choice(vectors) == study.choice() and study.found(vectors) == study.found() == study.found(
        vectors.name
    )
    assert study.found().best == best
    with pytest.raises(UserError, match="unknown vector of this search 'tiny-gemma2/spatial/mean_shift'"):
        study.found(lmms_steer.load_vectors("tiny-gemma2/spatial"))


@pytest.mark.slow
def test_vectors_that_no_store_has_are_searched_and_the_search_is_resumed(tmp_path: Path) -> None:
    stored = lmms_steer.load_vectors("tiny-gemma2/colour-red")
    mine = lmms_steer.SteeringVectors(stored.directions, {**stored.provenance, "concept": "mine"})
    grid: dict[str, Any] = {
        "model": "steered_paligemma", "layers": 0, "alphas": 1, "tokens": "image", "controls": 1, "limit": 8,
        "blank_image": False,
    }  # fmt: skip
    asked = ("pretrained=tiny-paligemma2", "tiny_colour_select")
    study, known = (
        lmms_steer.search(asked[0], vectors, asked[1], tmp_path / name, **grid)
        for name, vectors in (("mine", mine), ("known", stored))
    )
    assert dataclasses.replace(study.found(), controls={}) == dataclasses.replace(known.found(), controls={})
    ((name, _),) = study.result.vectors.items()
    assert Path(name).parent == tmp_path / "mine" / "vectors"
    assert lmms_steer.load_vectors(name).sha256 == mine.sha256 == study.choice().provenance["vector_sha256"]
    batches = {path: path.stat().st_mtime_ns for path in (tmp_path / "mine").rglob("batches/*.parquet")}
    again = lmms_steer.search(asked[0], {mine.name: mine}, asked[1], tmp_path / "mine", **grid)
    assert again.result == study.result and again.choice(mine) == study.choice()
    assert batches and batches == {path: path.stat().st_mtime_ns for path in batches}, "nothing is measured again"
    other = lmms_steer.SteeringVectors(stored.directions, {**mine.provenance, "seed": 1})
    with pytest.raises(UserError, match="is the study of another search: --vector"):
        lmms_steer.search(asked[0], [other], asked[1], tmp_path / "mine", **grid)
    with pytest.raises(UserError, match="expected the name or the file of a vector, or SteeringVectors; got 3"):
        lmms_steer.search(asked[0], [mine, 3], asked[1], tmp_path / "mine", **grid)  # type: ignore[list-item]


@pytest.mark.slow
def test_objects_steer_a_model_as_their_files_do(tmp_path: Path, own_cache: Path) -> None:
    from lmms_steer.harness.steered import SteeredPaliGemma

    stored = lmms_steer.load_vectors("tiny-gemma2/colour-red")
    mine = lmms_steer.SteeringVectors(stored.directions, {**stored.provenance, "concept": "mine"})
    file = str(mine.save(tmp_path / "mine.safetensors"))
    spec = lmms_steer.SteeringSpec.from_dicts([{"vector": file, "layer": 0, "alpha": 0.5}, {"vector": "colour-red"}])
    spec = dataclasses.replace(spec, provenance={"chosen_on": "nothing"})
    (tmp_path / "spec.yaml").write_text(spec.to_yaml())
    fields = {"layer": 0, "alpha": 1, "tokens": "image", "gate": "cosine", "threshold": 0}
    for of_objects, of_files in (
        ({"vector": mine, "gate_vector": mine, **fields}, {"vector": file, "gate_vector": file, **fields}),
        ({"steering": spec}, {"steering": str(tmp_path / "spec.yaml")}),
        ({"steering": spec, "control": "random:1"}, {"steering": str(tmp_path / "spec.yaml"), "control": "random:1"}),
        ({"vector": stored, **fields}, {"vector": "tiny-gemma2/colour-red/mean_shift", **fields}),
    ):
        ours, theirs = (SteeredPaliGemma(pretrained="tiny-paligemma2", **given) for given in (of_objects, of_files))
        assert ours.cache_key == theirs.cache_key and ours.resolved.tag == theirs.resolved.tag
        records = [{**lm.steering_record, "spec": ""} for lm in (ours, theirs)]
        assert records[0] == records[1]
        seen = [
            lmms_steer.inspect("the ball ?", {"pretrained": "tiny-gemma2", **given, "tokens": "both"}, new_tokens=2)
            for given in (of_objects, of_files)
            if "steering" not in given
        ]
        assert not seen or seen[0].to_pandas().equals(seen[1].to_pandas())
    one = lmms_steer.SteeringSpec.parse("vector=colour-red,layer=2,alpha=0.5,tokens=both")
    shown = lmms_steer.inspect("the ball", {"pretrained": "tiny-gemma2", "steering": one}, new_tokens=2)
    line = "pretrained=tiny-gemma2,vector=colour-red,layer=2,alpha=0.5,tokens=both"
    assert str(shown) == str(lmms_steer.inspect("the ball", line, new_tokens=2))
    with pytest.raises(UserError, match="steering=.* and layer: give the file or the single keys, not both"):
        SteeredPaliGemma(pretrained="tiny-paligemma2", steering=spec, layer=1)


@pytest.mark.parametrize("given", [{"base": {"results": {}}}, [{"results": {}}], {"results": {}, "samples": {}}])
def test_results_in_memory_are_refused_in_one_line(given: Any) -> None:
    with pytest.raises(UserError, match="^a run is the folder of an evaluation with logged answers .* got a dict$"):
        lmms_steer.compare(given)


@pytest.mark.slow
def test_an_inspection_is_a_table_a_figure_and_text(tmp_path: Path) -> None:
    Image.effect_noise((64, 64), 80).convert("RGB").save(tmp_path / "scene.png")
    spec = {"vector": "colour-red", "layer": 0, "alpha": 1, "tokens": "image"}
    asked = ("the <b> square ?", {"pretrained": "tiny-paligemma2", **spec})
    seen = lmms_steer.inspect(*asked, model="steered_paligemma", image=tmp_path / "scene.png")
    table = seen.to_pandas()
    assert (
        (table["steered"] == (table["kind"] == "image")).all()
        and table["steered"].any()
        and len(table) == len(seen.tokens)
    )
    assert f"{table['steered'].sum()} of {len(table)} tokens steered" in repr(seen) and len(repr(seen)) < 300
    assert "image tokens: " in str(seen) and seen.plot()._repr_png_()[:4] == PNG
    assert "<script" not in seen._repr_html_() and "<table>" in seen._repr_html_()
    with pytest.raises(UserError, match="unknown key 'layr'"):
        lmms_steer.inspect("x", {"pretrained": "tiny-paligemma2", "layr": 1})
    opened = Image.open(tmp_path / "scene.png")
    for image in (opened, [opened.convert("RGBA")]):
        assert str(lmms_steer.inspect(*asked, model="steered_paligemma", image=image)) == str(seen)


@pytest.mark.slow
def test_scored_layers_are_a_table_a_figure_and_text(tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "model_args": {"pretrained": "tiny-paligemma2"},
        "model": "steered_paligemma",
        "layers": [0, 3],
    }
    vectors = lmms_steer.load_vectors("tiny-gemma2/colour-red")
    scored = lmms_steer.layers(vector=vectors, scores=["separation", "lens", "slope"], **given)
    assert (
        scored.scores["separation"]
        == lmms_steer.layers(vector="colour-red", scores="separation", **given).scores["separation"]
    ), "vectors are found by name"
    table = scored.to_pandas()
    assert table.columns.tolist() == ["layer", "separation", "lens"] and table["layer"].tolist() == [0, 3]
    assert table.set_index("layer")["separation"].to_dict() == scored.scores["separation"]
    assert scored.missing == {"slope": "it needs questions: name a --task"} and scored.best["lens"] in (0, 3, None)
    assert str(scored).splitlines()[0] == "tiny-gemma2/colour-red/mean_shift in tiny-paligemma2, image tokens"
    assert "separation" in repr(scored) and "\n" not in repr(scored) and scored.plot()._repr_png_()[:4] == PNG
    assert scored.draw(tmp_path / "layers.png").read_bytes()[:4] == PNG
    hostile = dataclasses.replace(scored, vector="<script>", missing={"<b>": "&"})
    html = hostile._repr_html_()
    assert "<script>" not in html and "&lt;script&gt;" in html and "<b>" not in html and "&amp;" in html
