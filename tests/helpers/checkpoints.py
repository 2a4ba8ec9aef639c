"""Tiny random models of each tested architecture, with their real processors, made without a network."""

from collections.abc import Callable
from typing import Any

import torch
import transformers as tf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

TEXTS = [
    "where is the red cat ? left of the dog .",
    "how many cups are on the table ? three , or four .",
    "user assistant",
]
SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
    "vision_use_head": False,
}
CHAT = (
    "{% for m in messages %}{{ m['role'] }}: {% for c in m['content'] %}{% if c['type'] == 'image' %}IMAGE"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)

CHAT_WITHOUT_SPACE = CHAT.replace("assistant: ", "assistant:")
"""Ends like the templates of Idefics3 and SmolVLM: the answer's first token begins with a space."""


def with_video(chat: str, video: str) -> str:
    """A template that also shows videos."""
    return chat.replace("{% else %}", "{% elif c['type'] == 'video' %}" + video + "{% else %}")


def tokenizer(special: list[str], named: dict[str, str] | None = None) -> Any:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    first = ["<pad>", "<eos>", "<bos>", "<unk>"]
    core.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=400, special_tokens=first + special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    extra = {"extra_special_tokens": named} if named else {}
    return tf.PreTrainedTokenizerFast(tokenizer_object=core, padding_side="left", **names, **extra)


