"""Training runs from encoded latents: they equal those from images, and never load the encoder."""

import pytest
import tiny_run
import torch
from first_stages import tiny_vq

from slimdiff.checkpoint.files import load_checkpoint
from slimdiff.cli.encode_latents import main as encode
from slimdiff.models.autoencoders import pretrained

SOURCE = dict(type='PhotoPatches', image_size=16, length=12)


@pytest.fixture
def model(tmp_path):
    tiny_vq(tmp_path / 'vq')
    return dict(type='DiffusionModel', num_steps=2,
                autoencoder=dict(type='VQAutoencoder', checkpoint=str(tmp_path / 'vq')),
                unet=dict(type='UNet', sample_size=8, norm_groups=4, stages=[dict(channels=8, blocks=1)]))


@pytest.fixture
def latents(tmp_path, model):
    """The folder of the encoded images."""
    config = tmp_path / 'encode.py'
    config.write_text(f'model = {model!r}\ntrain_dataloader = dict(batch_size=2, sampler=dict(type="ResumableSampler"),'
                      f' dataset={SOURCE!r})\n')
    assert encode([str(config), '--out', str(tmp_path / 'latents'), '--dtype', 'float32', '--batch-size', '4']) == 0
    return str(tmp_path / 'latents')


def run(folder, model, dataset, **changes):
    runner = tiny_run.build(folder, max_iters=4, model=model, train_dataloader__batch_size=4,
                            train_dataloader__dataset={'_delete_': True, **dataset}, **changes)
    runner.train()
    return runner


class InOrder(torch.utils.data.Dataset):
    """Images without ``epoch_indexing``: in every epoch the crops that were encoded."""

    metainfo = {}

    def __init__(self):
        from slimdiff.datasets import PhotoPatches
        self.samples = list(PhotoPatches(image_size=16, length=12))

    def __len__(self):
        return 12

    def __getitem__(self, k):
        return self.samples[k]


def test_a_run_from_latents_is_the_run_from_images(tmp_path, model, latents, monkeypatch):
    images = tiny_run.build(tmp_path / 'images', max_iters=4, model=model, train_dataloader__batch_size=4)
    images._train_dataloader['dataset'] = InOrder()
    images.train()
    monkeypatch.setattr(pretrained.loading, 'load_network', None)  # would be a TypeError
    runner = run(tmp_path / 'run', model, dict(type='LatentDataset', data_root=latents))
    assert not runner.unwrapped_model.autoencoder.loaded
    a = [float.fromhex(v) for v in tiny_run.trace(tmp_path / 'images').values()]
    b = [float.fromhex(v) for v in tiny_run.trace(tmp_path / 'run').values()]
    # The encoder rounds batches of other images otherwise.
    assert a == pytest.approx(b, rel=1e-4) and len(set(a)) == 4
    checkpoint = load_checkpoint(tmp_path / 'run/iter_4.pth')
    names = [*checkpoint['state_dict'], *checkpoint['ema']['state_dict']]
    assert all(name.startswith('unet.') for name in names)
    resumed = tiny_run.build(tmp_path / 'run', max_iters=6, model=model, train_dataloader__batch_size=4, resume=True,
                             train_dataloader__dataset=dict(_delete_=True, type='LatentDataset', data_root=latents))
    resumed.train()
    assert (tmp_path / 'run/iter_6.pth').exists()


def test_latents_that_do_not_fit_are_refused_before_anything_is_written(tmp_path, model, latents):
    tiny_vq(tmp_path / 'other', seed=1)
    data = dict(type='LatentDataset', data_root=latents)
    for change, message in ((dict(checkpoint=str(tmp_path / 'other')), 'of another first stage'),
                            (dict(latent_scale=0.18215), r'latent_scale is 0\.18215, but'),
                            (dict(type='KLAutoencoder', checkpoint=None), 'is a KLAutoencoder')):
        changed = {**model, 'autoencoder': {**model['autoencoder'], **change}}
        with pytest.raises(ValueError, match=message):
            run(tmp_path / 'refused', changed, data)
    assert not list((tmp_path / 'refused').glob('*.py')) and not list((tmp_path / 'refused').glob('*.pth'))


def test_a_missing_first_stage_is_said_before_training_on_images(tmp_path, model):
    model['autoencoder']['checkpoint'] = str(tmp_path / 'gone')
    with pytest.raises(ValueError, match='is not there'):
        run(tmp_path / 'run', model, SOURCE)


def test_a_data_set_without_what_the_model_learns_from_is_refused_before_anything_is_written(tmp_path, model):
    model['num_classes'] = 12
    run(tmp_path / 'run', model, SOURCE)  # each photograph is a class
    with pytest.raises(ValueError, match='has no labels: use a dataset with labels'):
        run(tmp_path / 'refused', model, dict(type='RandomSamples', key='inputs', shape=[3, 16, 16], length=12))
    assert not list((tmp_path / 'refused').glob('*.py'))


def test_spectra_without_validation_images(tmp_path, model, latents):
    run(tmp_path / 'run', model, dict(type='LatentDataset', data_root=latents),
        custom_hooks=[dict(type='SpectrumPlotHook', interval=4, num_images=4)])
    assert (tmp_path / 'run/spectra/iter_4.png').exists()
