"""SAEs by layer: from one of sae-lens's releases, or from a folder with SAEs that sae-lens saved."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lmms_steer._util.formatting import format_layers
from lmms_steer._util.logging import quiet_in_logs
from lmms_steer.errors import UserError, first_line, reason
from lmms_steer.extraction.activations import Rows
from lmms_steer.extraction.job import ExtractionJob
from lmms_steer.vectors.backbones import sae_of

_LAYER_OF_HOOK = re.compile(r"(?:blocks|layers)\.(\d+)(?:\.(hook_resid_post|hook_resid_pre|output))?$")
# not the l0 of `average_l0_44`, the mean number of active features
_LAYER_OF_ID = re.compile(r"(?:(?:^|/|_)(?:layer|blocks)[_.]?|(?:^|/)l[_.]?)(\d+)(?=\D|$)")


@dataclass(frozen=True, slots=True)
class Sae:
    """A loaded SAE.

    Attributes:
        layer: the decoder block whose output it reads.
        name: release and id, or the folder with the weights' hash: the key of its verdicts.
        neuronpedia: its id there (`gemma-2-2b/12-gemmascope-res-16k`), if it has one.
        module: the SAE of sae-lens.
    """

    layer: int
    name: str
    neuronpedia: str | None
    module: Any

    @property
    def decoder(self) -> Rows:
        """The decoder rows: float32 [features, width]."""
        rows: Rows = self.module.W_dec.detach().float().cpu().numpy()
        return rows

    @property
    def normalizes(self) -> str:
        """What is done to each token's activations before they are read (`layer_norm`, …); "" for nothing.

        A scale that is the same for all tokens is a part of the weights of a loaded SAE.
        """
        kind = str(self.module.cfg.normalize_activations)
        return "" if kind == "none" else kind

    def encode(self, rows: npt.NDArray[Any]) -> Rows:
        """Compute feature activations: float32 [rows, features]. rows: outputs of the layer [rows, width]."""
        import torch

        with torch.inference_mode():
            inputs = torch.from_numpy(np.array(rows, order="C")).to(self.module.device, self.module.dtype)
            encoded: Rows = self.module.encode(inputs).float().cpu().numpy()
        return encoded


class SaeSource:
    """The SAEs for one backbone, loaded one at a time.

    Args:
        job: the backbone, and in its settings the SAE that the user named.

    Raises:
        UserError: when no SAE is known for the backbone, or the folder or release has none for its layers.
    """

    def __init__(self, job: ExtractionJob) -> None:
        self._job = job
        name = job.settings.sae or sae_of(job.model)
        if name is None:
            raise UserError(
                f"no SAE is known for {job.model}: name one with --sae, a release of sae-lens or a folder that it saved"
            )
        folder = Path(name).expanduser()
        self.name = folder.resolve().name if folder.is_dir() else name
        self._folders = _folders(folder) if folder.is_dir() else {}
        self._release, _, template = name.partition(":")
        self._ids = {} if folder.is_dir() else _ids(self._release, template)
        if not self.layers:
            wanted = format_layers(job.settings.layers or tuple(range(job.n_layers)))
            raise UserError(f"--sae {name!r} has no SAE for any of the layers {wanted} of {job.model}")

    @property
    def layers(self) -> tuple[int, ...]:
        """The decoder blocks that have an SAE and were asked for. No other SAE is downloaded.

        Raises:
            UserError: when the SAEs were made for a model with more layers.
        """
        layers = sorted(self._folders or self._ids)
        if layers and layers[-1] >= self._job.n_layers:
            raise UserError(
                f"the SAEs of {self.name!r} go up to layer {layers[-1]}, {self._job.model} has the layers"
                f" 0-{self._job.n_layers - 1}: they were made for another model"
            )
        wanted = self._job.settings.layers
        return tuple(layer for layer in layers if wanted is None or layer in wanted)

    def load(self, layer: int) -> Sae:
        """Load one layer's SAE and check that it reads the output of that layer.

        Raises:
            UserError: when it cannot be loaded, has another width, or does not read the layer's output.
        """
        from sae_lens import SAE

        try:
            if self._folders:
                module: Any = SAE.load_from_disk(self._folders[layer], dtype="float32")
                name = f"{self.name}/layer_{layer}@{_fingerprint(module)}"
            else:
                with quiet_in_logs():
                    module = SAE.from_pretrained(self._release, self._ids[layer])
                name = f"{self._release}/{self._ids[layer]}"
        except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
            raise UserError(f"cannot load the SAE for layer {layer} of {self.name!r}: {first_line(error)}") from error
        self._check(module, layer)
        return Sae(layer, name, module.cfg.metadata.neuronpedia_id, module)

    def _check(self, module: Any, layer: int) -> None:
        hook = module.cfg.metadata.hook_name
        shown = f"the SAE for layer {layer} of {self.name!r}"
        if module.cfg.reshape_activations != "none" or (hook is not None and _layer_of(hook) != layer):
            raise UserError(f"{shown} reads {hook}, not the output of layer {layer}: it must be a resid_post SAE")
        if module.cfg.d_in != self._job.hidden_size:
            raise UserError(
                f"{shown} has width {module.cfg.d_in}, but {self._job.model}'s hidden size is {self._job.hidden_size}"
            )


def _layer_of(hook: str) -> int | None:
    """The block whose output a hook name reads. The input of a block is the output of the block before it."""
    match = _LAYER_OF_HOOK.search(hook)
    layer = int(match[1]) - (match[2] == "hook_resid_pre") if match else -1
    return layer if layer >= 0 else None


def _folders(folder: Path) -> dict[int, Path]:
    """layer ▸ folder of its SAE."""
    folders: dict[int, Path] = {}
    for config in sorted([*folder.glob("cfg.json"), *folder.glob("*/cfg.json"), *folder.glob("*/*/cfg.json")]):
        try:
            metadata = json.loads(config.read_text(encoding="utf-8")).get("metadata") or {}
        except (OSError, ValueError) as error:
            raise UserError(f"{str(config)!r} is not the configuration of an SAE: {reason(error)}") from error
        hook = str(metadata.get("hook_name") or "")
        layer = _layer_of(hook) if hook else _layer_of_id(config.parent.name)
        if layer is None:
            raise UserError(
                f"{str(config)!r}: the SAE reads {hook or 'an unknown place'}, not a layer's output: "
                "it must be a resid_post SAE"
            )
        if layer in folders:
            raise UserError(
                f"{str(folder)!r} has two SAEs for layer {layer}: {folders[layer].name}, {config.parent.name}"
            )
        folders[layer] = config.parent
    return folders


def _ids(release: str, template: str) -> dict[int, str]:
    """layer ▸ id of its SAE in the release. template: the id with `{layer}` in it, or "" for any."""
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    releases = get_pretrained_saes_directory()
    if release not in releases:
        raise UserError(f"--sae {release!r} is neither a folder nor a release of sae-lens")
    names: dict[int, list[str]] = {}
    for name in releases[release].saes_map:
        layer = _layer_of_id(name)
        if layer is not None and (not template or name == template.replace("{layer}", str(layer))):
            names.setdefault(layer, []).append(name)
    several = next((layer for layer, some in names.items() if len(some) > 1), None)
    if several is not None:
        some = names[several]
        templates = (name.replace(str(several), "{layer}", 1) for name in some)
        fits = (one for one in templates if all(one.replace("{layer}", str(layer)) in names[layer] for layer in names))
        raise UserError(
            f"{release} has several SAEs for layer {several} ({some[0]}, {some[1]}, …): name one, as in"
            f" --sae '{release}:{next(fits, some[0])}'"
        )
    return {layer: some[0] for layer, some in names.items()}


def _layer_of_id(name: str) -> int | None:
    match = _LAYER_OF_ID.search(name)
    return int(match[1]) if match else None


def _fingerprint(module: Any) -> str:
    return hashlib.sha256(module.W_dec.detach().float().cpu().numpy().tobytes()).hexdigest()[:8]
