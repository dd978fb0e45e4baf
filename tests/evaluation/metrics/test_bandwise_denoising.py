import pytest
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import std

from slimdiff import progress
from slimdiff.evaluation import BandwiseDenoisingError, evaluate
from slimdiff.evaluation.common import representative
from slimdiff.functional.spectrum import band_masks, radial_frequency
from slimdiff.models import DiffusionModel
from studies.blur import BlurredWiener

SIZE = 16


class GaussianField(Dataset):
    """Stationary Gaussian images of a known spectrum: the one data set whose best denoiser has a closed form."""

    def __init__(self, length):
        self.length = length
        self.spectrum = 1 / (0.05 + 20 * radial_frequency(SIZE, SIZE).float()**2)

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        white = torch.randn(3, SIZE, SIZE, generator=torch.Generator().manual_seed(index))
        return dict(inputs=torch.fft.ifft2(torch.fft.fft2(white) * self.spectrum.sqrt()).real)


@pytest.fixture(scope='module')
def setup():
    data = GaussianField(300)
    return DataLoader(data, batch_size=64), BlurredWiener(data.spectrum)


def test_error_of_the_wiener_filter_equals_its_closed_form(setup):
    loader, model = setup
    metric = BandwiseDenoisingError(timestep_edges=(0, 300, 1000), draws=2)
    found = metric.evaluate(model, loader)
    a = model.noise_process.alphas_cumprod.view(-1, 1, 1)
    # Per frequency: a S / (a S + 1 - a); then the mean over timesteps and the share of each band.
    error = a * model.spectrum / (a * model.spectrum + 1 - a)
    masks = band_masks(SIZE, SIZE, (0.125, 0.25))
    for name, part in (('t0-300', error[:300]), ('t300-1000', error[300:])):
        expected = part.mean(0)
        assert found[f'denoise/{name}'] == pytest.approx(expected.mean().item(), rel=0.05)
        for band, mask in zip(('low', 'mid', 'top'), masks):
            share = (expected * mask).sum().item() / SIZE**2
            stderr = found[f'denoise/{name}/{band}_stderr']
            assert abs(found[f'denoise/{name}/{band}'] - share) < max(4 * stderr, 0.02 * share)
    assert found['denoise/total'] == pytest.approx(error.mean().item(), rel=0.05)


def test_bands_and_bins_add_up_by_parseval(setup):
    loader, model = setup
    metric = BandwiseDenoisingError(num_images=50, stderr=False)
    found = metric.evaluate(model, loader)
    bins = ('t0-100', 't100-300', 't300-600', 't600-900', 't900-1000')
    bands = ('low', 'mid', 'top')
    for name in bins:
        assert found[f'denoise/{name}'] == pytest.approx(sum(found[f'denoise/{name}/{band}'] for band in bands))
    widths = (100, 200, 300, 300, 100)
    total = sum(found[f'denoise/{name}'] * width for name, width in zip(bins, widths)) / 1000
    assert found['denoise/total'] == pytest.approx(total)
    assert found['denoise/total'] == pytest.approx(sum(found[f'denoise/{band}'] for band in bands))


def test_total_equals_the_pixel_mean_square_of_the_same_draws(setup):
    loader, model = setup
    metric = BandwiseDenoisingError(num_images=10, timestep_edges=(0, 1000))
    errors = []
    for i in representative(loader.dataset, 10):
        x0 = loader.dataset[i]['inputs'][None]
        t = int(metric._timestep(i, 0, 0, 0, 1000))
        noise = metric._noise(i, t, x0.shape[1:])[None]
        t = torch.tensor([t])
        errors.append((model.predict_eps(model.add_noise(x0, noise, t), t) - noise).square().mean())
    torch.testing.assert_close(metric.table(model, loader).sum((1, 2)), torch.stack(errors).double(), rtol=1e-5, atol=0)


def test_numbers_are_paired_and_do_not_depend_on_the_batch_size(setup):
    loader, model = setup
    metric = BandwiseDenoisingError(num_images=40)
    table = metric.table(model, loader)
    other = metric.table(model, DataLoader(loader.dataset, batch_size=7))
    torch.testing.assert_close(table, other, rtol=1e-4, atol=1e-9)
    worse = metric.table(BlurredWiener(0.8 * loader.dataset.spectrum), loader)
    difference = (worse - table).sum((1, 2))
    # The point of pairing: the difference is known far better than either of the two.
    assert difference.std() < 0.5 * table.sum((1, 2)).std() and difference.mean() > 0
    assert not torch.allclose(table, BandwiseDenoisingError(num_images=40, seed=1).table(model, loader))


