"""The two readings of a vector's words, on a model whose geometry is known, and the model that they are read in."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from typer.testing import CliRunner, Result

from lmms_steer import SteeringVectors, UserError
from lmms_steer.cli import app
from lmms_steer.inspection.vectors import describe_vector, description_lines
from lmms_steer.vectors.weights import model_source

TOKENS = ("<s>", "red", "apple", "blue", "sky", "left", "hand", "\x1b[31m", "Ġred")
WIDTH = 16


def build_model(folder: Path, tied: bool, bos: bool = True) -> Path:
    """A model whose block changes nothing: a token's state is its own axis, and the next word the following axis'."""
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(TOKENS)}, "<s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"bos_token": "<s>"} if bos else {}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<s>", **names).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(TOKENS), hidden_size=WIDTH, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2,
        tie_word_embeddings=tied,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        axes = torch.eye(WIDTH)[: len(TOKENS)]
        model.model.embed_tokens.weight.copy_(axes)
        if not tied:
            model.lm_head.weight.copy_(axes.roll(1, dims=0))  # after token i comes token i + 1
    model.save_pretrained(folder)
    return folder


def red(folder: Path | None, **provenance: object) -> SteeringVectors:
    """The axis of *red*, as a vector of the model in `folder`."""
    source = model_source(str(folder)) if folder is not None else {}
    named = {"concept": "colour-red", "method": "mean_shift", "settings": {}}
    return SteeringVectors({1: np.eye(WIDTH, dtype=np.float32)[1]}, {**source, **named, **provenance})


def show(path: Path, *more: str) -> Result:
    return CliRunner().invoke(app, ["vectors", "show", str(path), *more])


@pytest.mark.parametrize("bos", [True, False])
def test_the_word_itself_and_the_next_word_are_told_apart(bos: bool, tmp_path: Path) -> None:
    untied = red(build_model(tmp_path / "untied", tied=False, bos=bos)).save(tmp_path / "v.safetensors")
    words = describe_vector(untied).words[1]
    assert words.like[0] == "red" and words.promoted[0] == "apple" and words.cosine > 0.9
    tied = red(build_model(tmp_path / "tied", tied=True, bos=bos)).save(tmp_path / "t.safetensors")
    words = describe_vector(tied).words[1]
    assert words.like[0] == words.promoted[0] == "red"
    printed = "\n".join(description_lines(describe_vector(untied)))
    assert "    1  = red " in printed and "       + apple " in printed
    assert "\x1b" not in printed and r"'\x1b[31m'" in printed, "a token cannot control the terminal"


def test_the_words_are_read_in_the_model_that_the_vector_was_made_from(tmp_path: Path) -> None:
    folder = build_model(tmp_path / "m", tied=False)
    path = red(folder).save(tmp_path / "v.safetensors")
    assert describe_vector(path).words
    moved = tmp_path / "moved"
    folder.rename(moved)
    (gone,) = (note for note in describe_vector(path).notes if "no words" in note)
    assert f"{str(folder)!r} is gone: name the model with --backbone" in gone
    assert "+ apple" in show(path, "--backbone", str(moved)).output
    build_model(folder, tied=True)
    (other,) = (note for note in describe_vector(path).notes if "no words" in note)
    assert "is not the model that it was made from" in other and "--backbone" in other
    shown = show(path, "--backbone", str(folder))
    assert "+ red" in shown.output and "the words are read in another model" in shown.output
    refused = show(path, "--backbone", str(tmp_path / "none"))
    assert refused.exit_code != 0 and isinstance(refused.exception, UserError)


def test_an_old_vector_of_a_folder_says_that_its_model_is_not_recorded(tmp_path: Path) -> None:
    folder = build_model(tmp_path / "m", tied=False)
    path = red(None, model="m", model_id="m").save(tmp_path / "v.safetensors")
    shown = show(path)
    assert shown.exit_code == 0 and "weights_sha256: not recorded" in shown.output
    assert "no words: the folder of its model 'm' is not recorded: name it with --backbone" in shown.output
    assert "+ apple" in show(path, "--backbone", str(folder)).output
    shutil.rmtree(folder)
