"""The first token of an answer, and biases on it, checked against the processor and against manual sums."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lmms_steer import UserError
from lmms_steer.harness.steered import SteeredIdefics3, SteeredPaliGemma
from lmms_steer.models.answer_bias import read_answer_bias
from lmms_steer.search.calibration import calibrate
from lmms_steer.search.questions import Question
from lmms_steer.search.scorers import LetterScorer
from tests.helpers.checkpoints import CHAT_WITHOUT_SPACE, idefics3
from tests.helpers.models import picture

QUESTION = "where is the red cat ?"
WORDS = ("left", "three", "cups")
BIASES = (1.5, -2.0, 0.5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose prompts end in `assistant:`, with a byte-level BPE, like that of Idefics3."""
    torch.manual_seed(0)
    model, processor = idefics3(CHAT_WITHOUT_SPACE)
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    made = tmp_path_factory.mktemp("models") / "idefics3"
    model.save_pretrained(made)
    processor.save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def lm(folder: Path) -> SteeredIdefics3:
    return SteeredIdefics3(pretrained=str(folder))


def biased(folder: Path, tmp_path: Path, biases: tuple[float, ...] = BIASES) -> SteeredIdefics3:
    lines = (f"{word}: {bias}\n" for word, bias in zip(WORDS, biases, strict=True))
    (tmp_path / "b.yaml").write_text("".join(lines))
    return SteeredIdefics3(pretrained=str(folder), answer_bias=str(tmp_path / "b.yaml"))


def continuation_ids(processor: Any, word: str) -> list[int]:
    """The ids of an answer after a prompt, from the processor's ids of both together."""
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    assert prompt.endswith("assistant:")
    before, after = (processor(text=text, images=[picture(0)])["input_ids"][0] for text in (prompt, f"{prompt} {word}"))
    assert after[: len(before)] == before
    return list(after[len(before) :])


def question_with(*answers: str) -> Question:
    return Question(0, QUESTION, [picture(0)], answers, 0, {})


def test_the_first_token_of_an_answer_is_the_one_that_continues_the_prompt(
    lm: SteeredIdefics3, folder: Path, tmp_path: Path
) -> None:
    ids = [continuation_ids(lm.processor, word)[0] for word in WORDS]
    alone = [lm.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in WORDS]
    assert not set(ids) & set(alone)
    assert [lm.first_token(word) for word in WORDS] == ids
    assert LetterScorer(lm, [question_with(*WORDS)])._columns.tolist() == sorted(ids)
    bias = biased(folder, tmp_path).answer_bias
    assert bias is not None and bias.ids == tuple(ids)


def test_the_first_tokens_of_the_shipped_model_are_those_of_the_words_alone() -> None:
    lm = SteeredPaliGemma(pretrained="tiny-paligemma2")
    for word in ("red", "six", "left", "yes"):
        assert lm.first_token(word) == lm.tokenizer(word, add_special_tokens=False)["input_ids"][0]


@pytest.mark.parametrize(
    ("biases", "last"), [(BIASES, 0), ((-50.0, -50.0, -50.0), 7)], ids=["a word begins", "no word is written"]
)
def test_a_bias_changes_the_tokens_up_to_the_first_of_its_words(
    lm: SteeredIdefics3, folder: Path, tmp_path: Path, biases: tuple[float, ...], last: int
) -> None:
    inputs = lm.model_inputs([QUESTION, "how many ?"], [[picture(0)], [picture(1)]])
    bias = biased(folder, tmp_path, biases).answer_bias
    assert bias is not None
    prompt = inputs["input_ids"].shape[1]
    settings = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False, "return_dict_in_generate": True}
    found = lm.model.generate(
        **inputs, **settings, output_scores=True, output_logits=True, logits_processor=bias.after(prompt)
    )
    words = [continuation_ids(lm.processor, word)[0] for word in WORDS]
    behind = [lm.bracketed_token(word) for word in WORDS]
    ours = {*words, *behind}
    others = [i for i in range(found.logits[0].shape[-1]) if i not in (lm.tokenizer.eos_token_id, *ours)]
    changed = set()
    for step in range(12):
        change = found.scores[step] - found.logits[step]
        for row, written in enumerate(found.sequences[:, prompt : prompt + step].tolist()):
            applies = step < 8 and not ours & set(written)
            changed |= {step} if applies else set()
            expected = torch.tensor(biases) if applies else torch.zeros(3)
            assert torch.allclose(change[row, words], expected, atol=1e-5)
            assert torch.allclose(change[row, behind], expected, atol=1e-5)
        assert torch.equal(found.scores[step][:, others], found.logits[step][:, others])
    assert max(changed) == last


