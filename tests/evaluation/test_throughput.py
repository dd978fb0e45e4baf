import time

import numpy as np
import pytest
import torch
from torch import nn

from slimdiff.evaluation.throughput import (
    Timing,
    compare,
    denoising_step,
    memory_rise,
    seconds_of,
    speed_up,
    spread,
    take_turns,
)

CPU = torch.device('cpu')


def clock_of(log, name, seconds):
    """Makes the steps that a fake clock says, and writes down whose turn it was."""
    values = iter(seconds)

    def step():
        log.append(name)
        return next(values)

    return step


def test_turns_alternate_and_reverse_every_other_round():
    log, steps = [], []
    timings = {'a': Timing(), 'b': Timing()}
    clocks = {'a': clock_of(log, 'a', range(1, 7)), 'b': clock_of(log, 'b', range(11, 17))}
    take_turns(clocks, timings, rounds=3, steps=2, on_step=lambda: steps.append(len(log)))
    assert ''.join(log) == 'aabb' + 'bbaa' + 'aabb'
    assert timings['a'].turns == [[1, 2], [3, 4], [5, 6]] and timings['b'].turns == [[11, 12], [13, 14], [15, 16]]
    assert steps == list(range(1, 13))


def test_an_interrupt_leaves_whole_turns():
    def stop():
        raise KeyboardInterrupt

    timings = {'a': Timing(), 'b': Timing()}
    values = iter([1.0, 1.0, 1.0])
    with pytest.raises(KeyboardInterrupt):
        take_turns({'a': lambda: next(values, None) or stop(), 'b': lambda: 0.5}, timings, rounds=9, steps=2)
    assert timings['a'].turns == [[1.0, 1.0]] and timings['b'].turns == [[0.5, 0.5], [0.5, 0.5]]
    assert speed_up(timings['a'], timings['b'])['median'] == 2


def test_percentiles_and_throughput_by_hand():
    # 1 ... 101 in any order: the q-th percentile is q + 1, and of 101 values that is exact.
    timing = Timing([[float(v)] for v in np.random.default_rng(0).permutation(np.arange(1, 102))])
    assert timing.latency() == dict(p50=51, p90=91, p99=100)
    assert timing.throughput(batch_size=8) == 8 / 51
    assert spread([4, 1, 2, 3]) == dict(median=2.5, q25=1.75, q75=3.25)


def test_a_slow_spell_that_hits_all_leaves_the_ratio_alone():
    spell = [1, 1, 7, 7, 1, 3]
    first, other = Timing([[6 * s, 6 * s] for s in spell]), Timing([[2 * s] for s in spell])
    assert speed_up(first, other) == pytest.approx(dict(median=3, q25=3, q75=3))
    result = compare(first, other, dict(published=(1200, 300), with_attention=(1500, 300)))
    assert result['macs_ratio'] == dict(published=4, with_attention=5)
    assert result['efficiency'] == pytest.approx(dict(published=0.75, with_attention=0.6))


def test_rounds_that_only_one_has_finished_do_not_count():
    assert speed_up(Timing([[4.0], [4.0], [100.0]]), Timing([[2.0], [1.0]]))['median'] == 3


def test_seconds_of_reads_the_clock_around_the_step():
    ticks = iter([10.0, 12.5])
    called = []
    assert seconds_of(lambda: called.append(1), CPU, clock=lambda: next(ticks)) == 2.5
    assert called == [1]
    assert 0.02 <= seconds_of(lambda: time.sleep(0.02), CPU) < 5


def test_memory_is_that_of_the_worst_moment(capfd):
    x = torch.zeros(250_000)  # 1 MB

    def step():
        a = x + 1
        b = a * 2
        del a
        c = torch.empty(500_000)
        return b, c

    assert memory_rise(step, CPU) == pytest.approx(3e6, rel=1e-3)  # b and c; a was gone
    assert memory_rise(lambda: None, CPU) == 0
    assert capfd.readouterr().err == ''


class Recorder(nn.Module):
    """Says in which precision it was called."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.seen = []

    def forward(self, x, t, context=None, return_dict=True):
        y = self.linear(x)
        self.seen.append((x.dtype, t.dtype, context.dtype, self.linear.weight.dtype, y.dtype,
                          torch.is_inference_mode_enabled(), self.training, return_dict))
        return (y, )


@pytest.mark.parametrize('dtype, inputs, weights, outputs', [
    ('fp32', torch.float32, torch.float32, torch.float32),
    ('bf16', torch.bfloat16, torch.bfloat16, torch.bfloat16),
    ('bf16-autocast', torch.float32, torch.float32, torch.bfloat16)])
def test_precision_of_a_step(dtype, inputs, weights, outputs):
    unet = Recorder()
    step = denoising_step(unet, (torch.zeros(2, 4), torch.zeros(2, dtype=torch.long)),
                          dict(context=torch.zeros(2, 4)), dtype)
    step()
    assert unet.seen == [(inputs, torch.int64, inputs, weights, outputs, True, False, True)]


def test_unknown_precision():
    with pytest.raises(ValueError, match="got 'fp8'; choose one of fp32, bf16, bf16-autocast"):
        denoising_step(Recorder(), (), {}, 'fp8')