def decoder(tok: Any, model_type: str = "llama", **more: Any) -> dict[str, Any]:
    ids = {"pad_token_id": tok.pad_token_id, "eos_token_id": tok.eos_token_id, "bos_token_id": tok.bos_token_id}
    shape = {
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    return {"model_type": model_type, "vocab_size": len(tok), **shape, **ids, **more}


def paligemma(version: int) -> tuple[Any, Any]:
    tok = tokenizer(["<image>"], {"image_token": "<image>"})
    images = tf.SiglipImageProcessor(size={"height": 32, "width": 32})
    images.image_seq_length = 16
    processor = tf.PaliGemmaProcessor(images, tok)
    more = {"head_dim": 12, **({"query_pre_attn_scalar": 12, "sliding_window": 64} if version == 2 else {})}
    text = decoder(tok, "gemma2" if version == 2 else "gemma", **more)
    config = tf.PaliGemmaConfig(
        vision_config=dict(SIGLIP),
        text_config=text,
        projection_dim=48,
        hidden_size=48,
        image_token_index=tok.image_token_id,
        vocab_size=len(tok),
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    return tf.PaliGemmaForConditionalGeneration(config), processor


GRID = [f"<row_{i + 1}_col_{j + 1}>" for i in range(6) for j in range(6)]
IDEFICS_VISION = {k: v for k, v in SIGLIP.items() if k not in ("model_type", "vision_use_head")}


def idefics3(chat: str = CHAT) -> tuple[Any, Any]:
    tok = tokenizer(["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *GRID])
    images = tf.Idefics3ImageProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    processor = tf.Idefics3Processor(images, tok, image_seq_len=4, chat_template=chat.replace("IMAGE", "<image>"))
    config = tf.Idefics3Config(
        vision_config=dict(IDEFICS_VISION),
        text_config=decoder(tok),
        image_token_id=tok.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=0,
    )
    return tf.Idefics3ForConditionalGeneration(config), processor


def smolvlm() -> tuple[Any, Any]:
    named = {
        "image_token": "<image>",
        "fake_image_token": "<fake_token_around_image>",
        "end_of_utterance_token": "<end_of_utterance>",
        "global_image_token": "<global-img>",
        "video_token": "<video>",
    }
    tok = tokenizer([*named.values(), *GRID], named)
    images = tf.SmolVLMImageProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    videos = tf.SmolVLMVideoProcessor(size={"longest_edge": 32}, max_image_size={"longest_edge": 32})
    template = CHAT.replace("IMAGE", "<image>")
    processor = tf.SmolVLMProcessor(images, tok, videos, image_seq_len=4, chat_template=template)
    config = tf.SmolVLMConfig(
        vision_config=dict(IDEFICS_VISION),
        text_config=decoder(tok),
        image_token_id=tok.image_token_id,
        scale_factor=2,
        pad_token_id=0,
    )
    return tf.SmolVLMForConditionalGeneration(config), processor


def llava() -> tuple[Any, Any]:
    tok = tokenizer(["<image>"], {"image_token": "<image>"})
    images = tf.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = tf.LlavaProcessor(
        images,
        tok,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT.replace("IMAGE", "<image>\n"),
    )
    vision = {k: v for k, v in SIGLIP.items() if k != "vision_use_head"} | {
        "model_type": "clip_vision_model",
        "projection_dim": 32,
    }
    config = tf.LlavaConfig(
        vision_config=vision,
        text_config=decoder(tok),
        image_token_index=tok.image_token_id,
        image_seq_length=16,
        vision_feature_layer=-2,
    )
    return tf.LlavaForConditionalGeneration(config), processor


def llava_onevision() -> tuple[Any, Any]:
    tok = tokenizer(["<image>", "<video>"], {"image_token": "<image>", "video_token": "<video>"})
    pins = [[32, 32], [32, 64], [64, 32], [64, 64]]
    size = {"height": 32, "width": 32}
    processor = tf.LlavaOnevisionProcessor(
        tf.LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=pins),
        tok,
        tf.LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=with_video(CHAT.replace("IMAGE", "<image>\n"), "<video>\n"),
    )
    config = tf.LlavaOnevisionConfig(
        vision_config=dict(SIGLIP),
        text_config=decoder(tok, "qwen2"),
        image_token_index=tok.image_token_id,
        video_token_index=tok.video_token_id,
        image_grid_pinpoints=pins,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    return tf.LlavaOnevisionForConditionalGeneration(config), processor


QWEN = [
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
QWEN_NAMES = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_bos_token": "<|vision_start|>",
    "vision_eos_token": "<|vision_end|>",
}
QWEN_CHAT = with_video(
    CHAT.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>"), "<|vision_start|><|video_pad|><|vision_end|>"
)


def qwen(tok: Any, vision: dict[str, Any], rope: dict[str, Any], **more: Any) -> dict[str, Any]:
    parameters: dict[str, Any] = {
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 2, 2], **rope}
    }
    text = {k: v for k, v in decoder(tok, **parameters, **more).items() if k != "model_type"}
    seen = {"hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "out_hidden_size": 48, **vision}
    names = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
    ids = dict(zip(names, tok.convert_tokens_to_ids([*QWEN[2:4], *QWEN[5:]]), strict=True))
    return {"vision_config": seen, "text_config": text, **ids}


def qwen2_5_vl() -> tuple[Any, Any]:
    tok = tokenizer(QWEN, QWEN_NAMES)
    images = tf.Qwen2VLImageProcessor(size={"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 8})
    processor = tf.Qwen2_5_VLProcessor(images, tok, tf.Qwen2VLVideoProcessor(), chat_template=QWEN_CHAT)
    config = tf.Qwen2_5_VLConfig(**qwen(tok, {"depth": 2, "fullatt_block_indexes": [1]}, {}))
    return tf.Qwen2_5_VLForConditionalGeneration(config), processor


def qwen3_vl() -> tuple[Any, Any]:
    tok = tokenizer(QWEN, QWEN_NAMES)
    images = tf.Qwen2VLImageProcessor(size={"shortest_edge": 32 * 32, "longest_edge": 32 * 32 * 8}, patch_size=16)
    processor = tf.Qwen3VLProcessor(images, tok, tf.Qwen3VLVideoProcessor(), chat_template=QWEN_CHAT)
    vision = {"depth": 3, "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64}
    config = tf.Qwen3VLConfig(**qwen(tok, vision, {"mrope_interleaved": True}, head_dim=12))
    return tf.Qwen3VLForConditionalGeneration(config), processor


def internvl() -> tuple[Any, Any]:
    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tok = tokenizer(list(named.values()), named)
    size = {"height": 32, "width": 32}
    images = tf.GotOcr2ImageProcessor(size=size, crop_to_patches=True, min_patches=1, max_patches=2)
    videos = tf.InternVLVideoProcessor(size=size)
    template = CHAT.replace("IMAGE", "<IMG_CONTEXT>\n")
    processor = tf.InternVLProcessor(images, tok, videos, image_seq_length=4, chat_template=template)
    config = tf.InternVLConfig(
        vision_config=dict(IDEFICS_VISION),
        text_config=decoder(tok, "qwen2"),
        image_token_id=tok.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    return tf.InternVLForConditionalGeneration(config), processor


def gemma3() -> tuple[Any, Any]:
    named = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    tok = tokenizer(list(named.values()), named)
    images = tf.Gemma3ImageProcessor(size={"height": 32, "width": 32})
    processor = tf.Gemma3Processor(
        images, tok, image_seq_length=4, chat_template=CHAT.replace("IMAGE", "<start_of_image>")
    )
    text = {k: v for k, v in decoder(tok, head_dim=12, query_pre_attn_scalar=12).items() if k != "model_type"}
    config = tf.Gemma3Config(
        vision_config=dict(SIGLIP),
        text_config=text,
        mm_tokens_per_image=4,
        boi_token_index=tok.boi_token_id,
        eoi_token_index=tok.eoi_token_id,
        image_token_index=tok.image_token_id,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    return tf.Gemma3ForConditionalGeneration(config), processor


def blip_2() -> tuple[Any, Any]:
    tok = tokenizer(["<image>"])
    processor = tf.Blip2Processor(tf.BlipImageProcessor(size=BLIP_SIZE), tok, num_query_tokens=4)
    opt = decoder(tok, "opt", ffn_dim=96, word_embed_proj_dim=48, max_position_embeddings=512)
    config = tf.Blip2Config(
        **blip(tok), text_config=opt, num_query_tokens=4, image_token_index=tok.convert_tokens_to_ids("<image>")
    )
    return seeing(tf.Blip2ForConditionalGeneration(config)), processor


def instructblip() -> tuple[Any, Any]:
    tok = tokenizer(["<image>"])
    processor = tf.InstructBlipProcessor(tf.BlipImageProcessor(size=BLIP_SIZE), tok, tok, num_query_tokens=4)
    config = tf.InstructBlipConfig(
        **blip(tok),
        text_config=decoder(tok),
        num_query_tokens=4,
        image_token_index=tok.convert_tokens_to_ids("<image>"),
    )
    return seeing(tf.InstructBlipForConditionalGeneration(config)), processor


BLIP_SIZE = {"height": 32, "width": 32}


def blip(tok: Any) -> dict[str, Any]:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision = {**sizes, "image_size": 32, "patch_size": 8}
    return {
        "vision_config": vision,
        "qformer_config": {**sizes, "vocab_size": len(tok), "encoder_hidden_size": 32},
    }


def seeing(model: Any) -> Any:
    """A model whose answers depend on the picture: freshly made, all look alike to it."""
    for name, weights in model.named_parameters():
        if not name.startswith(("language_model", "text_model")):
            torch.nn.init.normal_(weights, std=0.5)
        elif weights.dim() == 2:
            torch.nn.init.normal_(weights, std=0.2)
    return model


def kosmos_2() -> tuple[Any, Any]:
    tok = tokenizer([])
    images = tf.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    # it adds tokens of its own
    processor = tf.Kosmos2Processor(images, tok, num_patch_index_tokens=4)
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"pad_token_id": tok.pad_token_id, "eos_token_id": tok.eos_token_id, "bos_token_id": tok.bos_token_id}
    config = tf.Kosmos2Config(
        vision_config={**vision, "image_size": 32, "patch_size": 8},
        text_config={
            **ids,
            "vocab_size": len(tok),
            "embed_dim": 48,
            "layers": 4,
            "ffn_dim": 96,
            "attention_heads": 4,
            "max_position_embeddings": 512,
        },
        latent_query_num=64,
    )
    return seeing(tf.Kosmos2ForConditionalGeneration(config)), processor


GENERATING_PARTS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "blip-2": blip_2,
    "instructblip": instructblip,
    "kosmos-2": kosmos_2,
}
"""Models whose language model generates by itself; their processors have no chat template."""


def florence2() -> tuple[Any, Any]:
    """An encoder-decoder that is forced to begin with BOS, as the published checkpoints are."""
    tok = tokenizer(["<image>"], {"image_token": "<image>"})
    images = tf.CLIPImageProcessor(size={"height": 64, "width": 64}, do_center_crop=False)
    # four patches, and their mean
    images.image_seq_length = 5
    processor = tf.Florence2Processor(images, tok)
    layers = {"encoder_layers": 2, "decoder_layers": 4, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
    ids = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "decoder_start_token_id": 1}
    config = tf.Florence2Config(
        vision_config={
            "depths": [1] * 4, "embed_dim": [16] * 4, "num_heads": [2] * 4, "num_groups": [2] * 4, "projection_dim": 48,
        },
        text_config={
            "model_type": "bart", "vocab_size": len(tok), "d_model": 48, "encoder_ffn_dim": 96, "decoder_ffn_dim": 96,
            "max_position_embeddings": 128, "init_std": 0.3, **layers, **ids,
        },
        image_token_id=tok.image_token_id,
    )  # fmt: skip
    model = tf.Florence2ForConditionalGeneration(config)
    model.generation_config = tf.GenerationConfig(**ids, forced_bos_token_id=2)
    return model, processor


BUILDERS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "paligemma1": lambda: paligemma(1),
    "paligemma2": lambda: paligemma(2),
    "idefics3": idefics3,
    "smolvlm": smolvlm,
    "llava": llava,
    "llava_onevision": llava_onevision,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "gemma3": gemma3,
    "internvl": internvl,
}
ENCODER_DECODERS = {"florence2": florence2}
"""Whose decoder has neither a question nor an image."""


def build(name: str) -> tuple[Any, Any]:
    """(model in float32 and eval mode, processor); the same weights every time."""
    torch.manual_seed(0)
    model, processor = {**BUILDERS, **ENCODER_DECODERS, **GENERATING_PARTS}[name]()
    generation = model.generation_config
    generation.pad_token_id, generation.eos_token_id = (
        processor.tokenizer.pad_token_id,
        processor.tokenizer.eos_token_id,
    )
    return model.float().eval(), processor


def inputs(name: str, processor: Any, texts: list[str], images: list[Any]) -> dict[str, Any]:
    """A left-padded batch with one image a text, in the architecture's own prompt format."""
    if name.startswith("paligemma"):
        batch = processor(
            text=["<image>" + t for t in texts], images=[[i] for i in images], padding="longest", return_tensors="pt"
        )
        batch.pop("labels", None)
        return dict(batch)
    if name in GENERATING_PARTS:
        from lmms_steer.models.prompt_formats import one_image_and_text

        return dict(one_image_and_text(processor, texts, [[image] for image in images], None))
    chats = [[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": t}]}] for t in texts]
    prompts = [processor.apply_chat_template(chat, add_generation_prompt=True) for chat in chats]
    return dict(processor(text=prompts, images=[[i] for i in images], padding=True, return_tensors="pt"))
