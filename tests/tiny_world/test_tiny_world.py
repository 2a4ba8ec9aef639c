"""The tiny world: exact columns, disjoint splits, checkpoints that read images, the colour curve, and training."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from transformers import AutoTokenizer

from lmms_steer.demo.colour_curve import ALPHAS, measure
from lmms_steer.demo.layout import BACKBONE, CONCEPTS, SEEDS, SYSTEMS, Folders
from lmms_steer.extraction.command import extract_to_store
from lmms_steer.extraction.methods import ExtractionSettings
from lmms_steer.harness.task_files import tasks_dir
from lmms_steer.recipes.loading import load_recipe as recipe_named
from lmms_steer.recipes.plan import Planner
from lmms_steer.tiny_world import question_sets
from lmms_steer.tiny_world.checkpoints import TINY_MODELS, weights_dir
from lmms_steer.tiny_world.cv_bench_rows import with_images
from lmms_steer.tiny_world.language import PROMPTS, ordinary_sentence
from lmms_steer.tiny_world.scenes import STYLES, Thing, render
from tests.helpers import warm
from tests.helpers.documents import ROOT
from training.report import accuracy, load
from training.tokenizer import vocabulary_ids

DATA = Path(tasks_dir()) / "tiny_world" / "data"
# nyu-visionx/CV-Bench, as its dataset card lists them
CV_BENCH = (
    "idx type task image question choices answer prompt filename source source_dataset source_filename"
    " target_class target_size bbox"
)


@pytest.mark.parametrize(("task", "split"), list(question_sets.STYLES))
def test_a_question_set_has_cv_benchs_columns_and_answers_among_its_choices(task: str, split: str) -> None:
    stored = Dataset.from_parquet(str(DATA / f"{task}_{split}.parquet"))
    assert len(stored) == question_sets.SIZES[split]
    rows = with_images(stored.select(range(20)))
    assert " ".join(rows.column_names) == CV_BENCH
    types = {name: feature.dtype for name, feature in rows.features.items() if hasattr(feature, "dtype")}
    assert types["idx"] == types["target_size"] == "int32" and types["answer"] == "string"
    for row in rows:
        letter = "ABCDEF".index(row["answer"][1])
        assert row["answer"] == f"({'ABCDEF'[letter]})" and letter < len(row["choices"])
        assert row["prompt"].startswith(row["question"] + " Select from the following choices.\n(A) ")
        assert row["image"].size == (64, 64)


@pytest.mark.parametrize("task", list(PROMPTS))
def test_no_scene_is_in_two_splits_and_no_answer_dominates(task: str) -> None:
    scenes = []
    for split in question_sets.SIZES:
        rows = Dataset.from_parquet(str(DATA / f"{task}_{split}.parquet")).to_list()
        scenes += [json.dumps(sorted(json.loads(row["scene"]))) for row in rows]
        answers = [row["choices"]["ABCDEF".index(row["answer"][1])] for row in rows]
        assert max(answers.count(a) for a in set(answers)) < 0.4 * len(rows)
    assert len(set(scenes)) == len(scenes)


@pytest.mark.slow
def test_the_script_writes_the_stored_questions_again(tmp_path: Path) -> None:
    written = warm.run("python", "-m", "lmms_steer.tiny_world.question_sets", str(tmp_path))
    assert written.returncode == 0, written.stderr
    for path in DATA.iterdir():
        assert Dataset.from_parquet(str(path)).to_list() == Dataset.from_parquet(str(tmp_path / path.name)).to_list()


def test_the_image_depends_on_the_seed_only() -> None:
    scene = (Thing(0, "red", "circle"), Thing(6, "blue", "cross"))
    pictures = [render(scene, STYLES["moss"], seed) for seed in (5, 5, 6)]
    assert np.array_equal(pictures[0], pictures[1]) and not np.array_equal(pictures[0], pictures[2])


def test_the_shipped_files_match_the_manifest_and_are_small() -> None:
    root = weights_dir("tiny-gemma2").parent
    manifest = json.loads((root / "MANIFEST.json").read_text())
    for name, expected in manifest["sha256"].items():
        assert hashlib.sha256((root / name).read_bytes()).hexdigest() == expected, name
    size = sum(file.stat().st_size for model in TINY_MODELS for file in weights_dir(model).iterdir())
    assert size < 8e6 and manifest["minutes"] < 30
    assert not [file for file in root.rglob("*") if file.suffix in (".bin", ".pt", ".pkl")]


def test_both_tokenizers_know_every_word_and_agree() -> None:
    tiny, mllm = (AutoTokenizer.from_pretrained(weights_dir(name)) for name in TINY_MODELS)
    assert tiny.get_vocab() == vocabulary_ids()
    assert {word: mllm.get_vocab()[word] for word in vocabulary_ids()} == vocabulary_ids()
    for split in question_sets.SIZES:
        for task in PROMPTS:
            for row in Dataset.from_parquet(str(DATA / f"{task}_{split}.parquet")).select(range(30)):
                assert tiny.unk_token_id not in tiny(row["prompt"])["input_ids"], row["prompt"]


def test_training_sentences_are_like_the_concepts_own_but_never_one_of_them() -> None:
    import random

    from lmms_steer import concepts
    from lmms_steer.tiny_world.language import words_of

    shipped = {" ".join(words_of(p.sentence)) for c in concepts.shipped() for p in (*c.pairs, *c.contrast)}
    rng = random.Random(0)
    drawn = {ordinary_sentence(rng) for _ in range(3000)}
    assert len(drawn) > 2500 and not drawn & shipped


@pytest.mark.slow
@pytest.mark.parametrize(("task", "least"), [("spatial", 0.8), ("counting", 0.8), ("colour", 0.88)])
def test_the_tiny_mllm_answers_from_the_image(task: str, least: float) -> None:
    tiny = load(weights_dir("tiny-paligemma2"))
    assert accuracy(*tiny, task, "plain", 200) > least
    assert accuracy(*tiny, task, "plain", 200, shuffled=True) < 0.6


def test_the_recipe_tiny_makes_every_file_that_the_demo_reads(tmp_path: Path) -> None:
    _, recipe = recipe_named("tiny")
    made = {path for cell in Planner(recipe, tmp_path).cells() for path in cell.makes}
    folders = Folders(tmp_path)
    for task in CONCEPTS:
        assert {str(folders.run(task, system)) for system in SYSTEMS} <= made
        assert str(folders.search(task) / "result.json") in made
    assert {str(folders.vector(concept)) for concept in ("colour-red", "colour-blue")} <= made
    assert {str(path) for path in (folders.curve, folders.results, folders.page)} <= made


@pytest.mark.slow
def test_the_vector_of_red_changes_answers_to_red_and_controls_do_not(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    list(
        extract_to_store(
            BACKBONE,
            ["colour-red", "colour-blue"],
            ["mean_shift"],
            tmp_path / "vectors",
            16,
            None,
            None,
            ExtractionSettings(),
        )
    )
    p = measure(folders, scenes=60).p_red
    red, at_one = p["red"][0], ALPHAS.index(1.0)
    assert red[0] < 0.05 and red[at_one] > 0.9
    assert red == sorted(red)
    assert max(p["blue"][0]) < 0.05
    assert max(p[f"random-{seed}"][0][at_one] for seed in SEEDS) < 0.2


@pytest.mark.slow
def test_retraining_runs_from_end_to_end_and_resumes(tmp_path: Path) -> None:
    line = ["python", "-m", "training", "--quick", "--out", str(tmp_path)]
    first = warm.run(*line, cwd=ROOT)
    assert first.returncode == 0, first.stderr
    assert "word similarities, new against shipped" in first.stdout
    weights = (tmp_path / "tiny-paligemma2" / "model.safetensors").read_bytes()
    stamp = (tmp_path / "stages" / "text" / "model.safetensors").stat().st_mtime_ns
    shutil.rmtree(tmp_path / "stages" / "mllm")
    assert warm.run(*line, cwd=ROOT).returncode == 0
    assert (tmp_path / "stages" / "text" / "model.safetensors").stat().st_mtime_ns == stamp
    assert (tmp_path / "tiny-paligemma2" / "model.safetensors").read_bytes() == weights