def test_the_letter_in_brackets_is_told_from_one_that_begins_the_answer(lm: SteeredIdefics3) -> None:
    for word in ("A", "left"):
        prompt = f"{lm.prompt_end} ("
        whole, before = (lm.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt + word, prompt))
        assert whole[: len(before)] == before
        assert lm.bracketed_token(word) == whole[len(before)] != lm.first_token(word)
    # this tokenizer knows no brackets
    tiny = SteeredPaliGemma(pretrained="tiny-paligemma2")
    assert tiny.bracketed_token("red") == tiny.first_token("red")


def test_a_large_bias_makes_its_word_begin_the_answer_once(folder: Path, tmp_path: Path) -> None:
    settings = {"max_new_tokens": 3, "min_new_tokens": 3}
    plain = SteeredIdefics3(pretrained=str(folder))
    before = plain._generate([(QUESTION, [picture(0)])], settings)[0].text
    (tmp_path / "b.yaml").write_text("three: 1000\n")
    lm = SteeredIdefics3(pretrained=str(folder), answer_bias=str(tmp_path / "b.yaml"))
    after = lm._generate([(QUESTION, [picture(0)])], settings)[0].text
    assert after != before and after.split()[0].startswith("three") and after.count("three") == 1


def test_the_bias_of_a_scored_answer_is_added_before_the_softmax(
    lm: SteeredIdefics3, folder: Path, tmp_path: Path
) -> None:
    pictures: list[Any] = [picture(0)]
    answers = ("left of the dog", "three", "cat")
    scored = [
        result.text
        for batch in ([(QUESTION, pictures, answer) for answer in answers], [(QUESTION, pictures, "cups")])
        for result in biased(folder, tmp_path)._score(batch)
    ]
    inputs = lm.model_inputs([QUESTION], [pictures])
    for answer, (loss, greedy) in zip((*answers, "cups"), scored, strict=True):
        ids = continuation_ids(lm.processor, answer)
        longer = {
            "input_ids": torch.cat([inputs["input_ids"], torch.tensor([ids])], 1),
            "attention_mask": torch.ones(1, inputs["input_ids"].shape[1] + len(ids), dtype=torch.long),
        }
        with torch.no_grad():
            logits = lm.model(**{**inputs, **longer}).logits[0, -len(ids) - 1 : -1]
        ours = {lm.first_token(word) for word in WORDS} | {lm.bracketed_token(word) for word in WORDS}
        for place in range(min(len(ids), 8)):
            for word, bias in zip(WORDS, BIASES, strict=True) if not ours & set(ids[:place]) else ():
                for token in {continuation_ids(lm.processor, word)[0], lm.bracketed_token(word)}:
                    logits[place, token] += bias
        steps = logits.log_softmax(-1)[range(len(ids)), ids]
        assert loss == pytest.approx(-float(steps.mean()), abs=1e-5)
        assert greedy == (logits.argmax(-1).tolist() == ids)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1: 1\n10: -3\n", "'1' and '10' begin with the same token"),
        ("{}", "names no word"),
        ("- six", "a YAML file of word: number"),
        ("yes: 1", "needs quotes"),
        ("six: .nan", "nan is not a finite number"),
        ("six: true", "a YAML file of word: number"),
    ],
)
def test_a_wrong_file_of_biases_is_refused_in_one_line(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "b.yaml").write_text(text)
    with pytest.raises(UserError, match=expected) as caught:
        read_answer_bias(str(tmp_path / "b.yaml"), lambda word: ord(word[0]), lambda word: ord(word[0]))
    assert "\n" not in str(caught.value)


def test_a_bad_file_is_refused_before_the_weights_are_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmms_steer.models.checkpoint.load_model", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(UserError, match="answer_bias=no.yaml: no such file"):
        SteeredIdefics3(pretrained=str(folder), answer_bias="no.yaml")


def test_only_one_bias_is_fitted_for_words_with_the_same_first_token() -> None:
    rows = [Question(i, "", [], ("one", "two") if i % 2 else ("once", "two"), 0, {}) for i in range(8)]
    found = calibrate(rows, {i: [0.0, 1.0] for i in range(8)}, lambda word: ord(word[0]))
    assert found is not None and list(found.biases) == ["once", "two"]
    assert found.biases["once"] > found.biases["two"] and found.scores.tolist() == [1.0] * 8
