"""Tiny teachers, as folders, and students of theirs."""

import torch

from slimdiff.models import DiffusionModel
from slimdiff.registry import MODELS

NOISE = dict(type='DDPMScheduler', beta_schedule='linear')


def unet(channels=8, size=8, **changes):
    """Config of a UNet of two resolutions."""
    stages = [dict(channels=channels, blocks=1), dict(channels=2 * channels, blocks=1, downsample=False)]
    return dict(type='UNet', sample_size=size, stages=stages, norm_groups=4, **changes)


def shake(module, seed=0, std=0.1):
    """Random weights everywhere: zero-initialised layers would hide the network."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in sorted(module.named_parameters()):
            parameter.copy_(std * torch.randn(parameter.shape, generator=generator))
    return module


def teacher_model(prediction_type='epsilon', unet_changes=None, noise=None, **settings):
    """A DiffusionModel that serves as teacher: twice as wide as the student."""
    noise = {**NOISE, 'prediction_type': prediction_type, **(noise or {})}
    model = DiffusionModel(unet=unet(16, **(unet_changes or {})), noise_scheduler=noise, num_steps=3, **settings)
    shake(model, seed=1)
    if prediction_type == 'sample':
        # With the output preconditioning a network whose last layer is negated predicts the x0 that the network
        # itself implies as eps or v.
        with torch.no_grad():
            for parameter in model.unet.conv_out.parameters():
                parameter.neg_()
    return model.eval()


def save_pipeline(model, folder):
    """unet/ and scheduler/, as a pipeline's save_pretrained leaves them."""
    model.unet.save_pretrained(folder / 'unet')
    model.noise_scheduler.save_pretrained(folder / 'scheduler')
    return str(folder)


def distiller_config(checkpoint, losses=None, prediction_type='epsilon', teacher=None, unet_changes=None,
                     **settings):
    losses = [dict(type='SpatialLoss', tap=['output', 'up1'])] if losses is None else losses
    return dict(type='Distiller', unet=unet(8, **(unet_changes or {})), losses=losses, num_steps=3,
                teacher=dict(checkpoint=str(checkpoint), **(teacher or {})),
                **{'noise_scheduler': {**NOISE, 'prediction_type': prediction_type}, **settings})


def distiller(checkpoint, losses=None, **settings):
    """A Distiller with random weights everywhere."""
    return shake(MODELS.build(distiller_config(checkpoint, losses, **settings)), seed=2).eval()


def batch(model, count=4, seed=0):
    """A noised batch of random images."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, *model.image_shape, generator=generator) * 2 - 1
    labels = None if model.num_classes is None else torch.arange(count) % model.num_classes
    model.seed_step(seed)
    return model.noised_batch(images, labels)


def losses(model, batch):
    """What ``model.forward(mode='loss')`` gives for a batch that has been noised: the sum and its terms, for logs."""
    terms = model.loss_terms(batch)
    return {'loss': sum(terms.values())} | {name: term.detach() for name, term in terms.items()}
