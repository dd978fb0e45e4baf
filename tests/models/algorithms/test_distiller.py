import pytest
import tiny_distiller as tiny
import torch
from torch.nn import functional as F

from slimdiff.checkpoint.weights import put_weights
from slimdiff.functional.spectral_weight import spectral_weight, weighted_spectral_error
from slimdiff.models import DiffusionModel
from slimdiff.models.losses import SpatialLoss
from slimdiff.models.serving import serving_config
from slimdiff.registry import LOSSES, MODELS, RegistryError

BOTH = [dict(type='SpatialLoss', tap=['output', 'up1'], weight=0.3),
        dict(type='SpectralLoss', tap=['output', 'mid'], weight=0.2, relative=True)]


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
    return tiny.save_pipeline(tiny.teacher_model(), tmp_path_factory.mktemp('teacher'))


def features_of(unet, names, x, t):
    """Prediction and features of a network, by hooks of our own."""
    seen = {}
    handles = [unet.get_submodule(n).register_forward_hook(lambda m, a, out, n=n: seen.update({n: out})) for n in names]
    seen['output'] = unet(x, t).sample
    for handle in handles:
        handle.remove()
    return seen


def test_the_sum_by_hand(teacher):
    """Every term from its formula, the teacher run apart."""
    model = tiny.distiller(teacher, BOTH)
    batch = tiny.batch(model)
    got = tiny.losses(model, batch)
    with torch.no_grad():
        theirs = features_of(tiny.teacher_model().unet, ('up1', 'mid'), batch.x_t, batch.t)
    mine = features_of(model.unet, ('up1', 'mid'), batch.x_t, batch.t)
    project = {name: torch.einsum('oi,nihw->nohw', model.projections[name].weight[:, :, 0, 0], mine[name])
               for name in ('up1', 'mid')}
    small = F.interpolate(batch.x0, (4, 4), mode='bilinear', antialias=True)

    def spectral(student, target, x0):
        weight = spectral_weight(x0)
        return weighted_spectral_error(student - target, weight) / weighted_spectral_error(target, weight)

    expected = {
        'denoising': (mine['output'] - batch.noise).square().mean(),
        'spatial_output': 0.3 * (mine['output'] - theirs['output']).square().mean(),
        'spatial_up1': 0.3 * (project['up1'] - theirs['up1']).square().mean(),
        'spectral_output': 0.2 * spectral(mine['output'], theirs['output'], batch.x0),
        'spectral_mid': 0.2 * spectral(project['mid'], theirs['mid'], small)}
    assert list(got) == ['loss', *expected]
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(got['loss'], sum(expected.values()), rtol=1e-4, atol=1e-6)
    assert got['loss'].requires_grad and not any(v.requires_grad for k, v in got.items() if k != 'loss')


def test_gradients_reach_student_and_projections_but_not_the_teacher(teacher):
    model = tiny.distiller(teacher, BOTH)
    tiny.losses(model, tiny.batch(model))['loss'].backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert all(model.projections[n].weight.grad.any() for n in ('up1', 'mid'))
    assert all(p.grad is None for p in model.teacher.unet.parameters())


def test_a_student_that_is_its_teacher_has_only_the_denoising_loss(tmp_path):
    student = tiny.teacher_model()
    folder = tiny.save_pipeline(student, tmp_path)
    losses = [dict(type=name, tap=['output', 'up1', 'mid']) for name in
              ('SpatialLoss', 'SpectralLoss', 'FourierLoss', 'WaveletBandLoss')]
    model = MODELS.build({**tiny.distiller_config(folder, losses), 'unet': tiny.unet(16)}).eval()
    model.unet.load_state_dict(student.unet.state_dict())
    assert not model.projections
    model.seed_step(0)
    images = torch.rand(4, 3, 8, 8) * 2 - 1
    got = model(images)
    student.seed_step(0)
    torch.testing.assert_close(got['loss'], student(images)['loss'], rtol=1e-6, atol=1e-7)
    assert all(v.item() == pytest.approx(0, abs=1e-7) for k, v in got.items() if k not in ('loss', 'denoising'))
    terms = model.loss_terms(model.noised_batch(images))
    gradient = torch.autograd.grad(sum(v for k, v in terms.items() if k != 'denoising'),
                                   list(model.unet.parameters()), allow_unused=True)
    assert max(g.abs().max().item() for g in gradient if g is not None) < 1e-6


