"""What all text encoders share: loaded late, frozen, asked once for a caption."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from slimdiff.checkpoint import find_path
from slimdiff.checkpoint.hub import download
from slimdiff.checkpoint.tensor_store import TensorStore, content_key, network_fingerprint
from slimdiff.checkpoint.weights import check_finite
from slimdiff.functional.precision import has_bf16_products
from slimdiff.optional import missing_package

#: of a model on the Hub: encoder and tokenizer, flat or as pipelines have them
FILES = [f'{part}{kind}' for part in ('', 'text_encoder/', 'bert/', 'tokenizer/')
         for kind in ('*.json', '*.txt', 'model.safetensors', 'pytorch_model.bin')]


class TextConditioner(ABC):
    """Captions to context (N, max_length, channels).

    It is not an ``nn.Module``: whatever weights it has are in no checkpoint and no average.

    Args:
        channels: width of the context.
    """

    max_length = 77

    def __init__(self, channels: int) -> None:
        self.channels = channels

    @abstractmethod
    def __call__(self, captions: Sequence[str], device: torch.device | str = 'cpu') -> Tensor:
        """Context (N, max_length, channels) in float32, without gradient."""


class PretrainedText(TextConditioner):
    """A frozen text encoder, loaded at the first caption that its cache doesn't know.

    Args:
        checkpoint: a folder (of a pipeline, or of encoder and tokenizer), or a name on the Hugging Face Hub.
        channels: width of the context; checked against the encoder's.
        bf16: encode in bfloat16 where the device has bfloat16 products.
        cache: a folder that keeps the embeddings: as float16, ``max_length * channels * 2`` bytes a caption. A network
            is then trained without its text encoder in memory, once every caption was met.

    Raises:
        ValueError: nothing at ``checkpoint``, or an encoder of another width.
        MissingPackageError: transformers isn't installed. All when the first caption comes.
    """

    def __init__(self, checkpoint: str, channels: int, bf16: bool = False, cache: str | None = None) -> None:
        super().__init__(channels)
        self.checkpoint, self.bf16, self.cache = checkpoint, bf16, cache
        self._encoder: nn.Module | None = None
        self._tokenizer: Any = None
        self._store: TensorStore | None = None
        self._warned = False

    @abstractmethod
    def load(self, folder: str) -> tuple[Any, nn.Module, int]:
        """Tokenizer, encoder and its width, from a local folder. Called once."""

    @abstractmethod
    def encode(self, encoder: nn.Module, tokens: Tensor) -> Tensor:
        """Token ids (N, max_length) to the encoder's last hidden state (N, max_length, channels)."""

    def __call__(self, captions: Sequence[str], device: torch.device | str = 'cpu') -> Tensor:
        """Context (N, max_length, channels) in float32, without gradient.

        Raises:
            ValueError: something that is not text; see the class.
        """
        wrong = [caption for caption in captions if not isinstance(caption, str)]
        if wrong:
            raise ValueError(f'captions must be a list of strings, got {type(wrong[0]).__name__} in it.')
        unique = list(dict.fromkeys(captions))
        found = {caption: self._from_store(caption) for caption in unique}
        missing = [caption for caption in unique if found[caption] is None]
        if missing:
            for caption, embedding in zip(missing, self._embed(missing, torch.device(device))):
                found[caption] = embedding
                if self._store is not None:
                    self._store.put(content_key(caption), {'embedding': embedding.half()})
        # As the store gives them back: a run must not depend on which captions were met before.
        rows = [found[caption].half() if self.cache else found[caption] for caption in captions]
        return torch.stack([row.to(device) for row in rows]).float()

    def _from_store(self, caption: str) -> Tensor | None:
        if self.cache is None:
            return None
        if self._store is None:
            self._store = TensorStore(Path(self.cache).expanduser() / f'{self.stamp()}.sqlite')
        answer = self._store.get(content_key(caption), ['embedding'])
        return None if answer is None else answer['embedding']

    def stamp(self) -> str:
        """Names what the encoder gives by its settings and files, so that a store is read without loading it."""
        folder = find_path(self.checkpoint)
        settings = f'{type(self).__name__}-{self.max_length}{"-bf16" if self.bf16 else ""}'
        if folder is None:
            return f'{settings}-{self.checkpoint.replace("/", "--")}'
        files = sorted(file for file in Path(folder).rglob('*') if file.is_file())
        stamp = content_key(*[f'{file.relative_to(folder)} {file.stat().st_size} {file.stat().st_mtime_ns}'
                              for file in files])
        return f'{settings}-{stamp.hex()}'

    @torch.no_grad()
    def _embed(self, captions: list[str], device: torch.device) -> Tensor:
        encoder = self._loaded().to(device)
        if self.bf16 and has_bf16_products(device):
            encoder = encoder.to(torch.bfloat16)
        tokens = self._tokenizer(captions, padding='max_length', max_length=self.max_length, truncation=True,
                                 return_tensors='pt').input_ids
        self._warn_of_truncation(captions)
        with torch.autocast(device.type, enabled=False):
            return self.encode(encoder, tokens.to(device)).float()

    def _loaded(self) -> nn.Module:
        if self._encoder is None:
            try:
                folder = find_path(self.checkpoint) or download(self.checkpoint, FILES)
                tokenizer, encoder, width = self.load(str(folder))
            except ImportError as error:
                raise missing_package('transformers', 'text', type(self).__name__, error) from error
            except Exception as error:  # no network, no such model, a damaged file: each has its own class
                raise ValueError(f"The text encoder '{self.checkpoint}' is neither a folder with tokenizer and encoder "
                                 f'nor could it be had from the Hugging Face Hub ({type(error).__name__}: {error}). '
                                 'Without a network, download it elsewhere and give the folder.') from error
            if width != self.channels:
                raise ValueError(f"The text encoder '{self.checkpoint}' has a width of {width}, the config says "
                                 f'channels={self.channels}. Take another encoder, or set channels and the '
                                 "UNet's context_channels.")
            check_finite(encoder.state_dict(), self.checkpoint)
            self._tokenizer, self._encoder = tokenizer, encoder.eval().requires_grad_(False)
        return self._encoder

    def _warn_of_truncation(self, captions: list[str]) -> None:
        if self._warned:
            return
        lengths = [len(ids) for ids in self._tokenizer(captions, verbose=False).input_ids]
        if max(lengths) > self.max_length:
            self._warned = True
            caption = captions[lengths.index(max(lengths))]
            print_log(f'A caption of {max(lengths)} tokens is cut to {self.max_length}: "{caption[:60]}...". Further '
                      'ones are cut without a word.', logger='current', level=logging.WARNING)

    def parts(self) -> tuple[Any, nn.Module]:
        """The tokenizer and the encoder, loaded; for export.

        Raises:
            ValueError: see the class.
        """
        encoder = self._loaded()
        return self._tokenizer, encoder

    def fingerprint(self) -> str:
        """16 hexadecimal digits of the encoder's weights."""
        return network_fingerprint(self._loaded())


def subfolder_of(folder: str, name: str) -> str:
    """``name`` where a pipeline's folder has it, else '': the folder itself."""
    return name if (Path(folder) / name).is_dir() else ''
