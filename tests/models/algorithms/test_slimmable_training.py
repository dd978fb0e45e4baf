"""The sandwich rule: gradients by hand, widths, teachers, evaluation at every width."""

import copy

import pytest
import torch
from tiny_distiller import NOISE, save_pipeline, shake, teacher_model

from slimdiff import SlimmableUNet
from slimdiff.models.algorithms import DiffusionModel, NoisedBatch
from slimdiff.models.backbones.protocol import bare
from slimdiff.models.serving import serving_config
from slimdiff.registry import MODELS
from slimdiff.sampling.actions import Run

STAGES = [dict(channels=8, blocks=1), dict(channels=16, blocks=1, downsample=False, heads=2)]
WIDTHS = (0.5, 0.75, 1.0)


def unet(**changes):
    return dict(type='SlimmableUNet', sample_size=8, norm_groups=4, stages=STAGES, widths=WIDTHS, **changes)


def slimmable(kind='SlimmableDiffusion', seed=0, **settings):
    config = dict(type=kind, unet=unet(), noise_scheduler=NOISE, num_steps=3, **settings)
    return shake(MODELS.build(config), seed=seed)


def images(count=4):
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(3)) * 2 - 1


def step(model, seed=5):
    model.seed_step(seed)
    return model(images(), mode='loss')


def gradients(model):
    return {name: p.grad.clone() for name, p in model.unet.named_parameters()}


def test_shared_noise_is_the_mean_of_the_dense_networks_losses():
    model = slimmable(fresh_noise=False, num_random=1)
    loss = step(model)['loss']
    model.seed_step(5)
    batch = model.noised_batch(images())
    errors = []
    for width in WIDTHS:  # all three: with one drawn of one between, the sandwich has every width
        prediction = model.unet.extract(width)(batch.x_t, batch.t).sample
        errors.append((prediction - batch.noise).square().mean())
    torch.testing.assert_close(loss, sum(errors) / 3)


def test_the_gradient_is_the_weighted_sum_over_widths():
    model = slimmable(fresh_noise=False, num_random=0, width_weights={0.5: 3})
    step(model)['loss'].backward()
    found = gradients(model)
    model.zero_grad()
    model.seed_step(5)
    batch = model.noised_batch(images())
    for width, weight in ((1.0, 0.25), (0.5, 0.75)):
        with model.unet.at(width):
            error = (model.predict(batch.x_t, batch.t) - batch.noise).square().mean()
        (weight * error).backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(found[name], gradient)


def test_fresh_noise_differs_between_widths_and_is_a_function_of_the_seed():
    model = slimmable(num_random=1)
    seen = []
    model.unet.register_forward_pre_hook(lambda module, args: seen.append(args[1].tolist()))
    first = step(model)['loss'].item()
    assert len(seen) == 3 and seen[0] != seen[1] != seen[2] != seen[0]
    assert step(model)['loss'].item() == first
    assert seen[:3] == seen[3:]
    assert step(model, seed=6)['loss'].item() != first


def test_the_sandwich_has_the_ends_and_draws_between():
    config = dict(type='SlimmableDiffusion', unet={**unet(), 'widths': (0.25, 0.5, 0.75, 1.0)}, noise_scheduler=NOISE,
                  num_random=1)
    model = MODELS.build(config)
    drawn = [model.draw_runs(seed) for seed in range(60)]
    assert all(d['widest'] == [Run(1.0)] and d['narrowest'] == [Run(0.25)] and len(d['between']) == 1 for d in drawn)
    counts = [sum(d['between'] == [Run(w)] for d in drawn) for w in (0.5, 0.75)]
    assert sum(counts) == 60 and min(counts) > 15  # a fair coin: below 15 once in 30,000 times
    assert model.draw_runs(7) == model.draw_runs(7)


def test_what_is_logged_adds_up_to_the_loss():
    values = step(slimmable(num_random=1))
    parts = {f'{place}_denoising' for place in ('widest', 'narrowest', 'between')}
    assert set(values) == {'loss', *parts}
    torch.testing.assert_close(values['loss'], sum(values[name] for name in parts))


