"""``slimdiff slim TEACHER --data DATA --out DIR``: a small model from a large one: design, train, export, compare.

The folder gets ``student.py``, the plain config of all of it; ``slimdiff train DIR/student.py`` is the same training.
Stopped or killed, the same command goes on. It is one process; ``slimdiff train`` of ``student.py`` in ``DIR/training``
may be several, and the same command goes on from there too.
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimdiff.cli.common import going_on, runs_cleanly
from slimdiff.slimming import RECIPES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mmengine.config import Config

    from slimdiff.slimming.teacher import TeacherModel

#: what of the command line decides on the student: another value is another run
DECIDES = ('teacher', 'data', 'macs', 'recipe', 'step_aware', 'minutes', 'iterations', 'batch_size', 'amp', 'seed')


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='slimdiff slim', description='Design a small model after a large one, train '
                                     'it, export it and compare the two.')
    parser.add_argument('teacher', help='a folder of diffusers or of export, a .pth or work dir of train, a model that '
                        'came with slimdiff such as ldm/fashion_mnist, or owner/name on the Hugging Face Hub')
    parser.add_argument('--data', required=True, help='a folder or zip of images, encoded latents, a data set that '
                        'needs no path such as FashionMNIST, or a config with data loaders')
    parser.add_argument('--out', required=True, metavar='DIR', help='student.py, pipeline, report.html, training')
    parser.add_argument('--macs', type=float, default=0.1, help="of the student, as a share of the teacher's (default: "
                        '%(default)s)')
    parser.add_argument('--recipe', choices=RECIPES, help="gated: wavelet-gated resamplers, and the teacher's most "
                        "important channels to start from; spectral: that, and spectral distillation; pruned: the "
                        "start, and the teacher's own resamplers; plain: none of these, to compare with (default: "
                        'gated; spectral where the teacher has other layers than the UNet and DiT of slimdiff)')
    parser.add_argument('--step-aware', type=float, metavar='BUDGET', help='train it at several widths, and search a '
                        "width for each denoising step, for this share of the student's MACs")
    length = parser.add_mutually_exclusive_group()
    length.add_argument('--minutes', type=float, default=30.0, help='of training, as measured here beforehand '
                        '(default: %(default)g)')
    length.add_argument('--iterations', type=int, help='in place of --minutes')
    parser.add_argument('--batch-size', type=int, default=64, help='(default: %(default)s)')
    parser.add_argument('--amp', action='store_true', help='bf16 autocast')
    parser.add_argument('--seed', type=int, default=0, help='of weights, data and noise (default: %(default)s)')
    parser.add_argument('--images', type=int, default=256, help='for denoising error and Frechet distance; 0 leaves '
                        'them out (default: %(default)s)')
    parser.add_argument('--design-only', action='store_true', help='write student.py, say what training would cost, '
                        'and stop')
    parser.add_argument('--debug', action='store_true', help='show the traceback of an error')
    args = parser.parse_args(argv)
    if not 0 < args.macs < 1:
        parser.error(f'--macs is a share of the teacher\'s and lies between 0 and 1, got {args.macs:g}')
    if args.step_aware is not None and not 0 < args.step_aware < 1:
        parser.error(f"--step-aware is a share of the student's MACs and lies between 0 and 1, got "
                     f'{args.step_aware:g}')
    for name, least in (('minutes', 0.01), ('iterations', 1), ('batch_size', 1), ('images', 0)):
        given = getattr(args, name)
        if given is not None and given < least:
            parser.error(f'--{name.replace("_", "-")} must be at least {least:g}, got {given:g}')
    if Path(args.out).is_file():
        parser.error(f'--out {args.out} is a file: give a folder')
    if 0 < args.images < 32:
        parser.error(f'--images must be at least 32 for a Frechet distance, or 0, got {args.images}')
    return args


# ---- the config ---------------------------------------------------------------------------------------------------


def prepare(args: argparse.Namespace, command: str) -> dict[str, Any]:
    """Write ``student.py`` unless it is there; returns the ``command`` that designed it, its ``recipe``, and its
    ``size`` in words.

    Raises:
        ValueError: the folder has a student of another command, or another's.
    """
    from slimdiff.checkpoint import read_json
    from slimdiff.slimming.teacher import forbids_derivatives, read_teacher
    out = Path(args.out)
    config, place = out / 'student.py', out / 'slim.json'
    asked = {name: getattr(args, name) for name in DECIDES}
    if config.is_file():
        if not place.is_file():
            raise ValueError(f'{config} is not by slim: there is no slim.json beside it. Give another --out, or train '
                             f'it with slimdiff train {config}.')
        before = read_json(place, 'Remove the folder to start from scratch.')
        other = [name for name in DECIDES if before['asked'].get(name) != asked[name]]
        if other:
            name = other[0] if other[0] == 'teacher' else f'--{other[0].replace("_", "-")}'
            raise ValueError(f'{out} holds a student of another command: {name} was {before["asked"].get(other[0])}, '
                             f'now it is {asked[other[0]]}. Give another --out, or remove the folder.')
        print(f'{config} is there: going on with it', flush=True)
        return before
    print(f'opening {args.teacher} ...', file=sys.stderr, flush=True)
    teacher = read_teacher(args.teacher)
    folder = Path(teacher.checkpoint)
    if folder.is_dir() and (what := forbids_derivatives(folder)):
        print(f'note: {what} in {folder} forbids giving derived works away; the student may be one', flush=True)
    return write_student(args, teacher, config, dict(asked=asked, command=command))


def write_student(args: argparse.Namespace, teacher: TeacherModel, path: Path, made: dict[str, Any]) -> dict[str, Any]:
    """Design the student and write its config, and ``slim.json`` with ``made``, recipe and size, which is returned."""
    from slimdiff.checkpoint import atomic_write, write_json
    from slimdiff.cli.dry_run import duration, measure
    from slimdiff.evaluation.cost import human
    from slimdiff.slimming.student import (
        data_config,
        default_recipe,
        design_student,
        model_config,
        source_of,
        student_config,
        with_classes_of,
    )
    data = data_config(args.data, teacher, path.parent)
    teacher = with_classes_of(data, teacher)
    step_aware, recipe = args.step_aware is not None, args.recipe or default_recipe(teacher)
    network, macs, full = design_student(teacher, recipe, args.macs, step_aware)
    model = model_config(teacher, network, recipe)
    size = f'{human(macs)} MACs, {macs / full:.1%} of the {human(full)} MACs of {args.teacher}'

    def write(place: Path, iterations: int) -> None:
        config = student_config(model, data, iterations, args.batch_size, args.seed, args.amp)
        header = (f'A student of {args.teacher}: {size}. Made by\n  {made["command"]}\n'
                  f'  slimdiff train {path} is the same training.')
        text = source_of(config, header)
        atomic_write(place, lambda file: file.write(text.encode()))

    path.parent.mkdir(parents=True, exist_ok=True)
    widths = f'; widths {", ".join(f"{width:g}" for width in network["widths"])}' if step_aware else ''
    print(f'{recipe} student: {size}{widths}', flush=True)
    iterations, cost = args.iterations, ''
    if iterations is None or args.design_only:
        with tempfile.TemporaryDirectory(prefix='slimdiff_slim_') as folder:
            write(Path(folder, 'student.py'), 1000)
            seconds = measure(checked(Path(folder, 'student.py')))
        iterations = iterations or max(20, int(60 * args.minutes / seconds))
        cost = f', about {duration(iterations * seconds)} of training here, then the comparison'
    # In this order: a student.py that is there is one to go on with.
    write_json(path.with_name('slim.json'), made := dict(**made, recipe=recipe, size=size))
    write(path, iterations)
    print(f'wrote {path}: {iterations:,} iterations of batch {args.batch_size}{cost}', flush=True)
    return made


def checked(path: Path) -> Config:
    """The config as ``slimdiff train`` reads it."""
    from slimdiff.cli.train import parse as parse_train
    from slimdiff.cli.train import training_config
    return training_config(parse_train([str(path)]))


# ---- training, export, report -------------------------------------------------------------------------------------


def call(command: Callable[[list[str]], int], *words: Any) -> None:
    """Run another command, and end with its status where it fails."""
    status = command([str(word) for word in words])
    if status:
        raise SystemExit(status)


def train(config: Path, cfg: Config, work_dir: Path) -> Path:
    """Train, or go on; returns the last checkpoint.

    Raises:
        ValueError: trained with another config than this.
    """
    from slimdiff.arguments import plain
    from slimdiff.checkpoint.files import list_checkpoints, load_checkpoint
    from slimdiff.checkpoint.same import listed
    from slimdiff.cli.train import parse as parse_train
    from slimdiff.cli.train import run
    from slimdiff.engine.work_dir import differing_keys
    final = work_dir / f'iter_{cfg.train_cfg.max_iters}.pth'
    if final.is_file():
        changed = differing_keys(load_checkpoint(final)['meta']['config'], plain(cfg._cfg_dict))
        if changed:
            raise ValueError(f'{config} was changed after its training:{listed(changed)}\nUndo that, or remove '
                             f'{work_dir} to train again.')
        return final
    resume = ['--resume'] if list_checkpoints(work_dir) else []
    run(parse_train([str(config), '--work-dir', str(work_dir), *resume]))
    return final


def report(args: argparse.Namespace, config: Path, cfg: Config, checkpoint: Path, made: Mapping[str, Any]) -> None:
    """Compare teacher and student, unless that was done, and write ``report.html``."""
    from mmengine.device import get_device

    from slimdiff.checkpoint import load_checkpoint, read_json, write_json
    from slimdiff.checkpoint.tensor_store import network_fingerprint
    from slimdiff.cli.sample import load_model
    from slimdiff.datasets import build_dataloader
    from slimdiff.evaluation.common import representative
    from slimdiff.models.algorithms import DiffusionModel
    from slimdiff.slimming.report import compare, samples_of, summary, write_report
    from slimdiff.slimming.teacher import read_teacher
    from slimdiff.tables import text_table
    out = Path(args.out)
    place = out / 'comparison.json'
    student = load_model(cfg, str(checkpoint), 'ema')[0]
    source = read_teacher(args.teacher)
    # Its network is preconditioned already, where it is; the student's classes are those of the data.
    teacher = DiffusionModel(unet=source.network, **{
        **source.settings, 'sigma_data': None, 'num_classes': student.num_classes,
        'class_dropout': student.class_dropout})
    teacher = teacher.eval().to(get_device())
    loader = build_dataloader(cfg.test_dataloader) if cfg.get('test_dataloader') else None
    if source.text and loader is not None:  # images of the texts of those that they are compared with
        count = min(args.images or 16, len(loader.dataset))
        texts = [loader.dataset[i]['caption'] for i in representative(loader.dataset, count)]
        teacher.sample_captions = student.sample_captions = texts
    found = read_json(place, 'Remove it: it is measured again.') if place.is_file() else {}
    of = dict(images=args.images, weights=network_fingerprint(student.unet))
    if any(found.get(key) != value for key, value in of.items()):
        found = {**of, **compare(teacher, student, loader, args.images)}
        write_json(place, found)
    header, *rows = summary(found)
    print(text_table(header, rows))
    grids = samples_of(dict(teacher=teacher, student=student))
    batch = cfg.train_dataloader.batch_size * load_checkpoint(checkpoint)['meta']['world_size']
    notes = [f'A student of {args.teacher} by the recipe {made["recipe"]}: {made["size"]}; '
             f'{cfg.train_cfg.max_iters:,} iterations of batch {batch}.']
    if args.step_aware is not None:
        notes.append(f'It runs each step at a width of its own, for {args.step_aware:.0%} of these MACs in all: '
                     f'{out / "search" / "report.html"}. The table is of its full width.')
    notes += [f'Made by {made["command"]}', f'Its config is {config}, its pipeline {out / "pipeline"}.']
    if cfg.get('test_dataloader') and cfg.test_dataloader.dataset == cfg.train_dataloader.dataset:
        notes.append('The images it is compared on are those of training: the data have no part of their own for '
                     'tests.')
    write_report(found, grids, out / 'report.html', f'Slim {args.teacher}', notes)


@runs_cleanly
def main(argv: list[str] | None = None) -> int:
    """Slim a model; returns the exit status."""
    args = parse(argv)
    words = [word for word in (sys.argv[1:] if argv is None else argv) if word != '--debug']
    command = f'slimdiff slim {shlex.join(words)}'
    out = Path(args.out)

    from slimdiff.cli.encode_latents import main as encode_latents
    from slimdiff.cli.export import main as export
    from slimdiff.cli.search import main as search
    from slimdiff.engine.work_dir import missing_folders, remove_traces
    from slimdiff.evaluation.common import locked
    folders = missing_folders(out)
    out.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        stack.callback(remove_traces, None, folders)  # those that are empty, after an error
        stack.enter_context(locked(out, 'slimming'))
        stack.enter_context(going_on())
        made = prepare(args, command)
        if args.design_only:
            return 0
        config = out / 'student.py'
        cfg = checked(config)
        data = cfg.train_dataloader.dataset
        if data.type == 'LatentDataset' and data.get('source') is not None:
            call(encode_latents, config)
        checkpoint = train(config, cfg, out / 'training')
        allocation = []
        if args.step_aware is not None:
            call(search, config, checkpoint, '--work-dir', out / 'search', '--budget', args.step_aware)
            allocation = ['--allocation', out / 'search' / 'allocation.json']
        call(export, config, checkpoint, out / 'pipeline', *allocation)
        report(args, config, cfg, checkpoint, {**made, 'command': command})
        print(f'wrote {out / "pipeline"} (DiffusionPipeline.from_pretrained opens it after `import slimdiff`), '
              f'{out / "report.html"} and {config}')
    return 0
