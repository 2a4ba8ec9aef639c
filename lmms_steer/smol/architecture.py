"""Put `smollm2-135m` and the vision tower of `tiny-paligemma2` into Idefics3's architecture, before any training.

Images have 64 x 64 pixels and become 16 image tokens. The connector is one linear layer without bias. The language
model's weights and its ids are those of the backbone; Idefics3's three markers follow them.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmms_steer.tiny_world.checkpoints import weights_dir
from lmms_steer.tiny_world.scenes import CELLS, SIZE

if TYPE_CHECKING:
    from transformers import Idefics3ForConditionalGeneration, Idefics3Processor, PreTrainedTokenizerBase

AROUND, GLOBAL, IMAGE = "<fake_token_around_image>", "<global-img>", "<image>"
MARKERS = (AROUND, GLOBAL, IMAGE)
"""Idefics3's markers around an image, and the one that stands for each of its tokens."""
_VISION = (
    "hidden_size intermediate_size num_hidden_layers num_attention_heads num_channels image_size patch_size hidden_act"
    " layer_norm_eps attention_dropout"
).split()
# images come before the text, in whatever order a message has them. SmolLM2's own template adds a system prompt, which
# is left out here: it would make up a quarter of each prompt's tokens
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def assemble(backbone: Path, dtype: str = "float32") -> "Idefics3ForConditionalGeneration":
    """The model in eval mode, with a connector of zeros.

    Args:
        backbone: the folder of `smollm2-135m`.
        dtype: of all weights, `float32` or `bfloat16`.
    """
    import torch
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoTokenizer, Idefics3Config, Idefics3ForConditionalGeneration

    tokenizer: Any = AutoTokenizer.from_pretrained(backbone)
    end = tokenizer.eos_token_id
    add_markers(tokenizer)
    tower = _vision_tower()
    text_config = AutoConfig.from_pretrained(backbone).to_dict()
    text_config = {name: value for name, value in text_config.items() if name not in ("_name_or_path", "architectures")}
    config = Idefics3Config(
        text_config=text_config | {"vocab_size": len(tokenizer)},
        vision_config={name: getattr(tower.config, name) for name in _VISION},
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        scale_factor=1,
        tie_word_embeddings=True,
        pad_token_id=end,
    )
    model = Idefics3ForConditionalGeneration._from_config(config, dtype=getattr(torch, dtype)).eval()
    # the file itself: a second model would double the memory
    stored = load_file(backbone / "model.safetensors")
    weights = {name.removeprefix("model."): tensor for name, tensor in stored.items()}
    words = weights.pop("embed_tokens.weight")
    # the mean embedding has the mean logit, so that the markers hardly change what is generated (Hewitt 2021,
    # "Initializing New Word Embeddings for Pretrained Language Models")
    weights["embed_tokens.weight"] = torch.cat([words, words.mean(0, keepdim=True).expand(len(MARKERS), -1)])
    model.model.text_model.load_state_dict(weights)
    model.model.vision_model.load_state_dict(tower.state_dict(), strict=False)
    torch.nn.init.zeros_(model.model.connector.modality_projection.proj.weight)
    model.tie_weights()
    model.generation_config.update(eos_token_id=end, pad_token_id=end, bos_token_id=tokenizer.bos_token_id)
    return model


def build_processor(backbone: Path) -> "Idefics3Processor":
    """The model's processor: 64 x 64 pixels, values from -1 to 1, no tiles."""
    from transformers import AutoTokenizer, Idefics3ImageProcessor, Idefics3Processor

    tokenizer: Any = AutoTokenizer.from_pretrained(backbone)
    add_markers(tokenizer)
    edge, half = {"longest_edge": SIZE}, [0.5, 0.5, 0.5]
    images = Idefics3ImageProcessor(
        size=edge, max_image_size=edge, do_image_splitting=False, image_mean=half, image_std=half
    )
    return Idefics3Processor(images, tokenizer, image_seq_len=CELLS, chat_template=_TEMPLATE)


def add_markers(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Add Idefics3's markers after the words of the backbone's tokenizer."""
    tokenizer.add_special_tokens({"additional_special_tokens": list(MARKERS)})


def _vision_tower() -> Any:
    import torch
    from transformers import PaliGemmaForConditionalGeneration

    model = PaliGemmaForConditionalGeneration.from_pretrained(weights_dir("tiny-paligemma2"), dtype=torch.float32)
    return model.model.vision_tower
