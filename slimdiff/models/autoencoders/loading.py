"""Find a first stage, read its layout and weights, and tell one from another."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slimdiff.checkpoint import find_path, read_json
from slimdiff.checkpoint.folders import WEIGHTS, from_pretrained, variant_of
from slimdiff.checkpoint.hub import cached, download, is_hub_id
from slimdiff.checkpoint.weights import check_finite

GUIDE = 'docs/en/user_guides/latents.md'
#: where a pipeline's folder keeps it
SUBFOLDERS = ('vae', 'vqvae')
#: keys of a config that change no latent
IRRELEVANT = {'scaling_factor', 'shift_factor', 'latents_mean', 'latents_std', 'sample_size', 'force_upcast'}


class FirstStageMissing(ValueError):
    """The files of a first stage are not on this machine."""


def find_folder(checkpoint: str, fetch: bool = False) -> Path | None:
    """The folder with the ``config.json`` of a first stage; None if it isn't here.

    Args:
        checkpoint: a folder of ``save_pretrained``, a pipeline's folder, or a model on the Hub as ``owner/name``.
        fetch: download what is on the Hub; otherwise only an earlier download is found.

    Raises:
        ValueError: a file, or a folder without a first stage; a download that fails.
    """
    path = find_path(checkpoint)
    if path is None and is_hub_id(checkpoint):
        path = cached(checkpoint)
        for kind in ('safetensors', 'bin') if fetch else ():  # old models have the latter alone
            if path is None or not any(_weight_files(place) for place in _holders(path)):
                path = download(checkpoint, [
                    f'{folder}{name}' for folder in ('', *(f'{sub}/' for sub in SUBFOLDERS))
                    for name in ('config.json', f'{WEIGHTS}.{kind}', f'{WEIGHTS}-*-of-*.{kind}')])
    if path is None:
        return None
    if path.is_file():
        raise ValueError(f"autoencoder: checkpoint='{checkpoint}' is a file; give a folder of diffusers' "
                         'save_pretrained. A .ckpt of latent-diffusion is converted into one first: '
                         'tools/model_converters/compvis_to_slimdiff.py.')
    found = _holders(path)
    if not found:
        raise ValueError(f"autoencoder: the folder '{path}' holds no first stage: neither config.json, nor "
                         f'{" or ".join(f"{sub}/config.json" for sub in SUBFOLDERS)} (a pipeline). See {GUIDE}.')
    return found[0]


def _holders(path: Path) -> list[Path]:
    return [place for place in (*(path / sub for sub in SUBFOLDERS), path) if (place / 'config.json').is_file()]


def missing(checkpoint: str) -> FirstStageMissing:
    """The error for a first stage that is not here."""
    hub = '' if is_hub_id(checkpoint) else ' (looked here and beside the configs of slimdiff)'
    return FirstStageMissing(f"autoencoder: the first stage '{checkpoint}' is not there{hub}. {GUIDE} says how to get "
                             'one; model.autoencoder.checkpoint says where it is.')


def read_layout(folder: Path, network: type[nn.Module]) -> dict[str, Any]:
    """The arguments of ``network`` from a folder's ``config.json``.

    Raises:
        ValueError: unreadable, or the config of another class.
    """
    config = read_json(folder / 'config.json', 'It is of the first stage that model.autoencoder names; save it again.')
    kind = config.get('_class_name')
    if kind != network.__name__:
        ours = {'VQModel': 'VQAutoencoder', 'AutoencoderKL': 'KLAutoencoder'}.get(kind)
        hint = f"Use autoencoder=dict(type='{ours}', ...)." if ours else 'Give the folder of a first stage.'
        raise ValueError(f"autoencoder: the folder {folder} holds a '{kind}', a {network.__name__} is wanted. {hint}")
    return {key: value for key, value in config.items() if not key.startswith('_')}


def load_network(folder: Path, network: type[nn.Module]) -> nn.Module:
    """The network with its weights, in float32, strictly.

    Raises:
        ValueError: weights that are missing, left over, damaged or of another shape.
    """
    loaded = from_pretrained(network, folder, 'first stage')
    check_finite(loaded.state_dict(), folder)
    return loaded


# ---- which one it is --------------------------------------------------------------------------------------------


def fingerprint_of_layout(network: type[nn.Module], layout: Mapping[str, Any]) -> str:
    """16 hexadecimal digits of an architecture."""
    return _layout_hash(network, layout).hexdigest()


def fingerprint_of_folder(folder: Path, network: type[nn.Module]) -> str:
    """16 hexadecimal digits of architecture and weights, from the files: no network is built.

    Raises:
        ValueError: no weights there, or a damaged file.
    """
    key = _layout_hash(network, read_layout(folder, network))
    for name, value in sorted(_weights(folder), key=lambda pair: pair[0]):
        key.update(f'{name} {value.dtype} {tuple(value.shape)}'.encode())
        key.update(value.contiguous().flatten().view(torch.uint8).numpy())
    return key.hexdigest()


def describe_folder(folder: Path) -> dict[str, Any] | None:
    """What the first stage of a pipeline's folder does to images, as :func:`describe`; None without one."""
    for place in (folder / sub for sub in SUBFOLDERS):
        if (place / 'config.json').is_file():
            config = json.loads((place / 'config.json').read_text(encoding='utf-8'))
            return describe(config.get('_class_name'), config, config.get('scaling_factor'), place)
    return None