def test_loss_terms_are_the_losses_with_their_graph(teacher):
    model = tiny.distiller(teacher, BOTH)
    images = torch.rand(4, 3, 8, 8)
    model.seed_step(5)
    terms = model.loss_terms(model.noised_batch(images))
    model.seed_step(5)
    logged = model(images)
    assert list(terms) == [k for k in logged if k != 'loss']
    for name, term in terms.items():
        assert term.requires_grad
        torch.testing.assert_close(term.detach(), logged[name])


def test_losses_of_one_class_at_one_tap_are_both_counted(teacher):
    model = tiny.distiller(teacher, [dict(type='SpatialLoss', weight=0.1), dict(type='SpatialLoss', weight=0.3)])
    got = tiny.losses(model, tiny.batch(model))
    assert got['spatial_output_'].item() == pytest.approx(3 * got['spatial_output'].item(), rel=1e-5)
    assert got['loss'].item() == pytest.approx(sum(v.item() for k, v in got.items() if k != 'loss'), rel=1e-5)


def test_taps_of_different_names_and_of_modules_within_stages(teacher):
    model = tiny.distiller(teacher, [dict(type='SpatialLoss', tap={'up1': 'up2', 'mid.blocks.0': 'mid'})])
    assert set(model.projections) == {'up1__up2', 'mid_blocks_0__mid'}
    got = tiny.losses(model, tiny.batch(model))
    assert {'spatial_up1', 'spatial_mid_blocks_0'} < set(got)
    got['loss'].backward()
    assert all(p.weight.grad.any() for p in model.projections.values())


# ---- what the teacher is part of ------------------------------------------------------------------------------------


def test_the_teacher_is_in_no_list(teacher):
    model = tiny.distiller(teacher, BOTH)
    assert set(model.trained_modules()) == {'unet', 'projections'}
    prefixes = {name.split('.')[0] for name in model.state_dict()}
    assert prefixes == {'unet', 'projections'}
    own = {id(p) for p in model.parameters()}
    assert not own & {id(p) for p in model.teacher.unet.parameters()}
    assert model.teacher.unet not in list(model.modules())
    model.train()
    assert model.unet.training and not model.teacher.unet.training
    assert set(tiny.distiller(teacher, [dict(type='SpatialLoss')]).trained_modules()) == {'unet'}


def test_the_student_starts_as_without_a_teacher(teacher):
    """The arms of a comparison begin with the same weights and see the same noise."""
    config = tiny.distiller_config(teacher, BOTH)
    torch.manual_seed(3)
    model = MODELS.build(config)
    torch.manual_seed(3)
    plain = MODELS.build({k: v for k, v in {**config, 'type': 'DiffusionModel'}.items()
                          if k not in ('teacher', 'losses')})
    for (name, a), b in zip(plain.unet.state_dict().items(), model.unet.state_dict().values()):
        assert torch.equal(a, b), name
    model.seed_step(1)
    plain.seed_step(1)
    images = torch.rand(4, 3, 8, 8)
    torch.testing.assert_close(model.eval()(images)['denoising'], plain.eval()(images)['loss'])


def calls_of(module):
    counted = []
    module.register_forward_hook(lambda m, a, out: counted.append(len(a[0])))
    return counted


def test_weight_zero_does_not_run_the_teacher(teacher):
    model = tiny.distiller(teacher, [dict(type='SpatialLoss', tap='up1', weight=0)])
    calls = calls_of(model.teacher.unet)
    got = tiny.losses(model, tiny.batch(model))
    assert calls == [] and set(got) == {'loss', 'denoising'}
    got['loss'].backward()  # DDP wants the projection in the graph all the same
    assert not model.projections['up1'].weight.grad.any()


def test_one_forward_of_each_network_serves_all_losses(teacher):
    model = tiny.distiller(teacher, BOTH)
    calls = calls_of(model.teacher.unet), calls_of(model.unet)
    tiny.losses(model, tiny.batch(model, count=6))
    assert calls == ([6], [6])


