"""Schedules and logged values: from one run into another, by hand."""

import json

import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.optim import ConstantLR, LinearLR

from slimdiff.engine.run_state import hub_state, restore_hub, restore_schedulers, scheduler_states


def schedulers():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    return optimizer, [LinearLR(optimizer, start_factor=0.5, end=4, by_epoch=False),
                       ConstantLR(optimizer, factor=0.5, end=3, by_epoch=False)]


def test_schedules_go_on_where_they_were():
    optimizer, first = schedulers()
    rates = []
    for step in range(6):
        if step == 2:
            kept, rate = json.loads(json.dumps(scheduler_states(first))), optimizer.param_groups[0]['lr']
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in first:
            scheduler.step()
    # 1/2 + step/6 up to step 3; halved up to step 1, since mmengine's last step of ``end`` is the second before it.
    assert rates == pytest.approx([1 / 4, 1 / 3, 5 / 6, 1, 1, 1])
    optimizer, second = schedulers()
    restore_schedulers(second, kept)
    optimizer.param_groups[0]['lr'] = rate  # comes with the optimizer
    for expected in rates[2:]:
        assert abs(optimizer.param_groups[0]['lr'] - expected) < 1e-12
        optimizer.step()
        for scheduler in second:
            scheduler.step()


def test_another_number_of_schedules_starts_anew():
    _, both = schedulers()
    before = [dict(scheduler.__dict__) for scheduler in both]
    restore_schedulers(both, scheduler_states(both[:1]))
    restore_schedulers(None, None)
    assert [dict(scheduler.__dict__) for scheduler in both] == before


def test_logged_values():
    hub = MessageHub('first of test_run_state')
    for value in (1., 2., 4.):
        hub.update_scalar('train/loss', value)
    hub.update_info('seed', 7)
    hub.update_info('passing', 1, resumed=False)
    hub.update_info('loop', object())  # no plain data: left out
    state = hub_state(hub)
    assert json.loads(json.dumps(state['runtime_info'])) == {'seed': 7}
    other = MessageHub('second of test_run_state')
    restore_hub(other, state)
    assert other.get_scalar('train/loss').data[0].tolist() == [1., 2., 4.] and other.get_info('seed') == 7
    assert 'passing' not in other.runtime_info and 'loop' not in other.runtime_info
    assert other._resumed_keys == {'train/loss': True, 'seed': True}
