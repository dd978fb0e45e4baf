"""Several widths through the runner: resume bit for bit, an EMA for every width, metrics of each, two processes."""

import json
import sys
from pathlib import Path

import pytest
import tiny_run
import torch
from test_distillation_run import teacher, unet  # noqa: F401 (a fixture)

from slimdiff.checkpoint import load_checkpoint, load_weights
from slimdiff.models.serving import serving_config
from slimdiff.registry import MODELS


def run(folder, teacher_folder, **more):
    torch.manual_seed(0)
    network = {**unet(8), 'type': 'SlimmableUNet', 'widths': [0.5, 0.75, 1.0]}
    model = dict(_delete_=True, type='SlimmableDistiller', unet=network, num_classes=2, num_steps=2, num_random=1,
                 fresh_noise=True, teacher=dict(checkpoint=teacher_folder),
                 losses=[dict(type='SpatialLoss', tap=['output', 'up1'], relative=True)])
    options = {'model': model, 'train_dataloader.dataset': dict(_delete_=True, type='TinyPictures'),
               'default_hooks.checkpoint.interval': 1, 'default_hooks.log.interval': 1, 'max_iters': 3, **more}
    runner = tiny_run.build(folder, **{key.replace('.', '__'): value for key, value in options.items()})
    runner.train()
    return runner


@pytest.fixture(scope='module')
def whole(tmp_path_factory, teacher):  # noqa: F811
    folder = tmp_path_factory.mktemp('slimmable')
    run(folder, teacher)
    return folder


PLACES = ('train/widest_', 'train/between_', 'train/narrowest_')


def test_log_and_checkpoint(whole):
    [file] = whole.glob('*/vis_data/*_*.json')
    for line in file.read_text().splitlines():
        logged = json.loads(line)
        parts = [value for name, value in logged.items() if name.startswith(PLACES)]
        assert len(parts) > 3 and logged['train/loss'] == pytest.approx(sum(parts), rel=1e-5)
    data = load_checkpoint(whole / 'iter_3.pth')
    served = MODELS.build(serving_config(data['meta']['config']['model'])).eval()
    load_weights(served, whole / 'iter_3.pth')
    average = {name.removeprefix('unet.'): value for name, value in data['ema']['state_dict'].items()
               if name.startswith('unet.')}
    torch.testing.assert_close(served.unet.extract(0.5).stem.weight, average['network.stem.weight'][:4])
    assert served.sample([0, 1]).shape == (2, 3, 8, 8)


def test_resume_bit_for_bit(tmp_path, teacher, whole):  # noqa: F811
    (tmp_path / 'iter_1.pth').write_bytes((whole / 'iter_1.pth').read_bytes())
    run(tmp_path, teacher, resume=True)
    a, b = (load_checkpoint(folder / 'iter_3.pth') for folder in (whole, tmp_path))
    for key in ('state_dict', 'optimizer', 'ema', 'log'):
        tiny_run.same(a[key], b[key], key)


def test_two_ranks_are_one_with_the_doubled_batch(tmp_path, teacher, tiny_process):  # noqa: F811
    ranks = tiny_process(tmp_path / 'two', teacher, command=[sys.executable, __file__], ranks=2)
    printed = [process.communicate(timeout=120)[0] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], printed
    run(tmp_path / 'one', teacher, **{'train_dataloader.batch_size': 6})
    a, b = (load_checkpoint(tmp_path / name / 'iter_3.pth')['state_dict'] for name in ('one', 'two'))
    assert a.keys() == b.keys()
    for name, value in a.items():
        # Adam divides by the gradient's own size: where that is rounding, so is the step.
        assert (b[name] - value).norm() <= 2e-3 * value.norm() + 1e-4, name


if __name__ == '__main__':  # a rank of the test above
    sys.path.insert(0, str(Path(__file__).parent))
    torch.set_num_threads(1)
    run(sys.argv[1], sys.argv[2], launcher='pytorch', **{'train_dataloader.batch_size': 3})
