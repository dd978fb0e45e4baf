"""``slimdiff convert CHECKPOINT --config CONFIG --out DIR``: a checkpoint of latent-diffusion, DiT or SiT as a folder.

The folder holds ``unet/`` (ours), ``scheduler/`` and the first stage (``vqvae/`` or ``vae/``), if the checkpoint has
one; it is a teacher, and ``slimdiff sample`` samples it. Nothing in the checkpoint is ever run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
from pathlib import Path
from typing import Any

from slimdiff.cli.common import KeyValues, check_files, runs_cleanly
from slimdiff.version import __version__

RECORD = 'conversion.json'
#: what a conversion leaves in its folder
OURS = {'unet', 'scheduler', 'vae', 'vqvae', RECORD}
OURS_FIRST_STAGE = {'config.json', 'diffusion_pytorch_model.safetensors', RECORD}
SCHEDULE_TOLERANCE = 1e-4
#: channels of an attention head of Stable Diffusion 2
HEAD_CHANNELS = 64


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='slimdiff convert', description='Convert a checkpoint of CompVis\' '
                                     'latent-diffusion, Stable Diffusion, DiT or SiT without running anything in it.')
    parser.add_argument('checkpoint', help='a .ckpt of torch.save, or .safetensors with the same names')
    parser.add_argument('--config', help='a teacher\'s config, such as configs/ldm/ffhq.py; not for --first-stage only')
    parser.add_argument('--out', required=True, help='the folder to write; one of an earlier conversion is replaced')
    parser.add_argument('--weights', choices=('ema', 'model'), help='the averaged weights, which the papers sample '
                        'with, or those that the optimizer trained; default: ema where the file has them')
    parser.add_argument('--first-stage', choices=('only', 'also', 'none'), default='also', help='the autoencoder: '
                        'also (vqvae/ or vae/ beside unet/), none, or only: --out is then its folder. Default: also')
    parser.add_argument('--prediction-type', choices=('epsilon', 'v_prediction'), help='what the network predicts, in '
                        "place of what the config says; needed for Stable Diffusion 2, whose files don't tell: v of "
                        'the models for 768 pixels, epsilon of those for 512 ("base")')
    parser.add_argument('--cfg-options', nargs='+', action=KeyValues, metavar='KEY=VALUE', help='override the config, '
                        'as model.unet.context_channels=768')
    parser.add_argument('--debug', action='store_true', help='show the traceback of an error')
    return parser.parse_args(argv)


def shipped_fits(checkpoint: Any) -> list[tuple[str, Any]]:
    """(name, Fit) of every shipped teacher's config, the best first."""
    from slimdiff.configuration import ConfigError, load_config
    from slimdiff.configuration.load import known_configs
    from slimdiff.models.converters import compare, empty_unet
    fits = []
    for name in known_configs():
        if not name.startswith('configs/ldm/'):
            continue
        with contextlib.suppress(ConfigError, ValueError):  # not of CompVis' layout
            model = load_config(name).model
            if model.get('sigma_data', 0.5) is None:  # else preconditioned, as the teachers of the photo patches
                fits.append((name, compare(checkpoint, empty_unet(model))))
    return sorted(fits, key=lambda pair: (-pair[1].share, pair[0]))


def advice(checkpoint: Any) -> str:
    """Which shipped config the UNet of a checkpoint fits best, in sentences about the file by its name."""
    fits = shipped_fits(checkpoint)
    if not fits or fits[0][1].share < 0.5:
        return (f'{checkpoint.path.name} fits none of the shipped teachers: write a config with its channels and '
                'attention (configs/ldm/).')
    best = fits[0][1]
    names = ' or '.join(name for name, fit in fits if fit.share == best.share)
    if best.perfect:
        return f'{checkpoint.path.name} fits {names}.'
    from slimdiff.configuration import load_config
    options = ' '.join(needed_options(checkpoint, load_config(fits[0][0]).model))
    second = checkpoint.of_second_stable_diffusion
    prediction = (' It is of Stable Diffusion 2: also --prediction-type v_prediction (a model for 768 pixels) or '
                  'epsilon (a "base" model).') if second else ''
    return (f'{checkpoint.path.name} fits {names} best, by {best.share:.1%} of all names and shapes.'
            + (f' Its cross-attention is not the same: --cfg-options {options}.' if options else '') + prediction)


