import json
import math
import sys
import textwrap

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from slimdiff.evaluation import (
    BandwiseDenoisingError,
    FrechetDistance,
    LaplacianSWD,
    RadialSpectrumDistance,
    evaluate,
    noise_floor,
)
from slimdiff.evaluation.common import representative
from slimdiff.evaluation.evaluate import build_metrics, collect_real, quantise, stratified_split
from slimdiff.functional.process import VariancePreserving

METRICS = [dict(type='FrechetDistance'), dict(type='LaplacianSWD', patches_per_image=16, projections=16),
           dict(type='RadialSpectrumDistance')]


class Noise(Dataset):
    """White Gaussian images of standard deviation 0.25, image i from seed i."""

    def __init__(self, length=90, size=20):
        self.length, self.size, self.reads = length, size, 0

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if index >= self.length:
            raise IndexError(index)
        self.reads += 1
        x = 0.25 * torch.randn(3, self.size, self.size, generator=torch.Generator().manual_seed(index))
        return dict(inputs=x.clamp(-1, 1), labels=index % 3)


class Model(nn.Module):
    """Follows the contract of DiffusionModel for data N(0, std^2): sampling and denoising in closed form."""

    num_classes = None
    num_steps = 4

    def __init__(self, std=0.25, size=20):
        super().__init__()
        self.std = nn.Parameter(torch.tensor(std))
        self.size = size
        self.noise_process = VariancePreserving(torch.linspace(0.999, 0.01, 1000, dtype=torch.float64))
        self.calls = []

    def sample(self, indices, seed, labels=None, scheduler=None, num_steps=None, guidance_scale=None, on_step=None):
        assert not self.training and torch.is_inference_mode_enabled()
        self.calls.append((list(indices), num_steps))
        for _ in range(num_steps or self.num_steps):
            on_step()
        images = [torch.randn(3, self.size, self.size, generator=torch.Generator().manual_seed(10**6 * (seed + 1) + i))
                  for i in indices]
        return (self.std * torch.stack(images)).clamp(-1, 1)

    def encode(self, images):
        return images

    def add_noise(self, x0, noise, t):
        a = self.noise_process.alphas_cumprod[t].float().view(-1, 1, 1, 1)
        return a.sqrt() * x0 + (1 - a).sqrt() * noise

    def predict_eps(self, x_t, t, labels=None):
        a = self.noise_process.alphas_cumprod[t].float().view(-1, 1, 1, 1)
        return (1 - a).sqrt() * x_t / (a * self.std**2 + 1 - a)


def loader(**kwargs):
    return DataLoader(Noise(**kwargs), batch_size=32)


def test_figures_of_a_known_model():
    model = Model(std=0.5).train()
    found = evaluate(model, loader(), [dict(type='RadialSpectrumDistance'), BandwiseDenoisingError(draws=3)],
                     num_images=80, batch_size=32, seed=3, progress=False)
    # Four times the variance, a little less where values are clipped.
    assert found['spectrum/power/whole_signed'] == pytest.approx(math.log(4), abs=0.15)
    # The denoiser believes in standard deviation 0.5 where it is 0.25.
    a = model.noise_process.alphas_cumprod
    gain = (1 - a).sqrt() / (a * 0.25 + 1 - a)
    expected = ((gain * (1 - a).sqrt() - 1)**2 + gain**2 * a * 0.0625).mean().item()
    assert found['denoise/total'] == pytest.approx(expected, rel=0.02)
    assert model.training


def test_every_image_once_and_batch_size_changes_nothing():
    results = []
    for batch_size in (7, 50):
        model = Model()
        results.append(evaluate(model, loader(), METRICS, num_images=50, batch_size=batch_size, progress=False,
                                sampling=dict(num_steps=3)))
        assert sorted(i for indices, _ in model.calls for i in indices) == list(range(50))
        assert {steps for _, steps in model.calls} == {3}
    assert results[0] == pytest.approx(results[1], rel=1e-4, abs=1e-6)


def test_real_images_are_read_once_and_generated_ones_forgotten():
    data, metrics, model = loader(), [FrechetDistance(), RadialSpectrumDistance()], Model()
    first = evaluate(model, data, metrics, num_images=40, progress=False)
    assert data.dataset.reads == 98  # 90, and 8 that were looked at before
    assert evaluate(model, data, metrics, num_images=40, progress=False) == first
    assert data.dataset.reads == 98
    evaluate(model, data, metrics, num_images=40, num_real=30, progress=False)
    assert data.dataset.reads == 128 and metrics[0].count(True) == 30


def test_only_model_metrics_sample_nothing():
    model = Model()
    evaluate(model, loader(), [dict(type='BandwiseDenoisingError', num_images=10)], progress=False)
    assert model.calls == []


def test_quantise_is_what_a_png_keeps():
    x = torch.linspace(-1.1, 1.1, 1001)
    stored = ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    torch.testing.assert_close(quantise(x), stored.float() / 127.5 - 1)


def test_floor_is_below_a_wrong_model_and_keeps_the_cache():
    data, metrics = loader(length=120), [FrechetDistance(), LaplacianSWD(16, projections=16), RadialSpectrumDistance()]
    wrong = evaluate(Model(std=0.35), data, metrics, num_images=60, progress=False)
    cached = metrics[0].rows(True)['features']
    floor = noise_floor(data, metrics, num_images=60, num_real=60, progress=False)
    assert metrics[0].rows(True)['features'] is cached
    for name in ('fd', 'swd/20', 'spectrum/power/whole'):
        assert 0 < floor[name]['mean'] + 3 * floor[name]['std'] < wrong[name]
    # The sign of the floor is as often up as down.
    assert abs(floor['spectrum/power/whole_signed']['mean']) < 0.02