def describe(kind: str, config: Mapping[str, Any], scale: float | None, folder: Path | None) -> dict[str, Any]:
    """The latents that a first stage makes, as plain data; what isn't known is left out.

    ``encoder`` has the number, the sum of magnitudes and the sum of squares of the encoder's weights. Unlike a hash
    they are the same, but for rounding, for other names and precisions of the same weights; decoders do not matter.
    """
    mean, std = normalisation(config)
    found = {'class': kind, 'mean': mean.flatten().tolist(), 'std': std.flatten().tolist()}
    found |= {} if scale is None else {'scale': float(scale)}
    if folder is None or not _weight_files(folder):
        return found
    values = [value.double() for name, value in _weights(folder) if name.startswith(('encoder.', 'quant_conv.'))]
    return found | {'encoder': [sum(v.numel() for v in values), float(sum(v.abs().sum() for v in values)),
                                float(sum(v.square().sum() for v in values))]}


def normalisation(config: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of raw latents, (C, 1, 1) or without dimensions, by the config of a first stage.

    A diffusion model sees (z - mean) * scale / std: Stable Diffusion 3 gives a ``shift_factor`` for the mean,
    Playground 2.5 ``latents_mean`` and ``latents_std``; the others have 0 and 1.
    """
    mean, std = config.get('latents_mean'), config.get('latents_std')
    if mean is None or std is None:
        mean, std = config.get('shift_factor') or 0.0, 1.0
    pair = (torch.as_tensor(value, dtype=torch.float32) for value in (mean, std))
    return tuple(value if value.dim() == 0 else value.reshape(-1, 1, 1) for value in pair)


def _layout_hash(network: type[nn.Module], layout: Mapping[str, Any]) -> Any:
    defaults = {p.name: p.default for p in inspect.signature(network.__init__).parameters.values() if p.name != 'self'}
    whole = {k: v for k, v in {**defaults, **layout}.items() if k in defaults and k not in IRRELEVANT}
    key = hashlib.blake2b(digest_size=8)
    key.update(f'{network.__name__} {json.dumps(whole, sort_keys=True, default=str)}'.encode())
    return key


def _weight_files(folder: Path) -> list[Path]:
    """What from_pretrained would read: one file or several, safetensors before torch's."""
    variant = variant_of(folder)
    stem = WEIGHTS if variant is None else f'{WEIGHTS}.{variant}'
    for kind in ('safetensors', 'bin'):
        whole = folder / f'{stem}.{kind}'
        files = [whole] if whole.is_file() else sorted(folder.glob(f'{stem}-*-of-*.{kind}'))
        if files:
            return files
    return []


def _weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of the weights, one at a time."""
    from safetensors import SafetensorError, safe_open
    files = _weight_files(folder)
    if not files:
        raise FirstStageMissing(f'autoencoder: {folder} has a config.json, but no {WEIGHTS}.safetensors. See {GUIDE}.')
    for file in files:
        if file.suffix == '.bin':
            yield from torch.load(file, map_location='cpu', weights_only=True, mmap=True).items()
            continue
        try:
            with safe_open(file, 'pt') as archive:
                for name in archive.keys():  # noqa: SIM118 (not a dict)
                    yield name, archive.get_tensor(name)
        except SafetensorError as error:
            raise ValueError(f'autoencoder: {file} is damaged: {error}') from None