def needed_options(checkpoint: Any, model: Any) -> list[str]:
    """What a UNet with cross-attention, as Stable Diffusion's, needs otherwise than a config has it: the width of the
    context, and the heads of 64 channels of Stable Diffusion 2."""
    unet, width = model.unet, checkpoint.context_channels
    options = [] if width in (None, unet.get('context_channels')) else [f'model.unet.context_channels={width}']
    if checkpoint.of_second_stable_diffusion:
        places = [(f'stages.{i}.heads', stage.heads, stage.channels) for i, stage in enumerate(unet.stages)
                  if stage.get('cross_attention')]
        places += [('mid_heads', unet.get('mid_heads'), unet.get('mid_channels') or unet.stages[-1].channels)]
        options += [f'model.unet.{place}={channels // HEAD_CHANNELS}' for place, heads, channels in places
                    if heads * HEAD_CHANNELS != channels]
    return options


def check_schedule(checkpoint: Any, scheduler: Any, config: str) -> None:
    """Raise CheckpointError where the file was trained with another noise schedule than the config's."""
    from slimdiff.checkpoint import CheckpointError
    alphas, betas = checkpoint.state.get('alphas_cumprod'), checkpoint.state.get('betas')
    own = getattr(scheduler, 'alphas_cumprod', None)
    if own is None and alphas is not None:
        raise CheckpointError(f'{checkpoint.path} was trained with a noise schedule (alphas_cumprod), and {config} '
                              'trains by flow matching: take a config with the noise_scheduler of the checkpoint.')
    if alphas is None or (len(alphas) == len(own)
                          and float((alphas.double() - own.double()).abs().max()) < SCHEDULE_TOLERANCE):
        return
    ends = '' if betas is None else (f' Its betas go from {float(betas[0]):.5g} to {float(betas[-1]):.5g}: '
                                     'model.noise_scheduler.beta_start and beta_end (LDM\'s are scaled_linear).')
    raise CheckpointError(f'{checkpoint.path} was trained with another noise schedule than that of {config}: '
                          f'{len(alphas)} steps down to alphas_cumprod {float(alphas[-1]):.5g}, the config has '
                          f'{len(own)} down to {float(own[-1]):.5g}.{ends}')


def open_checkpoint(path: Path) -> tuple[Any, list[str]]:
    """The file's weights (of DiT or SiT a dict of its sets), and the names of the objects that were left out."""
    from slimdiff.checkpoint.foreign import load_foreign
    from slimdiff.checkpoint.weights import check_finite
    from slimdiff.models.converters import recognise
    from slimdiff.models.converters.compvis import refuse_folder
    from slimdiff.models.converters.dit import weights_of
    if path.is_dir():
        raise refuse_folder(path)
    content = load_foreign(path)
    found = weights_of(content.data) or recognise(content.data, path)
    for state in found.values() if isinstance(found, dict) else [found.state]:
        check_finite(state, path)
    return found, content.stand_ins


def convert_dit(sets: dict[str, Any], args: argparse.Namespace) -> tuple[Any, Any, dict[str, Any]]:
    """The transformer, its sampler, and what to record.

    Raises:
        CheckpointError: weights of another size than the config's network, or that are not in the file.
    """
    from slimdiff.checkpoint import CheckpointError
    from slimdiff.configuration import check_config, load_config
    from slimdiff.models.backbones import build_backbone
    from slimdiff.models.converters.dit import from_original
    from slimdiff.sampling import build_scheduler
    from slimdiff.sampling.process import is_flow
    if args.config is None:
        raise ValueError(f'--config is needed: {args.checkpoint} is of DiT (configs/dit/imagenet.py) or of SiT '
                         '(configs/dit/imagenet_flow.py), and does not tell which.')
    chosen = args.weights or next(iter(sets))  # the averaged ones first
    if chosen not in sets:
        raise CheckpointError(f'--weights {chosen}: {args.checkpoint} holds only the weights {" and ".join(sets)}.')
    cfg = load_config(args.config, args.cfg_options)
    check_config(cfg)
    noise = build_scheduler(noise_scheduler(cfg, args))
    network = from_original(sets[chosen], is_flow(noise), cfg.model.unet.get('num_attention_heads'))
    check_same_network(network, build_backbone(cfg.model.unet, cfg.model.get('num_classes')), args)
    sampler = build_scheduler(cfg.model.get('sampler', dict(type='DDIMScheduler')), base=noise, clip=False)
    return network, sampler, {'config': args.config, 'weights': chosen, 'left_out_of_the_unet': {}}


def noise_scheduler(cfg: Any, args: argparse.Namespace) -> dict[str, Any]:
    """The config's, with the prediction that the command line says."""
    scheduler = cfg.model.setdefault('noise_scheduler', dict(type='DDPMScheduler'))
    if args.prediction_type:
        scheduler['prediction_type'] = args.prediction_type
    return scheduler


