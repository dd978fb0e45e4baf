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

from slimdiff.checkpoint import find_path
from slimdiff.checkpoint.hub import cached, download, is_hub_id

GUIDE = 'docs/en/user_guides/latents.md'
#: where a pipeline's folder keeps it
SUBFOLDERS = ('vae', 'vqvae')
#: keys of a config that change no latent
IRRELEVANT = {'scaling_factor', 'shift_factor', 'latents_mean', 'latents_std', 'sample_size', 'force_upcast'}
WEIGHTS = 'diffusion_pytorch_model'


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
    try:
        config = json.loads((folder / 'config.json').read_text(encoding='utf-8'))
    except ValueError as error:
        raise ValueError(f'autoencoder: {folder / "config.json"} is not JSON: {error}') from None
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
    try:
        # Weights of another shape are not ignored: they are reported below, with those that are missing.
        loaded, info = network.from_pretrained(folder, output_loading_info=True, low_cpu_mem_usage=False,
                                               ignore_mismatched_sizes=True, torch_dtype=torch.float32)
    except Exception as error:  # missing file, damaged file: diffusers and safetensors have many classes of them
        raise ValueError(f'autoencoder: the first stage in {folder} cannot be loaded: {error}') from error
    problems = [f'{label} {", ".join(map(str, sorted(info[key])[:4]))}'
                for key, label in (('missing_keys', 'it lacks'), ('unexpected_keys', 'it has besides'),
                                   ('mismatched_keys', 'of another shape are')) if info.get(key)]
    if problems:
        raise ValueError(f'autoencoder: the weights in {folder} do not fit its config.json: {"; ".join(problems)}.')
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


def _layout_hash(network: type[nn.Module], layout: Mapping[str, Any]) -> Any:
    defaults = {p.name: p.default for p in inspect.signature(network.__init__).parameters.values() if p.name != 'self'}
    whole = {k: v for k, v in {**defaults, **layout}.items() if k in defaults and k not in IRRELEVANT}
    key = hashlib.blake2b(digest_size=8)
    key.update(f'{network.__name__} {json.dumps(whole, sort_keys=True, default=str)}'.encode())
    return key


def _weight_files(folder: Path) -> list[Path]:
    """What from_pretrained would read: one file or several, safetensors before torch's."""
    for kind in ('safetensors', 'bin'):
        whole = folder / f'{WEIGHTS}.{kind}'
        files = [whole] if whole.is_file() else sorted(folder.glob(f'{WEIGHTS}-*-of-*.{kind}'))
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