def test_sampling_asks_no_teacher_and_holds_no_features(teacher):
    model = tiny.distiller(teacher, BOTH)
    calls = calls_of(model.teacher.unet)
    assert model.sample([0, 1]).shape == (2, 3, 8, 8)
    assert calls == [] and model.recorder.features == {}


@pytest.mark.parametrize('settings, tolerance', [(dict(micro_batch=3), 1e-5), (dict(bf16=True), 0.02)])
def test_cheaper_teachers_teach_the_same(teacher, monkeypatch, settings, tolerance):
    monkeypatch.setattr('slimdiff.models.distillation.teacher.has_bf16_products', lambda device: True)
    exact, cheap = tiny.distiller(teacher, BOTH), tiny.distiller(teacher, BOTH, teacher=settings)
    losses = [tiny.losses(m, tiny.batch(m, count=8)) for m in (exact, cheap)]
    for name in losses[0]:
        assert losses[1][name].item() == pytest.approx(losses[0][name].item(), rel=tolerance), name


@pytest.mark.parametrize('losses', [BOTH, [dict(type='FourierLoss', tap='up1'), dict(type='WaveletBandLoss')]])
def test_under_bf16_autocast(teacher, losses):
    model = tiny.distiller(teacher, losses)
    batch = tiny.batch(model)
    exact = tiny.losses(model, batch)
    with torch.autocast('cpu', torch.bfloat16):
        half = tiny.losses(model, batch)
    for name, value in exact.items():
        assert half[name].dtype == torch.float32 and half[name].item() == pytest.approx(value.item(), rel=0.03), name


@pytest.mark.parametrize('kind', ['sample', 'v_prediction'])
def test_a_teacher_of_another_prediction_type(tmp_path, teacher, kind):
    """The same denoiser as eps, x0 and v: converted, it teaches the same."""
    other = tiny.save_pipeline(tiny.teacher_model(kind), tmp_path)
    a, b = (tiny.distiller(folder, [dict(type='SpatialLoss', tap=['output', 'mid'])]) for folder in (teacher, other))
    batch = tiny.batch(a)
    batch.t = torch.tensor([100, 300, 500, 700])  # from x0, eps is lost in rounding at t = 0
    batch.x_t = a.add_noise(batch.x0, batch.noise, batch.t)
    for (name, x), y in zip(tiny.losses(a, batch).items(), tiny.losses(b, batch).values()):
        torch.testing.assert_close(x, y, rtol=2e-3, atol=1e-6, msg=name)


def test_conditional(tmp_path):
    folder = tiny.save_pipeline(tiny.teacher_model(num_classes=3), tmp_path)
    model = tiny.distiller(folder, BOTH, num_classes=3, class_dropout=0.5)
    seen = []
    model.teacher.unet.class_embedding.register_forward_hook(lambda m, a, out: seen.append(a[0]))
    batch = tiny.batch(model, count=16)
    tiny.losses(model, batch)
    assert torch.equal(seen[0], batch.labels) and set(batch.labels.tolist()) == {0, 1, 2, 3}  # 3: the null class


def test_cross_attention(tmp_path):
    stages = [dict(channels=16, blocks=1), dict(channels=32, blocks=1, heads=2, cross_attention=True)]
    changes = dict(context_channels=6)
    model = tiny.teacher_model(unet_changes=changes)
    folder = tiny.save_pipeline(model, tmp_path)
    student = tiny.distiller(folder, BOTH, unet_changes=changes)
    assert stages and student(torch.rand(2, 3, 8, 8), context=torch.randn(2, 5, 6))['loss'] > 0


def test_it_learns_its_teacher(teacher):
    model = tiny.distiller(teacher, [dict(type='SpatialLoss', tap=['output', 'up1'], weight=1.0)]).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def distance():
        with torch.no_grad():
            return tiny.losses(model, tiny.batch(model, count=32, seed=99))['spatial_up1'].item()

    before = distance()
    for step in range(40):
        terms = model.loss_terms(tiny.batch(model, count=8, seed=step))
        optimizer.zero_grad()
        (sum(terms.values()) - terms['denoising']).backward()
        optimizer.step()
    assert distance() < 0.5 * before


# ---- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('tap, whose, close', [('uo1', 'student', 'up1'), ({'up1': 'upp1'}, 'teacher', 'up1'),
                                               ('outptu', 'student', 'output'), ('down7', 'student', 'down')])
