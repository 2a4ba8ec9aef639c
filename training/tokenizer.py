"""The word-level tokenizer that both tiny models share."""

from typing import TYPE_CHECKING

from lmms_steer.tiny_world.language import vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<image>", "\n")


def vocabulary_ids() -> dict[str, int]:
    """word ▸ id; the special tokens come first."""
    return {word: i for i, word in enumerate([*SPECIAL, *vocabulary()])}


def build_tokenizer() -> "PreTrainedTokenizerFast":
    """A tokenizer that lower-cases, splits words from punctuation, and has `<unk>` for unknown words.

    Like Gemma's tokenizer, it puts `<bos>` first.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = vocabulary_ids()
    core = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n|[a-z0-9]+|[^\sa-z0-9]"), "removed", invert=True)
    core.decoder = decoders.WordPiece(prefix="##")
    core.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", ids["<bos>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
    )
