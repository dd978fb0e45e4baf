"""What the commands share: arguments, the checked config, and errors that a user can read."""

from __future__ import annotations

import argparse
import ast
import contextlib
import errno
import functools
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimdiff.installation import raised_here

if TYPE_CHECKING:
    from mmengine.config import Config

DEBUG_HINT = 'SLIMDIFF_DEBUG=1 or --debug shows the traceback.'
# What the package raises on purpose; a TypeError or KeyError, say, is a bug wherever it comes from.
EXPECTED = (ValueError, OSError, RuntimeError, ArithmeticError, ImportError)


LITERALS = (type(None), bool, int, float, str, list, tuple, dict)


def value_of(text: str) -> Any:
    """The value of ``KEY=text`` on a command line: a Python literal is what it says, all else the string as typed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # '\\d' and the like: a string that is no literal
            value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
    return value if isinstance(value, LITERALS) else text


class KeyValues(argparse.Action):
    """``KEY=VALUE ...`` into a dict of :func:`value_of`."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any,
                 option_string: str | None = None) -> None:
        options = dict(getattr(namespace, self.dest, None) or {})
        for text in values:
            key, equals, value = text.partition('=')
            if not equals or not key:
                raise argparse.ArgumentError(
                    self, f"expected KEY=VALUE, got '{text}' (the config and the checkpoint come before --cfg-options)")
            options[key] = value_of(value)
        setattr(namespace, self.dest, options)


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add CONFIG, ``--cfg-options`` and ``--debug``."""
    parser.add_argument('config', help='config file; one of slimdiff\'s own is found from any folder')
    parser.add_argument('--cfg-options', nargs='+', action=KeyValues, metavar='KEY=VALUE',
                        help='override the config, as model.num_steps=20 or model.unet.stages.0.channels=32. '
                        'VALUE is a Python literal ("[1, 2]", None, True), or else a string as it is typed')
    parser.add_argument('--debug', action='store_true', help='show the traceback of an error')


#: CHECKPOINT of a command that was given none
SHIPPED = '<shipped>'


def add_checkpoint_argument(parser: argparse.ArgumentParser) -> None:
    """Add CHECKPOINT; :func:`check_files` finds the shipped one where it is left out."""
    parser.add_argument('checkpoint', nargs='?', default=SHIPPED, help='a .pth of train, or a folder of export or '
                        'save_pretrained (a pipeline, or a UNet); default: the weights that came with CONFIG')


def add_trust_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--trust-config``."""
    parser.add_argument('--trust-config', action='store_true', help='take the weights also where the checkpoint was '
                        "trained for another computation (noise schedule, prediction type, ...) than the config's")


def add_launcher_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--launcher``, and the ``--local_rank`` that older launchers pass."""
    parser.add_argument('--launcher', choices=('none', 'pytorch', 'slurm', 'mpi'), default='none',
                        help='how the processes were started; tools/dist_train.sh and slurm_train.sh set it')
    parser.add_argument('--local_rank', '--local-rank', type=int, help=argparse.SUPPRESS)


def add_captions_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--captions``."""
    parser.add_argument('--captions', metavar='FILE', help='for a text model: one caption a line; image i is of line '
                        "i, from the top again after the last (default: the config's model.sample_captions)")


def lines_of(path: str, option: str) -> list[str]:
    """The lines of a text file that are not empty; ``option`` is what named it.

    Raises:
        ValueError: there are none, or they are not UTF-8.
    """
    try:
        lines = [line.strip() for line in Path(path).expanduser().read_text(encoding='utf-8-sig').splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{option}: '{path}' is not UTF-8 (byte {error.start}). Save it as UTF-8, for example by "
                         '`iconv -f LATIN1 -t UTF-8`.') from None
    lines = [line for line in lines if line]
    if not lines:
        raise ValueError(f"{option}: '{path}' holds no {option.strip('-').removesuffix('s')}; give one a line.")
    return lines


def use_captions(cfg: Config, path: str | None) -> None:
    """Make the lines of a file the config's ``model.sample_captions``.

    Raises:
        ValueError: no caption in it (:func:`lines_of`), or a model without text.
    """
    if path is None:
        return
    lines = lines_of(path, '--captions')
    if not cfg.model.get('conditioner'):
        raise ValueError('--captions: the model of this config has no conditioner, so it draws no text.')
    cfg.model.sample_captions = lines


