"""The text encoder of LDM's text-to-image model (Rombach et al. 2022, appendix E.2.1)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from slimdiff.models.conditioners.text import PretrainedText, subfolder_of
from slimdiff.registry import MODELS


@MODELS.register_module()
class LDMBertText(PretrainedText):
    """A transformer over BERT's tokens, trained together with LDM's txt2img-1p4B: 77 tokens of 1280 channels.

    Args:
        checkpoint: a folder with ``bert/`` and ``tokenizer/``, such as ``CompVis/ldm-text2im-large-256``.
        channels, bf16, cache: see :class:`~slimdiff.models.conditioners.PretrainedText`.
    """

    def __init__(self, checkpoint: str = 'CompVis/ldm-text2im-large-256', channels: int = 1280, bf16: bool = False,
                 cache: str | None = None) -> None:
        super().__init__(checkpoint, channels, bf16, cache)

    def load(self, folder: str) -> tuple[Any, nn.Module, int]:
        from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertModel
        from transformers import BertTokenizer
        where = subfolder_of(folder, 'bert') or subfolder_of(folder, 'text_encoder')  # LDM's name, and export's
        encoder = LDMBertModel.from_pretrained(folder, subfolder=where)
        tokenizer = BertTokenizer.from_pretrained(folder, subfolder=subfolder_of(folder, 'tokenizer'))
        return tokenizer, encoder, encoder.config.d_model

    def encode(self, encoder: nn.Module, tokens: Tensor) -> Tensor:
        return encoder(tokens)[0]
