"""What a checkpoint of CompVis' latent-diffusion is made of."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from slimdiff.checkpoint import CheckpointError
from slimdiff.checkpoint.files import FORMAT

UNET = 'model.diffusion_model.'
AVERAGE = 'model_ema.'
FIRST_STAGE = 'first_stage_model.'
CONDITION = 'cond_stage_model.'
#: beside the average itself
AVERAGE_COUNTERS = {'model_ema.decay', 'model_ema.num_updates'}
#: buffers and parameters of its DDPM class
SCHEDULE = {
    'betas', 'alphas_cumprod', 'alphas_cumprod_prev', 'sqrt_alphas_cumprod', 'sqrt_one_minus_alphas_cumprod',
    'log_one_minus_alphas_cumprod', 'sqrt_recip_alphas_cumprod', 'sqrt_recipm1_alphas_cumprod', 'posterior_variance',
    'posterior_log_variance_clipped', 'posterior_mean_coef1', 'posterior_mean_coef2', 'lvlb_weights', 'logvar',
    'scale_factor'
}


def average_name(name: str) -> str:
    """The name of a trained weight's average: LitEma leaves the dots out, and keeps a copy of ``model`` alone."""
    return AVERAGE + name.removeprefix('model.').replace('.', '')


@dataclasses.dataclass
class CompVisCheckpoint:
    """The tensors of a file by name, and what they are.

    Args:
        path: of the file, for messages.
        state: name -> tensor.
        first_stage: prefix of the first stage's names: '' in a file of a first stage alone; None without one.
    """
    path: Path
    state: dict[str, Tensor]
    first_stage: str | None

    @property
    def has_unet(self) -> bool:
        return any(name.startswith((UNET, AVERAGE)) for name in self.state)

    @property
    def has_average(self) -> bool:
        return any(name.startswith(AVERAGE) and name not in AVERAGE_COUNTERS for name in self.state)

    @property
    def has_trained(self) -> bool:
        return any(name.startswith(UNET) for name in self.state)

    @property
    def context_channels(self) -> int | None:
        """Width of what cross-attention attends to; None without cross-attention."""
        return next((value.shape[1] for name, value in self.state.items()
                     if name.endswith(('attn2.to_k.weight', 'attn2to_kweight'))), None)

    @property
    def of_second_stable_diffusion(self) -> bool:
        """Whether the UNet is of Stable Diffusion 2, which computes otherwise than 1 with weights of the same names:
        its heads have 64 channels each, and it predicts eps or v. Its ``proj_in`` is linear, (C, C), and not a 1x1
        convolution, (C, C, 1, 1)."""
        return any(value.dim() == 2 for name, value in self.state.items()
                   if name.startswith((UNET, AVERAGE)) and name.endswith(('proj_in.weight', 'proj_inweight')))

    @property
    def latent_scale(self) -> float | None:
        """The factor on latents, where it was measured in training (LSUN-Church) and so is in the file."""
        value = self.state.get('scale_factor')
        return None if value is None or value.numel() != 1 else float(value)

    def choose_weights(self, weights: str | None) -> str:
        """'ema' or 'model': what was asked for, if it is there; by default the average where there is one.

        The papers' samples are made with the average (Rombach et al. sample inside ``ema_scope``), so it is the
        teacher. Files that hold one set only ("pruned", "ema-only") call it ``model``, average or not.

        Raises:
            ValueError: neither word.
            CheckpointError: weights that aren't there.
        """
        if weights not in (None, 'ema', 'model'):
            raise ValueError(f"weights='{weights}' is unknown; choose 'ema' or 'model'.")
        chosen = weights or ('ema' if self.has_average else 'model')
        if chosen == 'ema' and not self.has_average:
            raise CheckpointError(f'{self.path} holds no averaged weights ({AVERAGE}*): ask for --weights model. In a '
                                  'file that was pruned to one set of weights those may be the averaged ones.')
        if chosen == 'model' and not self.has_trained:
            raise CheckpointError(f'{self.path} holds averaged weights only: ask for --weights ema.')
        return chosen


def some(names: Iterable[str], limit: int = 5) -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    return ', '.join(names[:limit]) + (f' and {len(names) - limit} more' if len(names) > limit else '')


def recognise(data: Any, path: str | Path) -> CompVisCheckpoint:
    """Find the weights in the content of a file.

    Raises:
        CheckpointError: no CompVis checkpoint; the message says what it looks like instead.
    """
    path = Path(path)
    if isinstance(data, dict) and isinstance(data.get('meta'), dict) and data['meta'].get('format') == FORMAT:
        raise CheckpointError(f'{path} is a checkpoint of slimdiff itself: no conversion is needed. Give it to '
                              'teacher=dict(checkpoint=...) or slimdiff sample, or make a diffusers folder of it with '
                              'slimdiff export.')
    state = data.get('state_dict', data) if isinstance(data, dict) else None
    if not isinstance(state, dict) or not any(isinstance(value, Tensor) for value in state.values()):
        keys = f' Its keys: {some(map(str, data))}.' if isinstance(data, dict) else ''
        raise CheckpointError(f"{path} holds no weights: neither a dict 'state_dict' of tensors nor a dict of "
                              f'tensors.{keys}')
    strange = [str(name) for name, value in state.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if strange and state is data:  # other things beside weights, at the top of the file
        state = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    elif strange:
        raise CheckpointError(f'{path}: these weights are not tensors: {some(strange)}.')
    first_stage = next((prefix for prefix in (FIRST_STAGE, '') if f'{prefix}encoder.conv_in.weight' in state
                        and f'{prefix}decoder.conv_in.weight' in state), None)
    found = CompVisCheckpoint(path, dict(state), first_stage)
    if not found.has_unet and (first_stage is None or _of_diffusers(state)):
        raise CheckpointError(f'{path} {_looks_like(state)}')
    return found


def _of_diffusers(state: dict[str, Tensor]) -> bool:
    return any('.resnets.' in name for name in state)


def _looks_like(state: dict[str, Tensor]) -> str:
    """The end of a sentence about a file that isn't CompVis'."""
    if _of_diffusers(state):
        return ("holds weights with diffusers' names: no conversion is needed. Give the folder that it lies in, with "
                'its config.json, as the teacher.')
    if any(name.startswith('input_blocks.') for name in state):
        return ("holds a UNet of OpenAI's guided-diffusion (input_blocks.* without model.diffusion_model.), which is "
                'not converted: it orders attention heads and predicts variances in its own way.')
    counts = Counter(name.partition('.')[0] for name in state)
    groups = some((f'{name}.* ({count})' for name, count in counts.most_common()), 6)
    return (f'is no checkpoint of latent-diffusion: there is no {UNET}*, {AVERAGE}* or {FIRST_STAGE}* in it. It has: '
            f'{groups}.')


def refuse_folder(path: str | Path) -> CheckpointError:
    """The error for a folder in place of a file."""
    path = Path(path)
    names = ('model_index.json', 'unet/config.json', 'config.json')
    if any((path / name).is_file() for name in names):
        return CheckpointError(f'{path} is a folder of diffusers: no conversion is needed. Give it to '
                               "teacher=dict(checkpoint=...) as it is (docs: bring_your_checkpoint.md).")
    files = sorted(p.name for pattern in ('*.ckpt', '*.pt', '*.pth', '*.safetensors') for p in path.glob(pattern))
    hint = f' It holds {some(files)}: give one of them.' if files else ''
    return CheckpointError(f'{path} is a folder; give a .ckpt file of latent-diffusion.{hint}')
