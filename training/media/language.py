"""The words of the tiny models of videos and sounds, their tokenizer, and what the language model reads in training."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lmms_steer import concepts
from lmms_steer.tiny_world.moving import COLOUR, COLOURS, DIRECTIONS, WAY
from lmms_steer.tiny_world.sounds import NUMBER, NUMBERS, PITCH, PITCHES

MARKS = {
    "vision_bos_token": "<|vision_start|>",
    "vision_eos_token": "<|vision_end|>",
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_token": "<|AUDIO|>",
    "audio_eos_token": "<|audio_eos|>",
}
SPECIAL = ("<pad>", "<eos>", "<unk>", *MARKS.values())
VIDEO_TOKENS, AUDIO_TOKENS = 16, 25
"""Tokens of a video of `moving` (4 pairs of frames, 4 quarters) and of a sound of `sounds`."""
OTHERS = (
    "The {} thing goes {}.",
    "A {} ball moves {} now.",
    "It is {} and goes {}.",
    "The {} dot is here. It moves {}.",
    "He has a {} ball and goes {}.",
)
"""Sentences of a colour and a direction."""
HEARD = ("There are {} tones. They sound {}.", "We hear {} {} tones.", "{} notes sound {} today.")
"""Sentences of a number and a pitch."""
EMPTY, SILENT = ("nothing",), ("silence",)
"""What is said of a part of a video or a sound in which there is nothing."""


def words_of(text: str) -> list[str]:
    """Words and punctuation, in lower case."""
    return re.findall(r"<[^>]*>|[a-z]+|[^\sa-z]", text.lower())


@cache
def concept_sentences() -> tuple[str, ...]:
    """The sentences of the concepts `movement`, `pitch` and `colour` with their words."""
    families = [
        (name, word) for name, of in (("movement", DIRECTIONS), ("pitch", PITCHES), ("colour", COLOURS)) for word in of
    ]
    return tuple(pair.sentence for name, word in families for pair in concepts.load(f"{name}-{word}").pairs)


@cache
def vocabulary() -> dict[str, int]:
    """word ▸ id; the special tokens come first."""
    texts = [*concept_sentences(), *OTHERS, *HEARD, WAY, COLOUR, PITCH, NUMBER, " ".join((*NUMBERS, *EMPTY, *SILENT))]
    words = sorted({word for text in texts for word in words_of(text) if word not in "{}"})
    return {word: number for number, word in enumerate([*SPECIAL, *words])}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer in lower case."""
    core = Tokenizer(models.WordLevel(vocabulary(), unk_token="<unk>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[a-z]+|[^\sa-z]"), "removed", invert=True)
    core.decoder = decoders.WordPiece(prefix="##")
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left",
        extra_special_tokens=MARKS, model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sample:
    """A text, after a video or a sound or after nothing.

    Attributes:
        kind: `video`, `audio` or `text`.
        slots: the words of each of its tokens.
        text: what follows.
        answer: how many words at its end are an answer.
    """

    kind: str
    slots: Sequence[tuple[str, ...]]
    text: str
    answer: int


def video_slots(colour: str, path: Sequence[Sequence[float]], direction: str, side: int) -> list[tuple[str, ...]]:
    """The words of each video token: of four pairs of frames, four quarters each."""
    slots: list[tuple[str, ...]] = []
    for pair in range(len(path) // 2):
        x, y = ((path[2 * pair][axis] + path[2 * pair + 1][axis]) / 2 for axis in (0, 1))
        there = int(x >= side / 2) + 2 * int(y >= side / 2)
        slots += [(colour, direction) if quarter == there else EMPTY for quarter in range(4)]
    return slots


def audio_slots(pitch: str, times: Sequence[Sequence[float]]) -> list[tuple[str, ...]]:
    """The words of each audio token, of 40 ms."""
    middles = [(number + 0.5) / AUDIO_TOKENS for number in range(AUDIO_TOKENS)]
    return [(pitch, "tone") if any(a <= middle <= b for a, b in times) else SILENT for middle in middles]


def sample(rng: random.Random) -> Sample:
    """What the language model reads: three parts text, four parts videos, three parts sounds."""
    kind = rng.choice(["text"] * 3 + ["video"] * 4 + ["audio"] * 3)
    if kind == "text":
        told = [rng.choice(concept_sentences()) for _ in range(2)] + [_told(rng)]
        return Sample(kind, (), " ".join(rng.sample(told, 2)), 0)
    if kind == "video":
        from lmms_steer.tiny_world.moving import SIDE, sample_moving

        video = sample_moving(rng)
        question = rng.choice((WAY, COLOUR))
        slots = video_slots(video.colour, video.path().tolist(), video.direction, SIDE)
        return Sample(kind, slots, f"{question} {video.answer(question)}", 1)
    from lmms_steer.tiny_world.sounds import sample_tones

    sound = sample_tones(rng)
    question = rng.choice((PITCH, NUMBER))
    return Sample(kind, audio_slots(sound.pitch, sound.times().tolist()), f"{question} {sound.answer(question)}", 1)


def _told(rng: random.Random) -> str:
    """A sentence, and sometimes a question about it with its answer."""
    if rng.random() < 0.5:
        said = [rng.choice(list(COLOURS)), rng.choice(list(DIRECTIONS))]
        text, asked = rng.choice(OTHERS).format(*said), [(COLOUR, said[0]), (WAY, said[1])]
    else:
        said = [rng.choice(NUMBERS), rng.choice(list(PITCHES))]
        text, asked = rng.choice(HEARD).format(*said), [(NUMBER, said[0]), (PITCH, said[1])]
    question, answer = rng.choice(asked)
    return text if rng.random() < 0.3 else f"{text} {question} {answer}"