def test_in_place_distillation_pulls_to_the_widest_and_never_moves_it():
    plain, inplace = (slimmable(fresh_noise=False, num_random=0, inplace=weight) for weight in (0.0, 0.5))
    a, b = step(plain)['loss'], step(inplace)['loss']
    plain.seed_step(5)
    batch = plain.noised_batch(images())
    with torch.no_grad():
        wide, narrow = (plain.unet(batch.x_t, batch.t, width=width).sample for width in (1.0, 0.5))
    torch.testing.assert_close(b - a, 0.5 * 0.5 * (wide - narrow).square().mean())
    # The widest network's own gradient is that of its denoising error: what only it has did not move otherwise.
    a.backward(), b.backward()
    key = 'network.mid.blocks.0.conv2.weight'
    torch.testing.assert_close(gradients(plain)[key][8:], gradients(inplace)[key][8:])
    assert not torch.equal(gradients(plain)[key][:8, :8], gradients(inplace)[key][:8, :8])


@pytest.mark.parametrize('settings, match', [
    (dict(num_random=2), 'besides the widest and the narrowest of 3 widths there are 1'),
    (dict(inplace=0.1), 'fresh_noise=False'),
    (dict(inplace=-1, fresh_noise=False), 'weight of at least 0'),
    (dict(width_weights={0.3: 1}), r'width_weights: got 0\.3'),
    (dict(width_weights={0.5: 0}), 'positive weight'),
    (dict(eval_widths=[0.25]), r'got 0\.25; this network has'),
])
def test_bad_settings(settings, match):
    with pytest.raises(ValueError, match=match):
        slimmable(**settings)


def test_a_dense_network_is_refused():
    config = dict(type='SlimmableDiffusion', unet={**unet(), 'type': 'UNet'}, noise_scheduler=NOISE)
    config['unet'].pop('widths')
    with pytest.raises(ValueError, match=r"UNet lacks widths, at, extract\..*SlimmableUNet', widths=\(\.\.\.\)\)"):
        MODELS.build(config)


def test_it_starts_from_a_dense_checkpoint(tmp_path):
    dense = DiffusionModel(unet={k: v for k, v in unet().items() if k not in ('type', 'widths')} | {'type': 'UNet'},
                           noise_scheduler=NOISE)
    shake(dense, seed=4).eval()
    folder = save_pipeline(dense, tmp_path / 'dense')
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([10, 900])
    config = dict(type='SlimmableDiffusion', unet=unet(), noise_scheduler=NOISE, start_from=folder)
    model = MODELS.build(config).eval()
    with torch.no_grad():
        torch.testing.assert_close(model.unet(x, t).sample, dense.unet(x, t).sample, rtol=1e-4, atol=1e-5)
    supernet = SlimmableUNet(**{k: v for k, v in unet().items() if k != 'type'})
    supernet.load_state_dict(bare(dense.unet).state_dict())
    supernet.order_by_importance()
    found, given = bare(model.unet).state_dict(), bare(dense.unet).state_dict()
    assert all(torch.equal(found[name], value) for name, value in supernet.state_dict().items())
    assert not all(torch.equal(found[name], value) for name, value in given.items())
    with pytest.raises(ValueError, match=r'start_from: .*sigma_data: 0\.5 \(checkpoint\), 1\.0 \(config\)'):
        MODELS.build({**config, 'sigma_data': 1.0})
    # What the dense network lacks starts at random.
    more = MODELS.build({**config, 'unet': unet(num_classes=2), 'num_classes': 2})
    assert torch.equal(more.unet.stem.weight, model.unet.stem.weight)
    assert more.unet.state_dict().keys() - model.unet.state_dict().keys() == {'network.class_embedding.weight'}