def check_files(args: argparse.Namespace) -> None:
    """Look whether the files named on the command line are there, before PyTorch is imported, which takes seconds.

    Then says on stderr what is being loaded, unless PyTorch is there already.

    Raises:
        ConfigError: no such config.
        FileNotFoundError: no such checkpoint, allocation or file of captions; names the nearest beside it.
    """
    from slimdiff.configuration import find_config
    from slimdiff.installation import find_path, shipped_weights, zoo
    config = find_config(args.config)
    if getattr(args, 'checkpoint', None) == SHIPPED:
        args.checkpoint = shipped_weights(config)
        if args.checkpoint is None:
            raise FileNotFoundError(f'{args.config} came without weights: give CHECKPOINT. These have some: '
                                    f'{", ".join(zoo())}.')
    for what in ('checkpoint', 'resume', 'allocation', 'captions'):
        file = getattr(args, what, None)
        if file is None or (what, file) == ('resume', 'auto') or Path(file).expanduser().exists():
            continue
        found = find_path(file)  # what came with slimdiff, from any folder
        if found is None:
            what = 'checkpoint' if what == 'resume' else what
            raise FileNotFoundError(f'{file}: there is no such {what} file.{nearest_files(Path(file))}')
        setattr(args, what, str(found))
    if 'torch' not in sys.modules and first_rank():
        print(f'loading {args.config} ...', file=sys.stderr, flush=True)


def nearest_files(path: Path) -> str:
    """What lies where ``path`` should, as the end of an error message."""
    from slimdiff.spelling import nearest
    folder = path.parent.expanduser()
    if not folder.is_dir():
        return f' Nor is there a folder {path.parent}.'
    beside = sorted(file.name for file in folder.glob(f'*{path.suffix}') if not file.name.startswith('.'))
    close = nearest(path.name, beside) or beside[:3]
    return f' {path.parent} has {", ".join(close)}{", ..." if len(beside) > len(close) else ""}.' if close else ''


def rank() -> str:
    """Of this process, as the launcher's environment has it."""
    return os.environ.get('RANK', os.environ.get('SLURM_PROCID', '0'))


def first_rank() -> bool:
    """Whether this process is the one that speaks."""
    return rank() == '0'


def load_checked_config(args: argparse.Namespace, needs: Sequence[str] = ('model', )) -> Config:
    """The config of ``args.config`` with ``args.cfg_options`` and ``args.launcher``, its names and values checked.

    Args:
        needs: keys that the command can't do without.

    Raises:
        ConfigError: not found, not readable, a misspelt name, a wrong value, or a key that is needed and absent.
        FileNotFoundError: another file that is not there (:func:`check_files`).
    """
    check_files(args)
    from slimdiff.configuration import check_config, load_config
    cfg = load_config(args.config, args.cfg_options)
    check_config(cfg, needs)
    if getattr(args, 'launcher', None) is not None:
        cfg.launcher = args.launcher
    if getattr(args, 'local_rank', None) is not None:
        os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return cfg


def default_work_dir(config: str) -> Path:
    """``work_dirs/`` and the config's path below ``configs/``, or its name: sd and lite_ldm must not share a folder."""
    from slimdiff.configuration.load import find_config
    path = find_config(config).resolve().with_suffix('')
    parts = path.parts
    if 'configs' in parts:
        return Path('work_dirs', *parts[len(parts) - parts[::-1].index('configs'):])
    return Path('work_dirs', path.name)


def add_allocation_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--allocation``."""
    parser.add_argument('--allocation', metavar='FILE', help='allocation.json of search: the width of each denoising '
                        "step, for a network of several widths (or the reuse of a plain one's predictions)")


def use_allocation(model: Any, path: str | None) -> None:
    """Give the network of a model the allocation in a file.

    Raises:
        ValueError: no valid allocation, or one for other widths or another number of training timesteps.
    """
    if path is None:
        return
    from slimdiff.models.backbones import make_step_aware
    from slimdiff.models.backbones.protocol import StepAllocated, offers
    from slimdiff.sampling.allocation import StepAllocation
    allocation = StepAllocation.load(path)
    if offers(model.unet, StepAllocated):
        raise ValueError(f'--allocation: what is loaded already has an allocation; give the checkpoint that it was '
                         f'exported from to use {path}.')
    try:
        make_step_aware(model, allocation)
    except ValueError as error:
        raise ValueError(f'--allocation {path}: {error}') from None


@contextlib.contextmanager
def going_on() -> Iterator[None]:
    """For a command that goes on where it was stopped: Ctrl-C in this block says so."""
    try:
        yield
    except KeyboardInterrupt:
        print('\nStopped. Run the same command to continue.', file=sys.stderr)
        raise


def add_sampler_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--scheduler', help="a diffusers scheduler, such as DPMSolverMultistepScheduler; it keeps the "
                        "settings of the config's own where it has them")
    parser.add_argument('--eta', type=float, help='noise of DDIM: 0 is deterministic, 1 like DDPM')


def chosen_scheduler(args: argparse.Namespace) -> dict[str, Any] | None:
    """What :func:`add_sampler_arguments` was given, as ``scheduler`` of ``model.sample``; None for the config's own."""
    given = {'type': args.scheduler, 'eta': args.eta}
    return {key: value for key, value in given.items() if value is not None} or None


