"""CLIP's text encoder (Radford et al. 2021), as in Stable Diffusion and in table 7 of Yang et al. (2023)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from slimdiff.models.conditioners.text import PretrainedText, subfolder_of
from slimdiff.registry import MODELS


@MODELS.register_module()
class CLIPText(PretrainedText):
    """The last hidden states of CLIP's text encoder, by default ViT-L/14's: 77 tokens of 768 channels.

    Args:
        checkpoint: ``openai/clip-vit-large-patch14``, a folder with its files, or a Stable Diffusion folder with
            ``text_encoder/`` and ``tokenizer/``.
        channels, bf16, cache: see :class:`~slimdiff.models.conditioners.PretrainedText`.
    """

    def __init__(self, checkpoint: str = 'openai/clip-vit-large-patch14', channels: int = 768, bf16: bool = False,
                 cache: str | None = None) -> None:
        super().__init__(checkpoint, channels, bf16, cache)

    def load(self, folder: str) -> tuple[Any, nn.Module, int]:
        from transformers import CLIPTextModel, CLIPTokenizer
        encoder = CLIPTextModel.from_pretrained(folder, subfolder=subfolder_of(folder, 'text_encoder'))
        tokenizer = CLIPTokenizer.from_pretrained(folder, subfolder=subfolder_of(folder, 'tokenizer'))
        return tokenizer, encoder, encoder.config.hidden_size

    def encode(self, encoder: nn.Module, tokens: Tensor) -> Tensor:
        return encoder(input_ids=tokens).last_hidden_state
