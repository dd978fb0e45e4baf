"""Measure the networks that ``studies/together.py`` trained: sets of samples against real images.

    python studies/compare_networks.py work_dirs/central --model Teacher/0=configs/ldm/fashion_mnist.py
    python studies/compare_networks.py work_dirs/central --sampler-study SD/0 [--steps 10 25 50]
    python studies/compare_networks.py benchmarks/results/fashion_mnist --table
    python studies/compare_networks.py work_dirs/central --model ... --picture samples.png Teacher/0 SD/0 Lite/0

Frechet distance on trained features (EfficientNetLite0, not FID), class accuracy and signed radial spectrum of
``--num-images`` samples against the test set, with the sampler of the config; every network starts from the same noise
and labels. Next to them the paired denoising error on ``--num-images`` test images: all, and the top band below
timestep 300. ``--sampler-study`` gives the figures of the samples of one network for several samplers and numbers of
steps. Results are kept row by row in ``comparison.json`` or ``samplers.json``: the same command goes on where it was
stopped, and measures what a row lacks.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from slimdiff.checkpoint import write_json
from slimdiff.cli.common import use_allocation
from slimdiff.configuration import load_config
from slimdiff.datasets import build_dataloader
from slimdiff.evaluation.evaluate import quantise
from slimdiff.evaluation.metrics.frechet import gaussian_moments, sqrt_psd
from slimdiff.installation import shipped_weights
from slimdiff.models.serving import serving_config
from slimdiff.registry import DATASETS, METRICS, MODELS
from slimdiff.sampling import build_scheduler, denoise, image_generators, initial_noise

SAMPLERS = {'DDIM': dict(type='DDIMScheduler'), 'DDIM, no clipping': dict(type='DDIMScheduler', clip_sample=False),
            'DPM-Solver++ 2M': dict(type='DPMSolverMultistepScheduler'),
            'UniPC': dict(type='UniPCMultistepScheduler'), 'Heun': dict(type='HeunDiscreteScheduler')}
SIZES = (64, 32)  # of the extractor's input
STEPS = (5, 10, 15, 20, 25, 35, 50, 100)


class Yardstick:
    """Real images, and figures of a set of generated ones against them."""

    def __init__(self, cfg: Any, num_images: int, classifier: str | None, device: torch.device) -> None:
        dataset = DATASETS.build(cfg.test_dataloader.dataset)
        items = [dataset[i] for i in range(num_images)]
        real, labels = torch.stack([item['inputs'] for item in items]), torch.tensor([item['labels'] for item in items])
        self.device = device
        self.frechet = {size: METRICS.build(dict(
            type='FrechetDistance', extractor=dict(type='EfficientNetLite0', size=size))) for size in SIZES}
        self.spectrum = METRICS.build(dict(type='RadialSpectrumDistance'))
        self.classifier = None if not classifier or not Path(classifier).exists() else METRICS.build(
            dict(type='ClassAccuracy', classifier=classifier)).extractor.to(device)
        classes = 1 + int(labels.max())
        self.labels = torch.arange(num_images) % classes
        features, self.real_spectrum = self._statistics(real)
        self.moments = {size: gaussian_moments(found) for size, found in features.items()}
        self.roots = {size: sqrt_psd(cov) for size, (_, cov) in self.moments.items()}
        self.real = dict(class_accuracy=self._accuracy(real, labels),
                         floor_of_halves={f'fd_efficientnet_{size}': floor(found) for size, found in features.items()})

    @torch.inference_mode()
    def _statistics(self, images: Tensor) -> tuple[dict[int, Tensor], dict[str, Tensor]]:
        features: dict[int, list[Tensor]] = {size: [] for size in SIZES}
        rows = []
        for part in images.split(1000):
            part = part.to(self.device)
            for size in SIZES:
                features[size].append(self.frechet[size].statistics(part)['features'])
            rows.append(self.spectrum.statistics(part))
        return ({size: torch.cat(found) for size, found in features.items()},
                {key: torch.cat([row[key] for row in rows]).cpu() for key in rows[0]})

    @torch.inference_mode()
    def _accuracy(self, images: Tensor, labels: Tensor) -> float | None:
        if self.classifier is None:
            return None
        found = torch.cat([self.classifier(part.to(self.device)).argmax(1).cpu() for part in images.split(2000)])
        return (found == labels).double().mean().item()

    def figures(self, images: Tensor) -> dict[str, float | None]:
        features, spectrum = self._statistics(images)
        distances = {f'fd_efficientnet_{size}': distance(*self.moments[size], self.roots[size],
                                                         *gaussian_moments(found))
                     for size, found in features.items()}
        return {**distances, 'class_accuracy': self._accuracy(images, self.labels),
                **self.spectrum.distance(self.real_spectrum, spectrum)}


def distance(mean: Tensor, cov: Tensor, root: Tensor, other_mean: Tensor, other_cov: Tensor) -> float:
    """The Frechet distance, with the trace of the root of C1 C2 from the symmetric C1^(1/2) C2 C1^(1/2)."""
    cross = torch.linalg.eigvalsh(root @ other_cov @ root).clamp_min(0).sqrt().sum()
    return ((mean - other_mean).square().sum() + cov.trace() + other_cov.trace() - 2 * cross).item()


def floor(features: Tensor) -> float:
    """One half of the real images against the other: more than so many against as many again would have."""
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(0)).to(features.device)
    half = len(order) // 2
    one, other = (gaussian_moments(features[part]) for part in (order[:half], order[half:]))
    return distance(*one, sqrt_psd(one[1]), *other)


@torch.inference_mode()
def sample(model: Any, labels: Tensor, noise: Tensor, scheduler: Mapping[str, Any] | None, steps: int | None,
           batch: int) -> Tensor:
    """Images as 8-bit values in [-1, 1], on the CPU."""
    sampler = model.sampler if scheduler is None else build_scheduler(scheduler, base=model.noise_scheduler)
    images = []
    for x, own in zip(noise.split(batch), labels.split(batch)):
        own = own.to(model.device)
        images.append(denoise(lambda x, t, own=own: model.predict(x, t, own).float(), sampler, x.to(model.device),
                              steps or model.num_steps))
    return quantise(torch.cat(images).clamp(-1, 1)).cpu()


def denoising_errors(model: Any, loader: Any, num_images: int) -> dict[str, float]:
    """Of the real images, with the same timesteps and noise for every model."""
    metric = METRICS.build(dict(type='BandwiseDenoisingError', num_images=num_images, timestep_edges=(0, 300, 1000),
                                stderr=False))
    return metric.evaluate(model, loader)


def trained_arms(folder: Path) -> list[str]:
    """``NAME=CONFIG[@SEEDS]`` of the networks that were trained into this folder."""
    path = folder / 'training.json'
    return json.loads(path.read_text())['arms'] if path.is_file() else []


def networks(folder: Path, device: torch.device, others: Sequence[str]) -> dict[str, Any]:
    """Name/seed -> a function that builds the model with its weights."""
    weights = {key: value for path in sorted(folder.glob('weights_*.safetensors')) for key, value in
               load_file(path).items()}
    found: dict[str, Any] = {}
    for arm in trained_arms(folder):
        name, _, rest = arm.partition('=')
        config = rest.partition('@')[0]
        for seed in sorted({key.split('/')[1] for key in weights if key.startswith(f'{name}/')}):
            prefix = f'{name}/{seed}/'
            state = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
            found[prefix[:-1]] = lambda config=config, state=state: load(config, state, device)
    for other in others:
        name, _, rest = other.partition('=')
        config, where, allocation = (*rest.split(','), '', '')[:3]
        weights_folder = Path(where) if where else shipped_weights(Path(config))
        if weights_folder is None:
            raise SystemExit(f'--model {other}: {config} came without weights. Give a folder of export: '
                             'NAME=CONFIG,FOLDER.')
        found[name] = lambda config=config, folder=weights_folder, allocation=allocation: load(config, load_file(
            folder / 'unet/diffusion_pytorch_model.safetensors'), device, allocation)
    return found


def load(config: str, state: Mapping[str, Tensor], device: torch.device, allocation: str = '') -> Any:
    """The model with these weights; step-aware, if there is a file that says which width each step gets."""
    model = MODELS.build(serving_config(load_config(config).model))
    if not all(key in state for key in model.unet.state_dict()):  # saved before preconditioning was a wrapper
        state = {f'network.{key}': value for key, value in state.items()}
    model.unet.load_state_dict(state)
    use_allocation(model, allocation or None)
    return model.to(device).eval()


#: figure -> title, format, factor
COLUMNS = {'fd_efficientnet_64': ('Frechet distance', '.0f', 1), 'class_accuracy': ('class accuracy', '.3f', 1),
           'spectrum/log/top_signed': ('log spectrum, top half', '+.3f', 1),
           'denoise/total': ('denoising error x 1000', '.2f', 1000),
           'denoise/t0-300/top': ('its top band, t < 300', '.3f', 1000)}


def table(rows: Mapping[str, Mapping[str, float]], base: str = 'Lite') -> str:
    """Mean and standard deviation over seeds, and the difference from ``base`` paired by seed with its p (t test)."""
    from scipy.stats import ttest_1samp
    arms: dict[str, dict[str, Mapping[str, float]]] = {}
    for name, row in rows.items():
        arm, _, seed = name.partition('/')
        arms.setdefault(arm, {})[seed] = row
    lines = ['| | seeds | ' + ' | '.join(f'{title} | against {base}' for title, *_ in COLUMNS.values()) + ' |',
             '|---|---|' + '---|---|' * len(COLUMNS)]
    for arm, by_seed in arms.items():
        cells = [arm, str(len(by_seed))]
        for key, (_, form, factor) in COLUMNS.items():
            measured = {seed: factor * row[key] for seed, row in by_seed.items() if key in row}
            values = torch.tensor(list(measured.values()), dtype=torch.float64)
            spread = f' ± {values.std():{form.lstrip("+")}}' if len(values) > 1 else ''
            few = f' (n = {len(values)})' if len(values) < len(by_seed) else ''
            cells.append(f'{values.mean():{form}}{spread}{few}' if measured else '')
            pairs = [value - factor * arms[base][seed][key] for seed, value in measured.items()
                     if key in arms[base].get(seed, {})]
            paired = arm != base and len(pairs) > 2
            cells.append(f'{sum(pairs) / len(pairs):+{form.lstrip("+")}} (p = {ttest_1samp(pairs, 0).pvalue:.2g})'
                         if paired else '')
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def picture(path: str, cfg: Any, builders: Mapping[str, Any], noise: Tensor, labels: Tensor) -> None:
    """A row of real images, and one of each network's samples from the same noise and labels."""
    from matplotlib import pyplot as plt
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    first = {}
    for i in range(500):
        first.setdefault((int(dataset[i]['labels']), sum(key[0] == int(dataset[i]['labels']) for key in first)), i)
    wanted = [(int(label), int((labels[:k] == label).sum())) for k, label in enumerate(labels)]
    rows = {'real': torch.stack([dataset[first[key]]['inputs'] for key in wanted])}
    rows |= {name.partition('/')[0]: sample(build(), labels, noise, None, None, len(labels))
             for name, build in builders.items()}
    figure, axes = plt.subplots(len(rows), figsize=(len(labels) * 0.55, len(rows) * 0.62))
    for axis, (name, images) in zip(axes, rows.items()):
        strip = torch.cat(list(images.squeeze(1)), 1).float()
        axis.imshow(strip, cmap='gray', vmin=-1, vmax=1, interpolation='nearest')
        axis.set_xticks([])
        axis.set_yticks([strip.shape[0] / 2], [name])
        axis.tick_params(length=0)
        for spine in axis.spines.values():
            spine.set_visible(False)
    figure.tight_layout(pad=0.2)
    figure.savefig(path, dpi=110, bbox_inches='tight')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path, help='of studies/together.py')
    parser.add_argument('--model', nargs='+', default=[], metavar='NAME/SEED=CONFIG[,FOLDER[,ALLOCATION]]',
                        help='also measure exported models; without a folder, those that came with slimdiff')
    parser.add_argument('--sampler-study', metavar='NAME/SEED', help='one network, many samplers')
    parser.add_argument('--steps', type=int, nargs='+', default=STEPS, help='of --sampler-study')
    parser.add_argument('--picture', nargs='+', metavar='FILE', help='FILE NAME/SEED ...: samples in rows, and stop')
    parser.add_argument('--table', action='store_true', help='print what comparison.json holds')
    parser.add_argument('--num-images', type=int, default=10_000)
    parser.add_argument('--batch-size', type=int, default=2500)
    parser.add_argument('--classifier', default='configs/classifiers/fashion_mnist.safetensors', help="'' for none")
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    args = parser.parse_args()
    if args.table:
        print(table(json.loads((args.folder / 'comparison.json').read_text())['rows']))
        return
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    device = torch.device(args.device)
    models = networks(args.folder, device, args.model)
    first = [*trained_arms(args.folder), *args.model][0].partition('=')[2]
    cfg = load_config(first.partition(',')[0].partition('@')[0])
    if args.picture:
        path, *names = args.picture
        count, side = 20, cfg.model.unet.sample_size
        noise = initial_noise((cfg.model.unet.get('in_channels', 3), side, side), image_generators(0, range(count)),
                              torch.device('cpu'))
        picture(path, cfg, {name: models[name] for name in names}, noise, torch.arange(count) % cfg.model.num_classes)
        return
    path = args.folder / ('samplers.json' if args.sampler_study else 'comparison.json')
    result = json.loads(path.read_text()) if path.exists() else {}
    rows = result.setdefault('rows', {})
    here = dict(num_images=args.num_images, torch=torch.__version__,
                hardware=torch.cuda.get_device_name(device) if device.type == 'cuda' else 'CPU')
    if args.sampler_study:
        model = models[args.sampler_study]()
        result['network'] = args.sampler_study
        jobs = {f'{name}, {steps} steps': (lambda: model, config, steps)
                for steps in args.steps for name, config in SAMPLERS.items()}
    else:
        jobs = {name: (build, None, None) for name, build in models.items()}
    if lacking := {name: job for name, job in jobs.items() if 'class_accuracy' not in rows.get(name, {})}:
        yardstick = Yardstick(cfg, args.num_images, args.classifier, device)
        size = cfg.model.unet.sample_size
        noise = initial_noise((cfg.model.unet.get('in_channels', 3), size, size),
                              image_generators(0, range(args.num_images)), torch.device('cpu'))
        result |= here | dict(real=yardstick.real)
        for name, (build, scheduler, steps) in tqdm(lacking.items()):
            start = time.perf_counter()
            images = sample(build(), yardstick.labels, noise, scheduler, steps, args.batch_size)
            keep(path, result, name, {**yardstick.figures(images), 'seconds': round(time.perf_counter() - start, 2)})
    lacking = {name: build for name, build in models.items() if 'denoise/total' not in rows.get(name, {})}
    if lacking and not args.sampler_study:
        result['denoising'] = here
        loader = build_dataloader(cfg.test_dataloader)
        for name, build in tqdm(lacking.items()):
            keep(path, result, name, denoising_errors(build(), loader, args.num_images))


def keep(path: Path, result: dict[str, Any], name: str, figures: Mapping[str, float | None]) -> None:
    """Add a network's figures to the file, and say them."""
    result['rows'].setdefault(name, {}).update(figures)
    write_json(path, result)
    print(name, {key: round(value, 5) for key, value in figures.items() if value is not None}, flush=True)


if __name__ == '__main__':
    main()