def test_serving_is_a_plain_model_with_the_slimmable_network():
    config = dict(type='SlimmableDiffusion', unet=unet(), noise_scheduler=NOISE, num_random=0, eval_widths=[1.0])
    served = serving_config(config)
    assert set(served) == {'type', 'unet', 'noise_scheduler'} and served['type'] == 'DiffusionModel'
    assert MODELS.build(served).unet.widths == WIDTHS


def test_evaluation_goes_through_the_widths():
    model = slimmable(eval_widths=[0.5, 1.0])
    variants = model.evaluation_variants()
    assert list(variants) == ['', 'width0.5/']
    for prefix, width in (('', 1.0), ('width0.5/', 0.5)):
        with variants[prefix]:
            assert model.unet.active == Run(width)


# ---- with a teacher ----------------------------------------------------------------------------------------------


def distilled(folder, losses, **settings):
    return slimmable('SlimmableDistiller', teacher=dict(checkpoint=folder), losses=losses, **settings)


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
    return save_pipeline(teacher_model(), tmp_path_factory.mktemp('teacher') / 'pipeline')


def test_every_width_learns_from_the_teacher(teacher):
    model = distilled(teacher, [dict(type='SpatialLoss', tap='output', weight=0.5)], num_random=1)
    loss = step(model)['loss']
    model.seed_step(5)
    batch = model.noised_batch(images())
    with torch.no_grad():
        target = model.teacher.unet(batch.x_t, batch.t).sample
        expected = 0
        for width in WIDTHS:
            prediction = model.unet(batch.x_t, batch.t, width=width).sample
            expected += ((prediction - batch.noise).square().mean() + 0.5 * (prediction - target).square().mean()) / 3
    torch.testing.assert_close(loss, expected)


def test_the_teacher_is_asked_once_where_noise_is_shared(teacher):
    calls = []
    for fresh, count in ((False, 1), (True, 3)):
        model = distilled(teacher, [dict(type='SpatialLoss', tap='output')], fresh_noise=fresh)
        model.teacher.unet.register_forward_hook(lambda *_: calls.append(1))
        calls.clear()
        step(model)
        assert len(calls) == count


def test_features_of_a_narrow_width_are_compared_where_their_channels_are(teacher):
    model = distilled(teacher, [dict(type='SpatialLoss', tap='up1')], num_random=0)
    batch = NoisedBatch(images(), images(), torch.tensor([1, 2, 3, 4]), images())
    with model.unet.at(0.5):
        features = model.student_outputs(batch, Run(0.5))['up1']
    assert features.shape[1] == 8 and bool((features[:, 4:] == 0).all())
    narrow = {}
    network = model.unet.extract(0.5)
    network.up1.register_forward_hook(lambda m, i, out: narrow.update(out=out))
    network(batch.x_t, batch.t)
    torch.testing.assert_close(features[:, :4], narrow['out'])
    step(model)['loss'].backward()
    assert model.projections['up1'].weight.grad.abs().sum() > 0


def test_a_copy_records_its_own_features(teacher):
    model = distilled(teacher, [dict(type='SpatialLoss', tap='up1')], num_random=0)
    value = step(model)['loss'].item()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.unet.stem.weight.mul_(2)
    assert step(model)['loss'].item() == value != step(twin)['loss'].item()


def test_a_tap_inside_a_stage_is_refused(teacher):
    with pytest.raises(ValueError, match=r"'up1\.blocks\.0' can't be compared at several widths.*up1"):
        distilled(teacher, [dict(type='SpatialLoss', tap={'up1.blocks.0': 'up1.blocks.0'})])


def test_terms_for_the_gradient_share(teacher):
    model = distilled(teacher, [dict(type='SpatialLoss', tap='output', weight=0.5)])
    model.seed_step(5)
    terms = model.loss_terms(model.noised_batch(images()))
    torch.testing.assert_close(sum(terms.values()), step(model)['loss'])
    assert set(terms) == {f'{place}_{term}' for place in ('widest', 'narrowest', 'between')
                          for term in ('denoising', 'spatial_output')}
