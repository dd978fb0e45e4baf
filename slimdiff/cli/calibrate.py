"""``slimdiff calibrate PIPELINE --out DIR``: speed up a pipeline without training: find what each step can leave out.

The folder keeps every measurement: the same command goes on where an earlier one was stopped or killed, and another
budget needs no more than its finalists.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from slimdiff.cli.common import going_on, lines_of, runs_cleanly

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='slimdiff calibrate', description='Find what each denoising step of a '
                                     'pipeline should do, without training, and write it for slimdiff.apply.')
    parser.add_argument('pipeline', help='a folder of diffusers or of export, a .pth of train, a model that came with '
                        'slimdiff such as ldm/fashion_mnist, or owner/name on the Hugging Face Hub')
    parser.add_argument('--out', required=True, metavar='DIR', help='allocation.json, report.html, settings.json and '
                        'the measurements')
    parser.add_argument('--budget', type=float, default=0.5, help="of the allocation, as a share of the full "
                        "network's cost (default: %(default)s)")
    parser.add_argument('--by', choices=('macs', 'ms'), default='macs', help='what costs: multiply-accumulates, or '
                        'milliseconds as measured here (default: %(default)s)')
    parser.add_argument('--steps', type=int, help="of the sampler (default: the pipeline's)")
    parser.add_argument('--images', type=int, help='sampled at once (default: one of each prompt or label, at most 8)')
    parser.add_argument('--prompts', metavar='FILE', help='one prompt a line (default: a few built-in ones)')
    parser.add_argument('--labels', nargs='+', type=int, metavar='N', help='classes (default: random ones)')
    parser.add_argument('--guidance', type=float, help="scale of classifier-free guidance (default: the pipeline's)")
    parser.add_argument('--size', nargs=2, type=int, metavar=('HEIGHT', 'WIDTH'), help='of the images, in pixels')
    parser.add_argument('--seed', type=int, default=0, help='of the noise (default: %(default)s)')
    parser.add_argument('--actions', nargs='+', metavar='NAME', help='what a step may do beside the full network '
                        '(default: all that the network can do)')
    parser.add_argument('--also', metavar='PIPELINE', help='a smaller model of the same data, whose network may run a '
                        'step instead (T-Stitch)')
    parser.add_argument('--ages', type=int, default=4, help='steps that something is reused, at most, except in equal '
                        'intervals (default: %(default)s)')
    parser.add_argument('--finalists', type=int, default=16, help='plans that are sampled and compared, at most '
                        '(default: %(default)s)')
    parser.add_argument('--debug', action='store_true', help='show the traceback of an error')
    args = parser.parse_args(argv)
    if not 0 < args.budget < 1:
        parser.error(f'--budget must lie between 0 and 1, got {args.budget:g}')
    for name in ('steps', 'images', 'ages', 'finalists'):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f'--{name} must be at least 1, got {getattr(args, name)}')
    return args


def open_pipeline(source: str) -> DiffusionPipeline:
    """The pipeline of a path, a name of the zoo, or an id of the Hub.

    Raises:
        ValueError: it can't be downloaded; the errors of :func:`slimdiff.load`.
    """
    from slimdiff.api import load
    from slimdiff.checkpoint.hub import is_hub_id
    from slimdiff.installation import find_path, zoo, zoo_weights
    from slimdiff.spelling import did_you_mean
    if find_path(source) is not None or zoo_weights(source) is not None or not is_hub_id(source):
        return load(source)
    from diffusers import DiffusionPipeline
    from mmengine.device import get_device
    try:
        return DiffusionPipeline.from_pretrained(source).to(get_device())
    except Exception as error:  # each cause has its own class
        raise ValueError(f"'{source}' is neither a path nor a model that came with slimdiff, and could not be opened "
                         f'from the Hugging Face Hub ({type(error).__name__}).{did_you_mean(source, zoo())} Without a '
                         'network, give the folder of a download.') from error


@runs_cleanly
def main(argv: list[str] | None = None) -> int:
    """Calibrate; prints the finalists and returns the exit status."""
    args = parse(argv)
    prompts = None if args.prompts is None else lines_of(args.prompts, '--prompts')

    from slimdiff.calibration.inputs import call_of
    from slimdiff.calibration.plan import Plan, denoiser_of
    from slimdiff.calibration.report import summary, write_report
    from slimdiff.calibration.run import Calibration
    from slimdiff.calibration.settings import settings_of
    from slimdiff.checkpoint import write_json
    from slimdiff.evaluation.common import locked
    out = Path(args.out)
    pipe = open_pipeline(args.pipeline)
    pipe.set_progress_bar_config(disable=True)
    inputs, identity, weight = call_of(pipe, args.images, args.steps, prompts, args.labels, args.guidance,
                                       tuple(args.size) if args.size else None, args.seed)
    also = None
    if args.also is not None:
        place = str(Path(args.also).resolve()) if Path(args.also).exists() else args.also
        small = open_pipeline(args.also)
        predicts = [one.scheduler.config.get('prediction_type') for one in (pipe, small)]
        if predicts[0] != predicts[1]:
            raise ValueError(f'--also: {args.also} predicts {predicts[1]}, but {args.pipeline} {predicts[0]}.')
        also = denoiser_of(small)[1], place
    with locked(out, 'calibrating'), going_on():
        before = out / 'allocation.json'
        if before.is_file() and not Plan.load(before).fits(pipe):
            raise ValueError(f'{before} is for another network or sampler than that of {args.pipeline}. Give another '
                             '--out, or remove the folder.')
        calibration = Calibration(pipe, inputs, out, identity, weight, args.actions, also, args.ages)
        print(f'{len(calibration.actions)} actions beside the full network: {", ".join(calibration.actions)}; '
              f'{identity["images"]} images of {identity["num_inference_steps"]} steps', flush=True)
        outcome = calibration.run(args.budget, args.by, args.finalists)
        outcome.plan.save(out / 'allocation.json')
        write_json(out / 'settings.json', settings_of(outcome.plan.actions, calibration.network))
        write_report(outcome, out / 'report.html', f'Calibration: {args.pipeline}')
    print(summary(outcome))
    print(f'wrote {", ".join(str(out / name) for name in ("allocation.json", "settings.json", "report.html"))}; '
          f"slimdiff.apply(pipe, '{out / 'allocation.json'}') uses it")
    return 0
