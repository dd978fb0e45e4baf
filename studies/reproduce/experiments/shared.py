"""What several experiments share: figures and the short schedule."""

from typing import Any

from studies.reproduce.experiment import Column

#: 1000 times the error, so that its digits can be read
DENOISING = Column('denoising error, total (x 1000)', {'denoise/total': 1.0}, scale=1000)
#: the mean over timesteps below 300: bins are weighted by their widths
TOP_BAND = Column('top band, t < 300 (x 1000)', {'denoise/t0-100/top': 100.0, 'denoise/t100-300/top': 200.0},
                  scale=1000)
#: the same of a metric whose bins are cut at 300 alone
TOP_BAND_BELOW_300 = Column('top band, t < 300 (x 1000)', {'denoise/t0-300/top': 1.0}, scale=1000)
CLASS_ACCURACY = Column('class accuracy (%)', {'class_accuracy': 1.0}, scale=100)
FRECHET = Column('Fréchet distance, random features (not FID, x 1000)', {'fd': 1.0}, scale=1000)
SWD = Column('Laplacian SWD', {'swd/mean': 1.0})
SPECTRUM = Column('log spectrum, top half, signed', {'spectrum/log/top_signed': 1.0}, better='zero')

COLUMNS = (DENOISING, TOP_BAND, FRECHET, SWD, SPECTRUM)


def short_schedule(iterations: int) -> dict[str, Any]:
    """Options that end the 16x16 schedule after so many iterations; the decay begins after a quarter, not a fifth."""
    return {'train_cfg.max_iters': iterations, 'train_cfg.val_interval': iterations,
            'param_scheduler.1.begin': iterations // 4, 'param_scheduler.1.end': iterations}


def few_images(count: int) -> dict[str, Any]:
    """Options that evaluate on so many generated images, and the denoising error on twice as many real ones."""
    return {'val_cfg.num_images': count, 'val_evaluator.3.num_images': 2 * count}


def losses(spatial: float, frequency: float, **options: object) -> dict[str, object]:
    """Options for the spatial and the spectral loss of configs/sd/photo_patches_16px.py: weights and other keys.

    Unless given, they are compared where the paper compares, at the output and up1, relative to the size of the
    teacher's maps (features have no fixed scale).
    """
    options = {'tap': ['output', 'up1'], 'relative': True, **options}
    return {f'model.losses.{i}.{key}': value for i, weight in enumerate((spatial, frequency))
            for key, value in {'weight': weight, **options}.items()}
