"""Train every arm and seed of a study at once, on one GPU.

    python studies/together.py --arm Lite=configs/lite_ldm/fashion_mnist.py --arm SD=configs/sd/fashion_mnist.py \
        --seeds 0 1 2 --iterations 10000 --out work_dirs/together

Networks of some 20 M MACs leave a GPU idle: launching a kernel takes longer than running it. So the training step of
all arms of a seed is one CUDA graph in which each arm is a branch of its own, and the graphs of the seeds run on
streams beside each other. The arms of a seed see the same images, timesteps and noise in the same order, and the
teacher answers once for all of them.

Optimizer, schedule, EMA and losses are those of the configs; ``--iterations`` scales the schedule. What a Runner adds
(checkpoints to resume from, hooks, guards) is left out: for a run of your own use ``slimdiff train``. On a CPU, and
with ``--eager``, the same steps run without graphs, one after the other.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from slimdiff.configuration import load_config
from slimdiff.models.backbones.protocol import runs_of
from slimdiff.registry import DATASETS, MODELS


def learning_rates(cfg: Any, iterations: int) -> list[float]:
    """The learning rate of each iteration, with the config's schedule stretched to ``iterations``."""
    base, scale = cfg.optim_wrapper.optimizer.lr, iterations / cfg.train_cfg.max_iters
    rates = [base] * iterations
    for schedule in cfg.param_scheduler:
        if schedule.type != 'LinearLR':
            raise SystemExit(f'{schedule.type}: this study knows LinearLR alone.')
        begin, end = int(schedule.begin * scale), max(int(schedule.end * scale), 1)
        start, stop = schedule.start_factor, schedule.get('end_factor', 1.0)
        for i in range(begin, iterations):
            rates[i] *= start + (stop - start) * min((i - begin) / max(end - begin, 1), 1)
    return rates


class Arm:
    """One run: a model, its optimizer and the moving average of its weights."""

    def __init__(self, name: str, cfg: Any, seed: int, device: torch.device, rates: Sequence[float]) -> None:
        torch.manual_seed(seed)
        self.name, self.seed, self.rates = name, seed, rates
        self.model = MODELS.build(cfg.model).train().to(device)
        # Outside a graph these are copied from the host at every iteration, which a graph can't.
        process = self.model.noise_process
        process.alphas_cumprod = process.alphas_cumprod.to(device)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        settings = {k: v for k, v in cfg.optim_wrapper.optimizer.items() if k not in ('type', 'fused', 'lr')}
        self.lr = torch.tensor(rates[0], device=device) if device.type == 'cuda' else rates[0]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=self.lr, fused=True, **settings,
                                           **(dict(capturable=True) if device.type == 'cuda' else {}))
        self.max_norm = cfg.optim_wrapper.clip_grad.max_norm
        self.decay = cfg.default_hooks.ema.decay
        self.network = self.model.unet
        self.averaged = [p.detach().clone() for p in self.network.parameters()]
        self.loss = torch.zeros((), device=device)
        between = runs_of(self.network)[1:-1]
        #: what an iteration may draw at random that decides which kernels run: the sandwich's middle run
        self.variants = list(between) or [None]

    def set_rate(self, iteration: int) -> None:
        if torch.is_tensor(self.lr):
            self.lr.fill_(self.rates[iteration])
        else:
            for group in self.optimizer.param_groups:
                group['lr'] = self.rates[iteration]

    def step(self, inputs: Tensor, labels: Tensor, variant: Any) -> None:
        if variant is not None:
            runs = runs_of(self.network)
            self.model.draw_runs = lambda seed: {'widest': [runs[-1]], 'narrowest': [runs[0]], 'between': [variant]}
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.model(inputs, labels, mode='loss')['loss']
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.max_norm)
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.averaged, list(self.network.parameters()), 1 - self.decay)
            self.loss.copy_(loss.detach())

    @torch.no_grad()
    def finish(self) -> None:
        """The averaged weights take the place of the last ones."""
        for parameter, averaged in zip(self.network.parameters(), self.averaged):
            parameter.copy_(averaged)
        self.model.eval()


