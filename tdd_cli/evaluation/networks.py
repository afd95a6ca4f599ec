"""Feature networks: what turns pictures, and for some captions too, into vectors.

"inception", "emoji", or the folder or hub id of a transformers model (CLIP, SigLIP, DINOv2, ...).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from tdd_cli.errors import MissingComponent, UsageError
from tdd_cli.evaluation.protocol import record_hash
from tdd_cli.hashes import file_hash


@dataclass(frozen=True)
class Network:
    """One feature network, frozen, on a device. What a network cannot do is None."""

    name: str
    sha256: str  # of its weights
    how: str  # what it does to a picture, and which layer it gives
    net: nn.Module
    prepare: Callable[[Image.Image], Tensor]  # a picture -> what goes in [C, h, w]
    features: Callable[[Tensor], Tensor]  # [B, C, h, w] -> [B, D]
    embed: Callable[[Tensor], Tensor] | None = (
        None  # features [B, D] -> unit vectors that captions share [B, J]
    )
    embed_texts: Callable[[Sequence[str]], Tensor] | None = None  # captions -> unit vectors [B, J]
    probabilities: Callable[[Tensor], Tensor] | None = None  # features [B, D] -> classes [B, K]

    def record(self) -> dict[str, str]:
        """What a figure remembers of it."""
        return {"network": self.name, "weights_sha256": self.sha256, "input": self.how}

    @property
    def key(self) -> str:
        """What its features are kept under: all that they depend on."""
        return f"features-{record_hash({'weights': self.sha256, 'input': self.how})[:24]}"

    @torch.no_grad()
    def of(self, images: Sequence[Image.Image]) -> Tensor:
        """Features [B, D] of B pictures, float32, on the CPU."""
        device = next(self.net.parameters()).device
        return self.features(torch.stack([self.prepare(image) for image in images]).to(device)).float().cpu()

    @torch.no_grad()
    def texts(self, captions: Sequence[str], batch: int = 256) -> Tensor:
        """Unit vectors [B, J] of B captions, on the CPU."""
        assert self.embed_texts
        parts = [
            self.embed_texts(captions[i : i + batch]).float().cpu() for i in range(0, len(captions), batch)
        ]
        return torch.cat(parts)


def load_network(name: str, device: torch.device | str = "cpu", *, weights: Path | None = None) -> Network:
    """The network of a name; `weights` is Inception's file, where it is not the cached one."""
    if name in FEATURES:
        return FEATURES[name](torch.device(device), weights)
    return pretrained(name, torch.device(device))


def inception(device: torch.device, weights: Path | None) -> Network:
    """Inception 2015-12-05: FID, KID, IS."""
    from tdd_cli.evaluation.inception import SHA256, SIDE, load, prepare

    net = load(weights).to(device)
    how = f"bicubic to {SIDE} px in float (Pillow), (x - 128) / 128; pool3, 2048 features"
    return Network("inception", SHA256, how, net, prepare, net, probabilities=net.probabilities)


def emoji(device: torch.device, weights: Path | None) -> Network:
    """The bundled miniature's network."""
    from tdd_cli.bundled.emoji.features import WEIGHTS, load

    if not WEIGHTS.is_file():
        raise MissingComponent(
            "the bundled feature network is not in this installation", hint="Install tdd-cli again."
        )
    net = load().to(device)
    return Network(
        "emoji",
        file_hash(WEIGHTS),
        f"64 px; means of the last two stages, {net.width} features",
        net,
        partial(_pixels, side=64),
        net.pooled,
        net.joint,
        net.embed_texts,
    )


FEATURES: dict[str, Callable[[torch.device, Path | None], Network]] = {"inception": inception, "emoji": emoji}
"""Networks with a name of their own."""


def pretrained(name: str, device: torch.device) -> Network:
    """A transformers model with its own picture processor: image_embeds of a CLIP, else the pooled output."""
    from transformers import AutoImageProcessor

    processor = _from(AutoImageProcessor, name)
    net = _model(name).to(device).eval().requires_grad_(False)

    def prepare(image: Image.Image) -> Tensor:
        pixels: Tensor = processor(images=image, return_tensors="pt")["pixel_values"][0]
        return pixels

    joint = hasattr(net, "get_image_features")
    return Network(
        name,
        weights_hash(net),
        f"its own processor ({_described(processor)}); {'projected embedding' if joint else 'pooled output'}",
        net,
        prepare,
        partial(_image_features, net) if joint else partial(_pooled, net),
        partial(F.normalize, dim=1) if joint else None,
        partial(_text_features, net, _tokenizer(name, net)) if joint else None,
    )


def weights_hash(net: nn.Module) -> str:
    """SHA-256 over the names and the bytes of all weights."""
    digest = hashlib.sha256()
    for key, value in sorted(net.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _image_features(net: Any, pixels: Tensor) -> Tensor:
    found = net.get_image_features(pixel_values=pixels)
    return found if isinstance(found, Tensor) else found.pooler_output  # transformers 5 wraps it


def _pooled(net: Any, pixels: Tensor) -> Tensor:
    pooled: Tensor = net(pixel_values=pixels).pooler_output
    return pooled


def _text_features(net: Any, tokenizer: Any, captions: Sequence[str]) -> Tensor:
    """Captions longer than the encoder takes are cut, and keep their end token."""
    length = net.config.text_config.max_position_embeddings
    tokens = tokenizer(list(captions), padding=True, truncation=True, max_length=length, return_tensors="pt")
    found = net.get_text_features(**tokens.to(net.device))
    return F.normalize(found if isinstance(found, Tensor) else found.pooler_output, dim=1)


def _model(name: str) -> nn.Module:
    from transformers import AutoModel

    net: nn.Module = _from(AutoModel, name, use_safetensors=True)
    return net


def _tokenizer(name: str, net: Any) -> Any:
    """The tokenizer of a network that reads captions; UsageError where its files are not there."""
    from transformers import AutoTokenizer

    found = _from(AutoTokenizer, name)
    if 2 * len(found) < net.config.text_config.vocab_size:  # transformers makes an empty one without a word
        raise UsageError(
            f"{name} has no tokenizer: {len(found)} words of {net.config.text_config.vocab_size:,} are known",
            hint="Put tokenizer.json, or vocab.json and merges.txt, beside the weights.",
        )
    return found


def _from(kind: Any, name: str, **options: Any) -> Any:
    """kind.from_pretrained with its many errors as ours; the hub is asked only where it answers."""
    from tdd_cli.families.hub import hub_answers
    from tdd_cli.families.libraries import quiet

    local = Path(name).expanduser().is_dir()
    try:
        with quiet():
            return kind.from_pretrained(name, local_files_only=local or not hub_answers(), **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        problem = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        if local:
            raise UsageError(
                f"{name} is not a feature network: {problem}",
                hint="It needs config.json, model.safetensors, preprocessor_config.json and, for captions, a "
                "tokenizer.",
            ) from None
        raise MissingComponent(
            f"the feature network {name} is not here, and the hub does not give it ({problem})",
            hint=f"Where there is a network: hf download {name} --local-dir DIR; then --features METRIC=DIR",
        ) from None


def _described(processor: Any) -> str:
    """A processor's sizes, for the record."""
    kept = {key: getattr(processor, key, None) for key in ("size", "crop_size", "resample")}
    return ", ".join(f"{key} {dict(v) if hasattr(v, 'items') else v}" for key, v in kept.items() if v)


def _pixels(image: Image.Image, side: int) -> Tensor:
    """A picture as [3, side, side] in [-1, 1]."""
    if image.size != (side, side):
        image = image.resize((side, side), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1