def check_same_network(found: Any, wanted: Any, args: argparse.Namespace) -> None:
    """Raise CheckpointError unless the converted network has the arguments of the config's."""
    from slimdiff.checkpoint import CheckpointError
    differ = [f'{key}={value} (the config: {wanted.config.get(key)})' for key, value in found.config.items()
              if not key.startswith('_') and wanted.config.get(key) != value and (
                  not isinstance(value, (list, tuple)) or list(value) != list(wanted.config.get(key) or ()))]
    if differ:
        raise CheckpointError(f'{args.checkpoint} is not a checkpoint of {args.config}: it has {", ".join(differ)}.')


def convert_diffusion(checkpoint: Any, args: argparse.Namespace) -> tuple[Any, Any, Any, dict[str, Any]]:
    """The UNet, its sampler, the config's model, and what to record."""
    from slimdiff.checkpoint import CheckpointError
    from slimdiff.configuration import check_config, load_config
    from slimdiff.models.converters import compare, convert_unet, empty_unet
    from slimdiff.sampling import build_scheduler
    if not checkpoint.has_unet:
        raise CheckpointError(f'{checkpoint.path} holds a first stage alone, no UNet: convert it with --first-stage '
                              'only, and the UNet from its own file.')
    if args.config is None:
        raise ValueError(f'--config is needed: it says what the weights do not, such as the number of attention heads. '
                         f'{advice(checkpoint)}')
    cfg = load_config(args.config, args.cfg_options)
    check_config(cfg)
    scheduler = noise_scheduler(cfg, args)
    unet = empty_unet(cfg.model)
    if cfg.model.get('sigma_data', 0.5) is not None:
        raise ValueError(f'{args.config} preconditions its UNet (model.sigma_data={cfg.model.get("sigma_data", 0.5)}); '
                         'CompVis\' UNets are bare: take a config with sigma_data=None.')
    fit = compare(checkpoint, unet)
    if not fit.perfect:
        raise CheckpointError(f'{advice(checkpoint)} {checkpoint.path} is not a checkpoint of {args.config}: '
                              f'{fit.same} of {fit.same + len(fit.missing) + len(fit.shapes)} weights fit; '
                              f'{fit.differences()}.')
    if checkpoint.of_second_stable_diffusion:
        options = needed_options(checkpoint, cfg.model)
        if options:
            raise ValueError(f'{checkpoint.path} is of Stable Diffusion 2, whose heads have {HEAD_CHANNELS} channels: '
                             f'--cfg-options {" ".join(options)}.')
        if args.prediction_type is None:
            raise ValueError(f'{checkpoint.path} is of Stable Diffusion 2, and does not tell what it predicts: '
                             '--prediction-type v_prediction (a model for 768 pixels) or epsilon (a "base" model).')
    noise = build_scheduler(scheduler)
    check_schedule(checkpoint, noise, args.config)
    weights = checkpoint.choose_weights(args.weights)
    state, groups = convert_unet(checkpoint, unet, weights)
    unet.load_state_dict({name: value.contiguous() for name, value in state.items()}, assign=True)
    latents = (cfg.model.get('autoencoder') or {}).get('type', 'IdentityAutoencoder') != 'IdentityAutoencoder'
    sampler = build_scheduler(cfg.model.get('sampler', dict(type='DDIMScheduler')), base=noise, clip=not latents)
    return unet, sampler, cfg.model, {'config': args.config, 'weights': weights, 'left_out_of_the_unet': groups}