class Group:
    """The arms of one seed: the same batches, timesteps, noise and teacher's answers."""

    draws = 3  # timesteps and noise that an arm may ask for in one iteration

    def __init__(self, arms: list[Arm], images: Tensor, labels: Tensor, batch: int, iterations: int, seed: int) -> None:
        self.arms, self.images, self.all_labels = arms, images, labels
        device, shape = images.device, images.shape[1:]
        self.stream = torch.cuda.Stream(device) if device.type == 'cuda' else None
        self.generator = torch.Generator(device).manual_seed(seed)
        self.choice = random.Random(seed)
        epochs = -(-iterations * batch // len(images))
        order = torch.cat([torch.randperm(len(images), generator=torch.Generator().manual_seed(seed * 1000 + e))
                           for e in range(epochs)])
        self.order = order[:iterations * batch].view(iterations, batch).to(device)
        model = arms[0].model
        self.timesteps, self.dropout = model.num_train_timesteps, model.class_dropout
        self.inputs = torch.zeros(batch, *shape, device=device)
        self.labels = torch.zeros(batch, dtype=torch.long, device=device)
        self.t = torch.zeros(self.draws, batch, dtype=torch.long, device=device)
        self.noise = torch.zeros(self.draws, batch, *shape, device=device)
        self.drop = torch.zeros(self.draws, batch, dtype=torch.bool, device=device)
        self.teacher = next((arm.model.teacher for arm in arms if hasattr(arm.model, 'teacher')), None)
        self.ask: Any = None if self.teacher is None else self.teacher._forward
        self.answer: Any = None
        for arm in arms:
            self._share(arm.model)
        self.graphs: dict[Any, torch.cuda.CUDAGraph] = {}
        self.variants = max((arm.variants for arm in arms), key=len)

    def _share(self, model: nn.Module) -> None:
        counter = [0]

        def draw(batch: int, shape: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
            number, counter[0] = counter[0], counter[0] + 1
            return self.t[number], self.noise[number], self.drop[number]

        model.draw, model.restart_draws = draw, lambda: counter.__setitem__(0, 0)
        if hasattr(model, 'teacher'):
            model.teacher._forward = lambda *inputs: (self.answer[0], dict(self.answer[1]))
            model._check_teacher = lambda *inputs: None  # it looks at the device's values

    def prepare(self, iteration: int) -> None:
        """Draw what the next step reads."""
        rows = self.order[iteration]
        self.inputs.copy_(self.images[rows].float() / 127.5 - 1)
        self.labels.copy_(self.all_labels[rows])
        self.t.random_(0, self.timesteps, generator=self.generator)
        self.noise.normal_(generator=self.generator)
        self.drop.copy_(torch.rand(self.drop.shape, device=self.drop.device, generator=self.generator) < self.dropout)
        for arm in self.arms:
            arm.set_rate(iteration)

    def step(self, variant: Any) -> None:
        """One iteration of all arms, each on a stream of its own."""
        if self.teacher is not None:
            model = self.arms[0].model
            model.restart_draws()
            seen = model.noised_batch(self.inputs, self.labels)
            with torch.no_grad():
                self.answer = self.ask(seen.x_t, seen.t, seen.labels, None)
        here = torch.cuda.current_stream() if self.stream is not None else None
        for arm in self.arms:
            arm.model.restart_draws()
            chosen = variant if len(arm.variants) > 1 else arm.variants[0]
            if here is None:
                arm.step(self.inputs, self.labels, chosen)
                continue
            if not hasattr(arm, 'stream'):
                arm.stream = torch.cuda.Stream()
            arm.stream.wait_stream(here)
            with torch.cuda.stream(arm.stream):
                arm.step(self.inputs, self.labels, chosen)
        for arm in self.arms if here is not None else ():
            here.wait_stream(arm.stream)

    def capture(self) -> None:
        for variant in self.variants:
            graph = torch.cuda.CUDAGraph()
            for arm in self.arms:
                arm.optimizer.zero_grad(set_to_none=True)
            with torch.cuda.graph(graph, stream=self.stream):
                self.step(variant)
            self.graphs[variant] = graph

    def run(self, iteration: int) -> None:
        self.prepare(iteration)
        variant = self.choice.choice(self.variants)
        if self.graphs:
            self.graphs[variant].replay()
        else:
            self.step(variant)


def read_images(cfg: Any, device: torch.device) -> tuple[Tensor, Tensor]:
    """The training set of a config as (N, C, H, W) uint8, and its labels."""
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    items = [dataset[i] for i in range(len(dataset))]
    images = torch.stack([item['inputs'] for item in items])
    labels = torch.tensor([int(item['labels']) for item in items])
    return ((images + 1) * 127.5).round().to(torch.uint8).to(device), labels.to(device)


def train(configs: Mapping[str, Any], seeds: Mapping[str, Sequence[int]], iterations: int, device: torch.device,
          eager: bool = False, warm_up: int = 3, seconds: float | None = None) -> tuple[list[Arm], dict[str, Any]]:
    """Train all arms; returns them with averaged weights, and what the log would say.

    Args:
        seeds: of each arm.
        seconds: fewer iterations, if that is all that fits into so many seconds: judged once, early on.
    """
    images, labels = read_images(next(iter(configs.values())), device)
    batch = next(iter(configs.values())).train_dataloader.batch_size
    groups = []
    for seed in sorted({seed for own in seeds.values() for seed in own}):
        arms = [Arm(name, cfg, seed, device, learning_rates(cfg, iterations))
                for name, cfg in configs.items() if seed in seeds[name]]
        groups.append(Group(arms, images, labels, batch, iterations, seed))
    graphs = device.type == 'cuda' and not eager
    history: list[dict[str, Any]] = []
    start = time.perf_counter()
    bar = tqdm(total=iterations, unit='it', desc=f'{sum(len(g.arms) for g in groups)} runs', mininterval=5)
    judged, since = warm_up + 150, start
    for iteration in range(iterations):
        if iteration >= iterations:
            break
        if graphs and iteration == warm_up:
            torch.cuda.synchronize()
            for group in groups:
                group.capture()
            torch.cuda.synchronize()
            print(f'captured after {time.perf_counter() - start:.1f} s', flush=True)
        for group in groups:
            if group.stream is None:
                group.run(iteration)
            else:
                with torch.cuda.stream(group.stream):
                    group.run(iteration)
        bar.update()
        if seconds is not None and iteration in (warm_up + 20, judged):
            if device.type == 'cuda':
                torch.cuda.synchronize()
            now = time.perf_counter()
            if iteration == judged:
                rate = (judged - warm_up - 20) / (now - since)
                iterations = min(iterations, judged + int(rate * (seconds - (now - start))))
                print(f'{rate:.1f} it/s: {iterations} iterations', flush=True)
                bar.total = iterations
                for arm in (arm for group in groups for arm in group.arms):
                    arm.rates = learning_rates(configs[arm.name], iterations)
            since = now
        if iteration % 50 == 49:
            for group in groups:
                if group.stream is not None:
                    group.stream.synchronize()
        if iteration % 250 == 249 or iteration == iterations - 1:
            losses = {f'{arm.name}/{arm.seed}': round(arm.loss.item(), 5) for g in groups for arm in g.arms}
            history.append(dict(iteration=iteration + 1, seconds=round(time.perf_counter() - start, 1), **losses))
    bar.close()
    if device.type == 'cuda':
        torch.cuda.synchronize()
    arms = [arm for group in groups for arm in group.arms]
    for arm in arms:
        arm.finish()
    took = time.perf_counter() - start
    return arms, dict(iterations=iterations, batch=batch, seconds=took, iterations_per_second=iterations / took,
                      runs=len(arms), history=history)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--arm', action='append', required=True, metavar='NAME=CONFIG[@SEEDS]',
                        help='SEEDS: how many of --seeds this arm has, the first so many (default: all)')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    parser.add_argument('--iterations', type=int, default=10_000)
    parser.add_argument('--seconds', type=float, help='fewer iterations, if that is all that fits')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--eager', action='store_true', help='no CUDA graphs')
    parser.add_argument('--export', metavar='FOLDER', help='also write the first arm of the first seed as a pipeline')
    parser.add_argument('--out', required=True, help='folder for weights_SEED.safetensors and training.json')
    args = parser.parse_args()
    device = torch.device(args.device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    configs, seeds = {}, {}
    for arm in args.arm:
        name, _, rest = arm.partition('=')
        path, _, count = rest.partition('@')
        configs[name] = load_config(path)
        seeds[name] = args.seeds[:int(count)] if count else args.seeds
    arms, log = train(configs, seeds, args.iterations, device, args.eager, seconds=args.seconds)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    for seed in args.seeds:
        save_file({f'{arm.name}/{seed}/{key}': value.detach().cpu().contiguous() for arm in arms if arm.seed == seed
                   for key, value in arm.network.state_dict().items()}, out / f'weights_{seed}.safetensors')
    if args.export:
        from slimdiff.export.folder import export_pipeline
        export_pipeline(arms[0].model.cpu(), Path(args.export))
    hardware = torch.cuda.get_device_name(device) if device.type == 'cuda' else 'CPU'
    (out / 'training.json').write_text(json.dumps(
        dict(arms=args.arm, seeds=args.seeds, hardware=hardware, torch=torch.__version__, **log), indent=1) + '\n')
    print(f'{log["runs"]} runs x {log["iterations"]} iterations in {log["seconds"]:.0f} s '
          f'({log["iterations_per_second"]:.1f} it/s each)')


if __name__ == '__main__':
    main()
