"""Images of one channel go through every command, picture and metric."""

import copy

import numpy as np
import pytest
import torch
from idx_files import write_idx
from PIL import Image

import slimdiff.evaluation.metrics.fid as fid_module
from slimdiff.cli.browse_dataset import main as browse
from slimdiff.cli.sample import main as sample
from slimdiff.configuration import load_config
from slimdiff.datasets import FashionMNIST, build_dataloader
from slimdiff.engine.hooks.spectrum_plot import mean_spectrum
from slimdiff.evaluation import FID, KID, evaluate
from slimdiff.export.folder import export_pipeline
from slimdiff.export.pipeline import SlimDiffusionPipeline
from slimdiff.registry import MODELS
from slimdiff.sampling.images import to_uint8
from studies.side_by_side import image_rows

CONFIG = '''
model = dict(type='DiffusionModel', num_classes=10, num_steps=2, sigma_data=.5,
             unet=dict(type='UNet', sample_size=32, in_channels=1, out_channels=1, norm_groups=4,
                       stages=[dict(channels=8, blocks=1), dict(channels=8, blocks=1, downsample=False)],
                       downsampler=dict(type='WaveletGatedDown'), upsampler=dict(type='WaveletGatedUp')))
val_dataloader = dict(batch_size=8, sampler=dict(type='DefaultSampler', shuffle=False),
                      dataset=dict(type='FashionMNIST', data_root='.', split='test'))
'''


@pytest.fixture
def folder(model_folder):
    folder = model_folder(CONFIG)
    write_idx(folder, 30, split='test')
    return folder


@pytest.fixture
def model(folder):
    model = MODELS.build(load_config('config.py').model)
    model.unet.load_state_dict(type(model.unet).from_pretrained('unet').state_dict())
    return model.eval()


def test_files_and_grids_are_grey_and_show_the_samples(folder, model):
    assert sample(['config.py', 'unet', '-n', '3', '--out', 'files']) == 0
    assert sample(['config.py', 'unet', '-n', '3', '--out', 'grid.png', '--columns', '3']) == 0
    assert sample(['config.py', 'unet', '-n', '3', '--out', 'all.npz']) == 0
    expected = to_uint8(model.sample(range(3), seed=0))[:, 0].numpy()
    files = [Image.open(f'files/{i:06d}.png') for i in range(3)]
    assert [image.mode for image in files] == ['L'] * 3 and Image.open('grid.png').mode == 'L'
    np.testing.assert_array_equal(np.stack([np.asarray(image) for image in files]), expected)
    np.testing.assert_array_equal(np.asarray(Image.open('grid.png'))[:, :32], expected[0])
    np.testing.assert_array_equal(np.load('all.npz')['images'][..., 0], expected)


def test_the_pipeline_gives_grey_pictures(folder, model):
    export_pipeline(model, folder / 'exported')
    pipeline = SlimDiffusionPipeline.from_pretrained(folder / 'exported')
    pipeline.set_progress_bar_config(disable=True)
    image, = pipeline(labels=[3], num_inference_steps=2, generator=torch.Generator().manual_seed(0)).images
    assert image.mode == 'L' and image.size == (32, 32) and np.asarray(image).std() > 1


def test_browse_dataset_draws_the_pixels(folder):
    assert browse(['config.py', '--split', 'val', '-n', '1', '--zoom', '1', '--out', 'data.png']) == 0
    picture = np.asarray(Image.open('data.png'))[:32, :32]
    expected = ((FashionMNIST('.', 'test')[0]['inputs'][0] + 1) * 127.5).round().byte().numpy()
    np.testing.assert_array_equal(picture, np.repeat(expected[..., None], 3, 2))


def test_side_by_side_shows_grey_as_grey():
    images = torch.tensor([0, 100], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 1, 2, 2)
    assert image_rows(images, 1, 2).tolist() == [[[0] * 3] * 2 + [[255] * 3] + [[100] * 3] * 2] * 2


def test_the_spectrum_of_grey_images_is_that_of_their_channel():
    images = torch.rand(4, 1, 16, 16)
    torch.testing.assert_close(mean_spectrum(images)[1], mean_spectrum(images.repeat(1, 3, 1, 1))[1])


class Repeated(torch.nn.Module):
    """A model's images in three equal channels."""

    num_classes, num_steps = 10, 2

    def __init__(self, model):
        super().__init__()
        self.model = model

    def sample(self, *args, **kwargs):
        return self.model.sample(*args, **kwargs).repeat(1, 3, 1, 1)


def test_metrics_of_grey_images_are_those_of_three_equal_channels(folder, model, monkeypatch):
    class Colours(torch.nn.Module):
        def forward(self, images):
            return images.float().flatten(2).mean(2) / 255 * torch.tensor([1., 2., 3.])

    monkeypatch.setattr(fid_module, 'build_inception', lambda weights: Colours())
    metrics = [dict(type='FrechetDistance'), dict(type='KernelDistance'), dict(type='RadialSpectrumDistance')]
    loader = build_dataloader(load_config('config.py').val_dataloader, seed=0)
    grey = evaluate(model, loader, [*metrics, FID(), KID(), dict(type='LaplacianSWD'),
                                    dict(type='BandwiseDenoisingError')], num_images=20, progress=False)
    assert np.isfinite(list(grey.values())).all() and {'swd/32', 'denoise/total'} <= set(grey)
    data = copy.copy(loader.dataset)
    data._images = data._images.repeat(3, 1)
    three = torch.utils.data.DataLoader(data, batch_size=8)
    figures = evaluate(Repeated(model), three, [*metrics, FID(), KID()], num_images=20, progress=False)
    assert {name: grey[name] for name in figures} == pytest.approx(figures, rel=1e-4, abs=1e-6)