@runs_cleanly
def main(argv: list[str] | None = None) -> int:
    """Convert; returns the exit status."""
    args = parse(argv)
    if args.config is not None:
        check_files(args)
    only = args.first_stage == 'only'
    path = Path(args.checkpoint)

    from slimdiff.checkpoint.folders import atomic_folder, check_folder
    from slimdiff.models.converters import convert_first_stage
    out = check_folder(args.out, OURS_FIRST_STAGE if only else OURS, '--out', RECORD)
    checkpoint, stand_ins = open_checkpoint(path)
    if stand_ins:
        print(f'{path} holds objects besides weights; nothing of them was run or kept: {", ".join(stand_ins)}')
    record: dict[str, Any] = {'source': path.name, 'bytes': path.stat().st_size, 'slimdiff_version': __version__,
                              'objects_left_out': stand_ins}
    unet = sampler = first_stage = None
    model: dict[str, Any] = {}
    of_dit = isinstance(checkpoint, dict)
    if of_dit:
        unet, sampler, more = convert_dit(checkpoint, args)
        record |= more
    elif not only:
        unet, sampler, model, more = convert_diffusion(checkpoint, args)
        record |= more
    if not of_dit and (only or (args.first_stage == 'also' and checkpoint.first_stage is not None)):
        scale = checkpoint.latent_scale
        if scale is None:
            scale = (model.get('autoencoder') or {}).get('latent_scale')
        first_stage, left_out = convert_first_stage(checkpoint, scale)
        record |= {'first_stage': type(first_stage).__name__, 'latent_scale': first_stage.config.scaling_factor,
                   'left_out_of_the_first_stage': left_out}

    with atomic_folder(out) as folder:
        if unet is not None:
            unet.save_pretrained(folder / 'unet')
            sampler.save_pretrained(folder / 'scheduler')
        if first_stage is not None:
            kind = 'vqvae' if type(first_stage).__name__ == 'VQModel' else 'vae'
            first_stage.save_pretrained(folder if only else folder / kind)
        (folder / RECORD).write_text(json.dumps(record, indent=1) + '\n', encoding='utf-8')
    report(out, checkpoint, unet, first_stage, record, model, args)
    return 0


def first_stage_options(out: Path, record: dict[str, Any], model: Any) -> str:
    """What makes the first stage in ``out`` that of a config, which may have none or one of the other class."""
    kind, other = ('VQAutoencoder', 'KLAutoencoder')[::1 if record['first_stage'] == 'VQModel' else -1]
    options = f'model.autoencoder.checkpoint={out}'
    if (model.get('autoencoder') or {}).get('type') not in (None, 'IdentityAutoencoder', other):
        return options
    scale = '' if record['latent_scale'] == 1 else f' model.autoencoder.latent_scale={record["latent_scale"]:.8g}'
    return f'model.autoencoder.type={kind} {options}{scale}'


def report(out: Path, checkpoint: Any, unet: Any, first_stage: Any, record: dict[str, Any], model: Any,
           args: argparse.Namespace) -> None:
    """Say what was written, what was left out, and what to do with it."""

    def count(module: Any) -> str:
        return f'{sum(p.numel() for p in module.parameters()):,} parameters'

    if unet is not None:
        both = (len(checkpoint) == 2 if isinstance(checkpoint, dict)
                else checkpoint.has_average and checkpoint.has_trained)
        why = '' if args.weights or not both else '; the papers sample with them; --weights model takes the others'
        print(f'{out}/unet: {count(unet)} (weights: {record["weights"]}{why})')
        groups = ', '.join(f'{name} ({number})' for name, number in record['left_out_of_the_unet'].items())
        if groups:
            print(f'Not in it: {groups}.')
    if first_stage is not None:
        print(f'{out}{"" if args.first_stage == "only" else "/vae" if record["first_stage"] != "VQModel" else "/vqvae"}'
              f': {record["first_stage"]}, {count(first_stage)}, latents times {record["latent_scale"]:.6g}')
        told = (model.get('autoencoder') or {}).get('latent_scale')
        if told is None and checkpoint.latent_scale is None and record['first_stage'] != 'VQModel':
            print(f'Warning: the file says no scale of its latents (scale_factor): {record["latent_scale"]:.6g}, '
                  'Stable Diffusion\'s, is assumed. For another one: '
                  + ('set model.autoencoder.latent_scale in the configs that use it.' if args.first_stage == 'only' else
                     '--cfg-options model.autoencoder.latent_scale=VALUE.'))
        if told is not None and abs(told - record['latent_scale']) > 1e-4 * told:
            print(f'The config has model.autoencoder.latent_scale={told}; the checkpoint was trained with '
                  f'{record["latent_scale"]:.8g}: set that in your configs.')
    elif args.first_stage == 'also':
        print('There is no first stage in the file.')
    if unet is not None:
        words = [f'{key}={value}' for key, value in (args.cfg_options or {}).items()]
        if args.prediction_type:
            words.append(f'model.noise_scheduler.prediction_type={args.prediction_type}')
        words = [shlex.quote(word) for word in words]
        if first_stage is not None:
            words.append(first_stage_options(out, record, model))
        options = f' --cfg-options {" ".join(words)}' if words else ''
        print(f"Use it: teacher=dict(checkpoint='{out}'), or slimdiff sample {args.config} {out}{options}")
    else:
        print(f"Use it: model.autoencoder.checkpoint='{out}'")