def test_a_tap_that_does_not_exist(teacher, tap, whose, close):
    name = tap if isinstance(tap, str) else tap['up1']
    with pytest.raises(ValueError, match=rf"The {whose} has no tap '{name}'\. Did you mean '{close}") as caught:
        tiny.distiller(teacher, [dict(type='SpatialLoss', tap=tap)])
    assert 'Its stages: output, down1, down2, mid, up2, up1' in str(caught.value)
    with pytest.raises(ValueError, match='no tap'):  # also where the loss is off
        tiny.distiller(teacher, [dict(type='SpatialLoss', tap=tap, weight=0)])


@pytest.mark.parametrize('settings, message', [
    (dict(unet_changes=dict(size=16)), 'differ in image size: teacher 8, student 16'),
    (dict(noise_scheduler=dict(type='DDPMScheduler', beta_schedule='squaredcos_cap_v2')), 'differ in noise schedule'),
    (dict(num_classes=3), 'teacher unconditional, student conditional on 3 classes'),
])
def test_a_teacher_of_other_settings(teacher, settings, message):
    with pytest.raises(ValueError, match=message):
        tiny.distiller(teacher, **settings)


def test_a_conditional_teacher_of_an_unconditional_student(tmp_path):
    folder = tiny.save_pipeline(tiny.teacher_model(num_classes=3), tmp_path)
    with pytest.raises(ValueError, match='teacher conditional on 3 classes, student unconditional'):
        tiny.distiller(folder)


def test_a_tap_that_gives_no_feature_map_names_both_shapes(teacher):
    with pytest.raises(ValueError, match=r"Tap 'time_embedding'.*student gives \(1, 32\), the teacher \(1, 64\)"):
        tiny.distiller(teacher, [dict(type='SpatialLoss', tap='time_embedding')])


def test_a_teacher_that_predicts_nan(teacher, tmp_path):
    model = tiny.teacher_model()
    with torch.no_grad():
        model.unet.conv_out.bias[0] = float('nan')
    folder = tiny.save_pipeline(model, tmp_path)
    with pytest.raises(ValueError, match=r'holds NaN or infinity in 1 \(network\.conv_out\.bias\) of its') as caught:
        tiny.distiller(folder)
    assert folder in str(caught.value)
    # And one that begins to do so in the middle of a training.
    student = tiny.distiller(teacher)
    with torch.no_grad():
        student.teacher.unet.conv_out.bias[0] = float('inf')
    batch = tiny.batch(student)
    with pytest.raises(ValueError, match=rf'infinity for t = {int(batch.t[0])}, .*bf16=False'):
        tiny.losses(student, batch)


def test_nan_in_a_batch_is_not_the_teachers(teacher):
    """The loss is NaN, as without a teacher, and the hook that guards it looks at the batch."""
    student = tiny.distiller(teacher)
    batch = tiny.batch(student)
    batch.x_t[1, 0, 2, 3] = float('nan')
    assert tiny.losses(student, batch)['loss'].isnan()
    with torch.no_grad():
        student.teacher.unet.conv_out.bias[0] = float('inf')
    with pytest.raises(ValueError, match=rf'infinity for t = {int(batch.t[0])}, {int(batch.t[2])}, '):
        tiny.losses(student, batch)


def test_bad_configs(teacher):
    with pytest.raises(ValueError, match='losses is empty; give such as'):
        MODELS.build(tiny.distiller_config(teacher, []))
    with pytest.raises(ValueError, match='SpatialLoss: weight .the lambda of the loss. must be at least 0, got -1'):
        MODELS.build(tiny.distiller_config(teacher, [dict(type='SpatialLoss', weight=-1)]))
    with pytest.raises(RegistryError, match="Did you mean 'SpectralLoss'"):
        MODELS.build(tiny.distiller_config(teacher, [dict(type='SpectarlLoss')]))
    with pytest.raises(RegistryError, match="Did you mean 'micro_batch'"):
        MODELS.build(tiny.distiller_config(teacher, teacher=dict(micro_bacth=2)))
    with pytest.raises(ValueError, match='does not exist'):
        MODELS.build(tiny.distiller_config('no/such/folder'))


def test_it_is_a_diffusion_model(teacher):
    assert isinstance(tiny.distiller(teacher), DiffusionModel)


