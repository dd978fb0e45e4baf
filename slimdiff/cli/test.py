"""``slimdiff test CONFIG CHECKPOINT``: compute the metrics of a checkpoint."""

from __future__ import annotations

import argparse

from slimdiff.cli.common import (
    add_allocation_argument,
    add_captions_argument,
    add_checkpoint_argument,
    add_config_arguments,
    add_launcher_argument,
    add_sampler_arguments,
    add_trust_argument,
    chosen_scheduler,
    default_work_dir,
    load_checked_config,
    runs_cleanly,
    use_allocation,
    use_captions,
)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='slimdiff test', description='Measure a checkpoint.')
    add_config_arguments(parser)
    add_checkpoint_argument(parser)
    parser.add_argument('--weights', choices=('ema', 'online'), default='ema')
    parser.add_argument('--num-images', type=int, help='images to generate, in place of the config\'s test_cfg')
    parser.add_argument('--steps', type=int, help='denoising steps')
    add_sampler_arguments(parser)
    parser.add_argument('--guidance', type=float, help='classifier-free guidance scale')
    parser.add_argument('--seed', type=int, help='seed of the generated images')
    parser.add_argument('--amp', action='store_true', help='bf16 autocast')
    parser.add_argument('--work-dir', help='where the log goes (default: work_dirs/<...>/test)')
    parser.add_argument('--json', help='also write the figures to this file')
    add_allocation_argument(parser)
    add_captions_argument(parser)
    add_trust_argument(parser)
    add_launcher_argument(parser)
    return parser.parse_args(argv)


@runs_cleanly
def main(argv: list[str] | None = None) -> int:
    """Test; prints a table and returns the exit status."""
    args = parse(argv)
    cfg = load_checked_config(args, ('model', 'test_dataloader', 'test_cfg', 'test_evaluator'))
    use_captions(cfg, args.captions)
    cfg.load_from, cfg.resume = None, False  # CHECKPOINT takes their place
    cfg.work_dir = args.work_dir or str(default_work_dir(args.config) / 'test')
    for key, value in (('num_images', args.num_images), ('seed', args.seed)):
        if value is not None:
            cfg.test_cfg[key] = value
    sampling = dict(cfg.test_cfg.get('sampling') or {})
    given = {'num_steps': args.steps, 'guidance_scale': args.guidance, 'scheduler': chosen_scheduler(args)}
    sampling |= {key: value for key, value in given.items() if value is not None}
    cfg.test_cfg.sampling = sampling
    if args.amp:
        cfg.test_cfg.amp = True

    from mmengine.dist import is_main_process

    from slimdiff.checkpoint import write_json
    from slimdiff.engine import SlimRunner
    from slimdiff.export.load import load_trained
    from slimdiff.models.serving import serving_config
    cfg.model = serving_config(cfg.model)  # no teacher is needed to measure a student
    runner = SlimRunner.from_cfg(cfg)
    with runner.starting():
        load_trained(runner.unwrapped_model, args.checkpoint, args.weights, args.trust_config)
        use_allocation(runner.unwrapped_model, args.allocation)
    figures = runner.test()
    if is_main_process():
        width = max(map(len, figures))
        print('\n'.join(f'{name:<{width}}  {value:.6g}' for name, value in figures.items()))
        if args.json:
            write_json(args.json, figures)
    return 0