def test_floor_shrinks_both_sets_when_there_are_too_few_images():
    floor = noise_floor(loader(length=60), [dict(type='RadialSpectrumDistance')], num_images=60, num_real=60,
                        progress=False)
    assert floor['spectrum/log/top']['std'] > 0
    with pytest.raises(ValueError, match='splits=1'):
        noise_floor(loader(), METRICS, splits=1)


@pytest.mark.parametrize('size', [20, 33, 7])
def test_stratified_split_keeps_the_shares_of_labels(size):
    labels = torch.arange(60) % 3
    first, second = stratified_split(labels, size, torch.Generator().manual_seed(0))
    assert sorted(torch.cat([first, second]).tolist()) == list(range(60)) and len(first) == size
    counts = torch.bincount(labels[first], minlength=3)
    assert counts.max() - counts.min() <= 1
    again, _ = stratified_split(labels, size, torch.Generator().manual_seed(1))
    assert set(again.tolist()) != set(first.tolist())


class ByClass(Noise):
    """As files are: sorted by class, and other crops of the same images in the next epoch."""

    epoch_indexing = True

    def __getitem__(self, index):
        return dict(super().__getitem__(index % self.length), labels=3 * (index % self.length) // self.length)


@pytest.mark.parametrize('count', [3, 30, 90])
def test_real_images_are_spread_over_the_classes(count):
    labels = collect_real(DataLoader(ByClass(), 32), build_metrics(METRICS[-1]), count, progress=False)
    assert labels.tolist() == [0] * (count // 3) + [1] * (count // 3) + [2] * (count // 3)


def test_real_images_of_a_data_set_that_is_gone_are_not_those_of_the_next():
    metric, ids = build_metrics(METRICS[-1]), set()
    for size in (16, 18, 20) * 5:  # that have the same id, where the first one is gone
        data = Noise(length=4, size=size)
        assert collect_real(DataLoader(data, 4), metric, progress=False) is not None
        ids.add(id(data))
        del data
    assert len(ids) > 1


def test_which_images_stand_for_a_data_set():
    data = Noise(length=10)
    assert list(representative(data, 4)) == [0, 2, 5, 7] and list(representative(data, 10)) == list(range(10))
    data.random_order = True
    assert list(representative(data, 4)) == [0, 1, 2, 3]
    data.fresh_epochs = True
    assert list(representative(data, 12)) == list(range(12))


def test_other_crops_of_the_same_images_are_no_more_images():
    data = DataLoader(ByClass(), 32)
    with pytest.raises(ValueError, match='has 90 images, 91 were asked for'):
        collect_real(data, build_metrics(METRICS[-1]), 91, progress=False)
    settings = dict(metrics=METRICS[-1:], num_images=90, splits=3, progress=False)
    found = noise_floor(data, num_real=90, **settings)
    data.dataset.epoch_indexing = False
    assert found == noise_floor(data, num_real=90, **settings)


def test_errors_name_what_is_wrong():
    with pytest.raises(ValueError, match="Did you mean 'FrechetDistance'"):
        evaluate(Model(), loader(), [dict(type='FrechetDistanc')])
    with pytest.raises(ValueError, match='has 90 images, 91 were asked for'):
        evaluate(Model(), loader(), METRICS, num_real=91)
    with pytest.raises(ValueError, match='num_images=0'):
        evaluate(Model(), loader(), METRICS, num_images=0)
    with pytest.raises(ValueError, match='at least 2 generated images, got 1'):
        evaluate(Model(), loader(), METRICS, num_images=1, progress=False)
    with pytest.raises(ValueError, match='generated images hold NaN'):
        evaluate(Model(std=float('nan')), loader(), METRICS, num_images=4, progress=False)


def test_two_processes_give_the_figures_of_one(tmp_path, tiny_process):
    script = tmp_path / 'run.py'
    script.write_text(textwrap.dedent('''
        import importlib.util, json, sys
        import torch
        import torch.distributed as dist
        from slimdiff.engine.distributed import leave_at_exit
        from slimdiff.evaluation import evaluate, noise_floor
        spec = importlib.util.spec_from_file_location('shared', sys.argv[1])
        shared = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(shared)
        rank, world = int(sys.argv[2]), int(sys.argv[3])
        if world > 1:
            dist.init_process_group('gloo', init_method='file://' + sys.argv[4] + '.store', rank=rank, world_size=world)
            leave_at_exit()
        metrics = shared.METRICS + [dict(type='BandwiseDenoisingError', num_images=13)]
        # 45 images and 13 pairs: neither halves evenly. One image leaves a rank with nothing.
        found = evaluate(shared.Model(), shared.loader(length=45), metrics, num_images=31, batch_size=8, progress=False)
        few = evaluate(shared.Model(), shared.loader(length=45), shared.METRICS[2:], num_images=1, progress=False)
        floor = noise_floor(shared.loader(length=45), shared.METRICS, 20, 20, progress=False)
        with open(f'{sys.argv[4]}.{rank}', 'w') as file:
            json.dump([found, few, {k: v['mean'] for k, v in floor.items()}], file)
    '''))
    def launch(world):
        out = str(tmp_path / f'world{world}')
        running = [tiny_process(__file__, rank, world, out, command=[sys.executable, script]) for rank in range(world)]
        printed = [process.communicate(timeout=120)[0] for process in running]
        assert [process.returncode for process in running] == [0] * world, printed
        return [json.load(open(f'{out}.{rank}')) for rank in range(world)]

    one, (first, second) = launch(1)[0], launch(2)
    assert first == second
    for a, b in zip(first, one):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-6)
