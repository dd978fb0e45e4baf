"""Small files and configs for the tests of the converters."""

import sys
import types

import numpy as np
import reference_compvis as reference
import torch

NAMES = ['ffhq', 'celebahq', 'lsun_bedroom', 'lsun_church', 'imagenet', 'txt2img']
#: shrunk: the same layouts on 32 channels, and a narrow context
SMALL = {name: {**spec, 'base': 32} | ({'context': 24} if spec.get('context') else {})
         for name, spec in reference.FULL.items()}
#: two levels of one block: for what doesn't depend on the layout
TINY = {name: {**spec, 'mult': (1, 2), 'blocks': 1, 'attention': (1, ) if name == 'lsun_church' else (2, )}
        for name, spec in SMALL.items()}
SCHEDULES = dict.fromkeys(NAMES, (0.0015, 0.0195)) | {'lsun_church': (0.0015, 0.0155), 'txt2img': (0.00085, 0.012)}
CLASSES = 10


def model_config(name, spec):
    """Our config of a reference's arguments."""
    channels = [spec['base'] * m for m in spec['mult']]
    cross = bool(spec.get('context'))

    def heads(c):
        return spec.get('heads') or c // spec['head_width']

    blocks = spec.get('blocks', 2)
    stages = [dict(channels=c, blocks=blocks, up_blocks=blocks + 1, downsample=i + 1 < len(channels),
                   **(dict(heads=heads(c), cross_attention=cross) if 2**i in spec['attention'] else {}))
              for i, c in enumerate(channels)]
    unet = dict(type='UNet', sample_size=32, in_channels=spec.get('channels', 3), out_channels=spec.get('channels', 3),
                stages=stages, mid_heads=heads(channels[-1]), mid_cross_attention=cross)
    if cross:
        unet['context_channels'] = spec['context']
    if spec.get('film'):
        unet |= dict(scale_shift_norm=True, residual_resampling=True, downsampler=dict(type='AvgPoolDown'),
                     upsampler=dict(type='NearestUp'))
    if name == 'imagenet':
        unet['class_token'] = True
    start, end = SCHEDULES[name]
    return dict(type='DiffusionModel', unet=unet, sigma_data=None,
                num_classes=(1000 if spec['base'] > 100 else CLASSES) if name == 'imagenet' else None,
                noise_scheduler=dict(type='DDPMScheduler', beta_schedule='scaled_linear', beta_start=start,
                                     beta_end=end, clip_sample=False),
                sampler=dict(type='DDIMScheduler', set_alpha_to_one=False, steps_offset=1))


def randomise(network, seed):
    """Weights of the right size, so that every part of the network matters to its output."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in network.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        p.data = noise / p[0].numel()**0.5 if p.dim() > 1 else 0.2 * noise + ('norm' in name or p.mean() == 1)
    return network.eval().requires_grad_(False)


def build_reference(name, seed=0, spec=None):
    return randomise(reference.UNetModel(**(spec or SMALL[name])), seed)


def small_first_stage(kind, seed=5):
    spec = dict(base=32, mult=(1, 2, 2), z=3, codes=50, blocks=1) if kind == 'vq' else \
        dict(base=32, mult=(1, 2, 2, 2), z=4, blocks=1)
    network = randomise(reference.FirstStage(**spec), seed)
    if kind == 'vq':  # codes as far apart as latents are
        network.quantize.embedding.weight.mul_(2)
    return network


def condition(name, seed=9):
    """The weights of the conditioner: classes or, in place of the text transformer, two tensors with its names."""
    generator = torch.Generator().manual_seed(seed)
    if name == 'imagenet':
        return {'embedding.weight': torch.randn(CLASSES + 1, 24, generator=generator)}
    if name == 'txt2img':
        return {'transformer.token_emb.weight': torch.randn(7, 24), 'transformer.norm.weight': torch.ones(24)}
    return {}


def save_lightning(path, state, zipped=True):
    """A file as PyTorch Lightning writes it: with objects of classes that the reader won't have."""
    module = types.ModuleType('pytorch_lightning_of_the_tests')
    module.ModelCheckpoint = type('ModelCheckpoint', (), {'__module__': module.__name__})
    callback = module.ModelCheckpoint()
    callback.best = 0.5
    sys.modules[module.__name__] = module
    try:
        torch.save({'epoch': 3, 'global_step': 7, 'pytorch-lightning_version': '1.4.2', 'state_dict': state,
                    'callbacks': {module.ModelCheckpoint: {'best_model_score': np.float32(1), 'object': callback}},
                    'optimizer_states': [{'state': {0: {'step': 3, 'exp_avg': torch.zeros(4)}}}]},
                   path, _use_new_zipfile_serialization=zipped)
    finally:
        del sys.modules[module.__name__]
    return path


def small_checkpoint(name, path, first_stage=True, average=True, zipped=True, **more):
    """A checkpoint of a tiny teacher; returns its trained and averaged networks and first stage."""
    trained, averaged = (build_reference(name, seed, TINY[name]) for seed in (1, 2))
    stage = small_first_stage('kl' if name in ('lsun_church', 'txt2img') else 'vq') if first_stage else None
    state = reference.lightning(trained, stage, reference.noise_schedule(*SCHEDULES[name]), condition(name),
                                averaged if average else None, **more)
    save_lightning(path, state, zipped)
    return trained, averaged, stage
