"""The tiny world's videos and sounds, their questions, and the models that ship for them."""

import hashlib
import io
import json
import random
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from lmms_steer import SteeringVectors, steer
from lmms_steer.harness.steered import SteeredVlm
from lmms_steer.harness.tasks import load_task
from lmms_steer.models.media import Audio
from lmms_steer.search.questions import load_questions
from lmms_steer.tiny_world.checkpoints import MEDIA_MODELS, weights_dir
from lmms_steer.tiny_world.media_questions import KINDS, SIZES, parquet, rows, shown_by
from lmms_steer.tiny_world.moving import DIRECTIONS, WAY, sample_moving
from lmms_steer.tiny_world.sounds import PITCHES, RATE, sample_tones
from tests.helpers.models import record

ROOT = Path(__file__).parents[2]


def test_the_dot_of_a_video_moves_in_the_direction_that_the_answer_names() -> None:
    rng = random.Random(1)
    for _ in range(20):
        video = sample_moving(rng)
        frames = video.render().astype(float)
        # where a frame differs from the ground, which is the median of every pixel
        changed = np.abs(frames - np.median(frames, axis=(1, 2), keepdims=True)).sum(-1)
        seen = changed > 0.5 * changed.max()
        middle = np.array([[np.nonzero(one)[1].mean(), np.nonzero(one)[0].mean()] for one in seen])
        way = middle[-1] - middle[0]
        assert np.abs(way).argmax() == np.abs(DIRECTIONS[video.direction]).argmax()
        assert np.sign(way[np.abs(way).argmax()]) == sum(DIRECTIONS[video.direction])
        assert np.abs(middle + 0.5 - video.path()).max() < 1.0


def test_the_tones_of_a_sound_are_as_many_and_as_high_as_the_answers_say() -> None:
    rng = random.Random(2)
    for _ in range(20):
        sound = sample_tones(rng)
        samples = sound.render()
        assert samples.dtype == np.float32 and len(samples) == RATE and np.abs(samples).max() < 1
        loud = np.sqrt(np.convolve(samples**2, np.ones(320) / 320, "same")) > 0.1
        assert int((np.diff(loud.astype(int)) == 1).sum() + loud[0]) == sound.count
        pitch = np.fft.rfftfreq(RATE, 1 / RATE)[np.abs(np.fft.rfft(samples)).argmax()]
        low, high = PITCHES[sound.pitch]
        assert low - 10 <= pitch <= high + 10


def test_the_questions_that_ship_are_those_of_the_module_and_no_split_repeats_another() -> None:
    for kind in KINDS:
        for split in SIZES:
            # other versions of pyarrow write other bytes
            shipped = pq.read_table(ROOT / f"tasks/tiny_media/data/{kind}_{split}.parquet")
            assert shipped == pq.read_table(io.BytesIO(parquet(kind, split)))
        seeds = [{row["seed"] for row in rows(kind, split)} for split in SIZES]
        assert not seeds[0] & seeds[1]
        for row in rows(kind, "select"):
            assert row["choices"]["ABCD".index(row["answer"][1])] == shown_by(row).answer(row["question"])


def test_the_models_that_ship_are_those_of_their_manifest() -> None:
    manifest = json.loads((weights_dir(MEDIA_MODELS[0]).parent / "MEDIA.json").read_text())
    found = {f"{name}/{file.name}": file for name in MEDIA_MODELS for file in weights_dir(name).iterdir()}
    assert {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in found.items()} == manifest["sha256"]
    assert sum(file.stat().st_size for file in found.values()) < 3e6


@pytest.mark.parametrize(
    ("name", "task", "tokens", "sentence", "words", "least"),
    [
        ("tiny-qwen2-vl", "tiny_motion", "video", "The ball goes {}.", ("left", "right", "up", "down"), 0.05),
        ("tiny-qwen2-audio", "tiny_pitch", "audio", "The tone is {}.", ("high", "low"), 0.3),
    ],
)
def test_a_word_s_direction_in_text_moves_the_answer_about_a_video_or_a_sound_to_it(
    name: str, task: str, tokens: str, sentence: str, words: tuple[str, ...], least: float
) -> None:
    """The direction is made here: what the word changes in one sentence at layer 0, against the other answers."""
    lm = SteeredVlm(pretrained=name)
    questions = list(load_questions(load_task(task, "steered_hf")[0], 60))
    inputs = lm.model_inputs([q.text for q in questions], [q.visuals for q in questions])

    def at_word(word: str) -> torch.Tensor:
        ids = lm.tokenizer(sentence.format(word), return_tensors="pt")["input_ids"]
        hidden = record(lm.model, lambda: lm.model(input_ids=ids, attention_mask=torch.ones_like(ids)))[0]
        return hidden[0, ids[0].tolist().index(lm.first_token(word))]

    others = torch.stack([at_word(word) for word in words[1:]]).mean(0)
    direction = (at_word(words[0]) - others).numpy()
    vectors = SteeringVectors({0: direction}, {"model": "tiny-qwen2-vl", "concept": "x", "method": "difference"})

    def probability(alpha: float) -> tuple[float, float]:
        with torch.inference_mode(), steer(lm.model, vectors, layer=0, alpha=alpha, tokens=tokens):
            shares = lm.model(**inputs).logits[:, -1].softmax(-1)
        right = torch.tensor([lm.first_token(q.answers[q.right]) for q in questions])
        return float(shares[:, lm.first_token(words[0])].mean()), float((shares.argmax(-1) == right).float().mean())

    (plain, accuracy), (more, _), (less, _) = (probability(alpha) for alpha in (0, 4, -4))
    assert accuracy > 0.85 and more > plain + least and less < plain - least / 2


def test_sounds_and_videos_reach_the_model_as_the_task_gives_them() -> None:
    (question,) = load_questions(load_task("tiny_pitch", "steered_hf")[0], 1)
    assert isinstance(question.visuals[0], Audio) and question.visuals[0].rate == RATE
    (question,) = load_questions(load_task("tiny_motion", "steered_hf")[0], 1)
    assert question.text == WAY and isinstance(question.visuals[0], list) and len(question.visuals[0]) == 8