def test_a_copy_works_on_its_own(teacher):
    import copy
    model = tiny.distiller(teacher, BOTH)
    twin = copy.deepcopy(model)
    expected = tiny.losses(model, tiny.batch(model))
    with torch.no_grad():
        for p in model.unet.parameters():
            p.zero_()
    for name, value in tiny.losses(twin, tiny.batch(twin)).items():
        torch.testing.assert_close(value, expected[name])


@pytest.mark.slow
def test_a_compiled_teacher_teaches_the_same(teacher):
    exact, compiled = tiny.distiller(teacher, BOTH), tiny.distiller(teacher, BOTH, teacher=dict(compile=True))
    a, b = (tiny.losses(m, tiny.batch(m)) for m in (exact, compiled))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-5)


def test_the_teacher_sees_a_share_of_the_batch(teacher):
    model = tiny.distiller(teacher, [dict(type='SpatialLoss', weight=1.0)], teacher=dict(share=0.5))
    calls = calls_of(model.teacher.unet)
    batch = tiny.batch(model, count=5)
    terms = model.loss_terms(batch)
    assert calls == [3]  # of 5, rounded up
    student, theirs = model.predict(batch.x_t, batch.t), model.teacher.unet(batch.x_t[:3], batch.t[:3]).sample
    torch.testing.assert_close(terms['spatial_output'], (student[:3] - theirs).square().mean())
    torch.testing.assert_close(terms['denoising'], (student - batch.noise).square().mean())
    with pytest.raises(ValueError, match=r'share must lie in \(0, 1\]'):
        tiny.distiller(teacher, BOTH, teacher=dict(share=0))


def test_gradient_checkpointing_changes_no_gradient(teacher):
    """Also at a tap within a block that is computed again; and the activations are not kept."""
    losses = [dict(type='SpatialLoss', tap=['output', 'up1', 'down1.blocks.0'], weight=0.3)]
    gradients, kept = [], []
    for checkpointed in (False, True):
        model = tiny.distiller(teacher, losses, gradient_checkpointing=checkpointed).train()
        sizes = {}

        def keep(x, sizes=sizes):
            sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        batch = tiny.batch(model, 16)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            loss = tiny.losses(model, batch)['loss']
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        kept.append(sum(size for pointer, size in sizes.items() if pointer not in weights))
        loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    assert kept[1] < kept[0] / 2
    for name, plain in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], plain, rtol=1e-5, atol=1e-7)


def test_a_network_without_gradient_checkpointing_says_so():

    class Plain(torch.nn.Module):
        sample_size, in_channels = 8, 3

        def forward(self, sample, timestep):
            return sample

    with pytest.raises(ValueError, match='does not support gradient checkpointing'):
        DiffusionModel(unet=Plain(), gradient_checkpointing=True)


def test_a_loss_with_weights_is_trained_and_left_behind_when_it_is_served(teacher, monkeypatch):
    class Scaled(SpatialLoss):
        def __init__(self, tap='output', weight=1.0):
            super().__init__(tap, weight)
            self.scale = torch.nn.Parameter(torch.ones(()))
            self.register_buffer('filter', torch.ones(3))

        def compare(self, student, teacher, x0):
            return self.scale * super().compare(student, teacher, x0)

    monkeypatch.setitem(LOSSES.module_dict, 'Scaled', Scaled)
    model = tiny.distiller(teacher, [dict(type='Scaled')])
    assert set(model.trained_modules()) == {'unet', 'distillation_losses'}
    served = MODELS.build(serving_config(tiny.distiller_config(teacher, [dict(type='Scaled')])))
    put_weights(served, {'meta': {}, 'state_dict': model.state_dict()}, 'x.pth', 'online')
    for name, value in served.unet.state_dict().items():
        assert torch.equal(value, model.unet.state_dict()[name])


def test_what_is_no_distillation_loss_is_refused(teacher, monkeypatch):
    monkeypatch.setitem(LOSSES.module_dict, 'Plain', torch.nn.Identity)
    with pytest.raises(RegistryError, match='Plain.*is not a DistillationLoss|Identity.*is not a DistillationLoss'):
        MODELS.build(tiny.distiller_config(teacher, [dict(type='Plain')]))