def runs_cleanly(main: Callable[..., int]) -> Callable[..., int]:
    """Decorator of a command's ``main(argv=None) -> int``: an expected error is a message and exit status 2.

    Ctrl-C is 130, a closed pipe (``| head``) 141. Errors that nobody foresaw keep their traceback.
    """

    @functools.wraps(main)
    def wrapped(argv: Sequence[str] | None = None) -> int:
        argv = list(sys.argv[1:] if argv is None else argv)
        debug = '--debug' in argv or os.environ.get('SLIMDIFF_DEBUG', '0') not in ('', '0')
        argv = [at_home(word) for word in argv if word != '--debug']
        for stream in (sys.stdout, sys.stderr):  # in an ASCII locale an umlaut is escaped, not an error
            if hasattr(stream, 'reconfigure'):
                stream.reconfigure(errors='backslashreplace')
        try:
            status = main(argv)
            sys.stdout.flush()
            return status
        except KeyboardInterrupt:
            print('\nInterrupted.', file=sys.stderr)
            return 130
        except BrokenPipeError:
            # Python flushes stdout once more at exit; give it something that takes it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        except Exception as error:
            if debug or not is_expected(error):
                raise
            package, _, name = main.__module__.rpartition('.')
            report(error, f'slimdiff {name}' if package == 'slimdiff.cli' else Path(sys.argv[0]).name)
            return 2

    return wrapped


def at_home(word: str) -> str:
    """``--out=~/x`` with the home folder, which shells put in only where a word begins with ``~``."""
    option, _, value = word.partition('=')
    return f'{option}={Path(value).expanduser()}' if option.startswith('--') and value.startswith('~') else word


def is_expected(error: Exception) -> bool:
    """Whether slimdiff itself raised ``error``, with a ``raise`` statement, or a file could not be used."""
    if (isinstance(error, OSError) and error.filename is not None) or is_full_disk(error):
        return True
    if not isinstance(error, EXPECTED):
        return False
    if worker_message(error) is not None:
        return isinstance(error, (ValueError, OSError))
    return raised_here(error)


def is_full_disk(error: Exception) -> bool:
    """Whether no more could be written. Libraries wrap the system's error in their own classes, with its text."""
    return getattr(error, 'errno', None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or any(
        os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EDQUOT))


def worker_message(error: Exception) -> str | None:
    """What a DataLoader worker's error said, without the traceback that torch puts in the message; else None."""
    text = str(error)
    first, _, rest = text.partition('\n')
    if not (first.startswith('Caught ') and 'DataLoader worker process' in first):
        return None
    # The traceback ends with "package.ErrorName: message"; the message may go on for several lines.
    return rest.rpartition(f'{type(error).__name__}: ')[2].strip()


def report(error: Exception, command: str) -> None:
    """Print the message of an expected error; in full on the first rank only."""
    text = worker_message(error) or advised(error) or traceback.format_exception_only(error)[0].strip()
    if first_rank():
        print(f'{command}: error: {text}\n{DEBUG_HINT}', file=sys.stderr)
    else:
        print(f'{command} [rank {rank()}]: error: {text.splitlines()[0]}', file=sys.stderr)


def advised(error: Exception) -> str:
    """The message; for a full disk, with what to do."""
    if is_full_disk(error) and not isinstance(error, ValueError):  # a ValueError is ours, and says so itself
        return (f'{getattr(error, "filename", None) or "A file"} could not be written: the disk is full. Free some '
                'space and run the same command again; finished files were kept.')
    return str(error)