def test_timesteps_cover_their_part_of_the_bin():
    metric = BandwiseDenoisingError(draws=4)
    times = [[metric._timestep(i, 1, d, 100, 300) for d in range(4)] for i in range(200)]
    for d in range(4):
        column = [row[d] for row in times]
        assert 100 + 50 * d <= min(column) and max(column) < 150 + 50 * d
        assert len(set(column)) > 30


@pytest.mark.parametrize('arguments, message', [
    (dict(timestep_edges=(0, 300, 200)), 'timestep_edges'),
    (dict(band_edges=(0.2, )), 'band_names'),
    (dict(draws=0), 'draws=0'),
])
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        BandwiseDenoisingError(**arguments)


def test_bins_beyond_the_schedule_are_refused(setup):
    loader, model = setup
    with pytest.raises(ValueError, match='1000 timesteps'):
        BandwiseDenoisingError(timestep_edges=(0, 4000)).evaluate(model, loader)


class Captioned(Dataset):
    def __init__(self, captions):
        self.captions = captions

    def __len__(self):
        return len(self.captions)

    def __getitem__(self, index):
        image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(index)) * 2 - 1
        return dict(inputs=image, caption=self.captions[index], labels=index % 2)


def test_a_model_of_text_and_classes_sees_its_conditions():
    """By hand: the prediction with the caption's context and the label, at the metric's own timestep and noise."""
    network = dict(type='UNet', sample_size=8, norm_groups=4, context_channels=6,
                   stages=[dict(channels=8, blocks=1, heads=2, cross_attention=True, downsample=False)])
    model = DiffusionModel(unet=network, num_classes=2, conditioner=dict(type='RandomText', channels=6)).eval()
    for parameter in model.unet.parameters():  # zero-initialised layers would hide the conditions
        torch.nn.init.normal_(parameter, std=.1)
    metric = BandwiseDenoisingError(timestep_edges=(0, 500, 1000))
    data = Captioned(['a house', 'a tree', 'a cat'])
    table = metric.table(model, DataLoader(data, batch_size=2))
    for k in range(3):
        x0 = data[k]['inputs'][None]
        context, label = model.conditioner([data[k]['caption']]), torch.tensor([k % 2])
        for b, (start, stop) in enumerate(((0, 500), (500, 1000))):
            t = int(metric._timestep(k, b, 0, start, stop))
            noise, times = metric._noise(k, t, x0.shape[1:])[None], torch.tensor([t])
            with torch.no_grad():
                found = model.predict_eps(model.add_noise(x0, noise, times), times, label, context)
            assert table[k, b].sum().item() == pytest.approx((found - noise).square().mean().item(), rel=1e-4)
    other = metric.table(model, DataLoader(Captioned(['a house', 'a boat', 'a cat']), batch_size=2))
    assert torch.equal(other[::2], table[::2]) and (other[1] - table[1]).abs().max() > 1e-4
    with pytest.raises(ValueError, match="has a conditioner, but the batch has no 'caption'"):
        metric.table(model, DataLoader([dict(inputs=x0[0], labels=0)]))


def test_it_shows_its_progress_within_a_batch(setup, monkeypatch):
    """A large network takes minutes for a batch: the bar moves at each of its forwards."""
    lines, now = [], [0.0]
    monkeypatch.setattr(progress, 'print_log', lambda line, **_: lines.append(line))

    def tick():
        now[0] += 11
        return now[0]

    monkeypatch.setattr(std, 'time', tick)
    metric = BandwiseDenoisingError(num_images=4, timestep_edges=(0, 300, 1000), draws=2)
    for shown, expected in ((True, ['1', '2', '3', '4']), (False, [])):
        lines.clear()
        evaluate(setup[1], setup[0], [metric], progress=shown)
        assert [line.split('/')[0] for line in lines] == [f'denoising error {i}' for i in expected]
