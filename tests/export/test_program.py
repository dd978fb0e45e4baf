"""Programs against the network that they were made of."""

import json

import pytest
import torch
from diffusers import UNet2DModel
from torch import nn

from slimdiff import DiT, PreconditionedBackbone, UNet
from slimdiff.export import program as programs

STAGES = [dict(channels=8, blocks=1, heads=2, cross_attention=True)]  # small: tracing takes its time


PRECONDITIONING = dict(schedule=dict(num_train_timesteps=1000), prediction_type='epsilon', sigma_data=0.5)


def network(preconditioning=PRECONDITIONING, **changes):
    unet = UNet(**{**dict(
        sample_size=8, norm_groups=4, stages=STAGES, num_classes=5, context_channels=8,
        downsampler=dict(type='WaveletGatedDown'), upsampler=dict(type='WaveletGatedUp')), **changes})
    return ready(unet, preconditioning)


def transformer():
    """U-shaped, of classes and text."""
    return ready(DiT(sample_size=8, in_channels=3, out_channels=3, num_attention_heads=2, attention_head_dim=8,
                     layers=(1, 2, 1), num_classes=5, context_channels=8), PRECONDITIONING)


def ready(unet, preconditioning):
    if preconditioning is not None:
        unet = PreconditionedBackbone(unet, preconditioning=preconditioning)
    for parameter in unet.parameters():
        nn.init.normal_(parameter, std=0.1)
    return unet.eval()


def test_inputs_are_those_that_the_network_needs():
    found = programs.random_inputs(network(), 3, context_length=7)
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        'sample': (3, 3, 8, 8), 'timestep': (3, ), 'class_labels': (3, ), 'encoder_hidden_states': (3, 7, 8)}
    assert list(programs.random_inputs(network(class_token=True), 1)) == ['sample', 'timestep', 'class_labels']
    plain = network(num_classes=None, context_channels=None, stages=[dict(channels=8)])
    assert list(programs.random_inputs(plain, 1)) == ['sample', 'timestep']


@pytest.mark.parametrize('changes', [
    # 16 cells at 4 channels: the gates are folded into the convolution
    dict(stages=[dict(channels=4, blocks=1)], norm_groups=2, context_channels=None),
    dict(stages=[dict(channels=8, blocks=1)], downsampler=dict(type='WaveletDown', wavelet='db2'), num_classes=None,
         upsampler=dict(type='WaveletUp', wavelet='db2'), context_channels=None, preconditioning=None),
    None,
], ids=['folded gates', 'other wavelet', 'transformer'])
def test_torch_programs_of_any_batch(changes, tmp_path):
    unet = transformer() if changes is None else network(**changes)
    traced = programs.trace(unet, lambda batch: programs.random_inputs(unet, batch, 7))
    names = {str(node.target) for node in traced.graph.nodes if node.op == 'call_function'}
    assert all(name.startswith(('aten.', '<built-in')) for name in names), names  # no autograd function of ours
    programs.write_torch(traced, tmp_path / 'unet.pt2', {'a': 1})
    run = programs.open_torch(tmp_path / 'unet.pt2')
    for batch in (1, 4):
        inputs = programs.random_inputs(unet, batch, 7)
        with torch.no_grad():
            expected = unet(**inputs).sample
        torch.testing.assert_close(run(inputs), expected, rtol=0, atol=1e-5)
        assert expected.std() > 0.01


@pytest.mark.parametrize('make', [network, transformer])
def test_onnx(make, tmp_path, monkeypatch):
    """ONNX Runtime gives PyTorch's numbers at batches that were not traced, with the weights inside and beside."""
    import onnx
    unet = make()
    traced = programs.trace(unet, lambda batch: programs.random_inputs(unet, batch))
    converted = programs.convert_onnx(traced, {'latent_scale': 1.0})
    assert programs.write_onnx(converted, tmp_path / 'unet.onnx') >= 18
    file = onnx.load(tmp_path / 'unet.onnx')
    assert json.loads({item.key: item.value for item in file.metadata_props}['slimdiff']) == {'latent_scale': 1.0}
    assert [value.name for value in file.graph.output] == ['out_sample']
    assert {value.name for value in file.graph.input} == {'sample', 'timestep', 'class_labels', 'encoder_hidden_states'}
    for value in [*file.graph.input, *file.graph.output]:
        assert [dim.dim_param for dim in value.type.tensor_type.shape.dim if dim.dim_param] == ['batch'], value.name
    named = {dim.dim_param for value in file.graph.value_info for dim in value.type.tensor_type.shape.dim}
    assert 'batch' in named and not [name for name in named if name and 'batch' not in name]
    monkeypatch.setattr(programs, 'ONE_FILE_LIMIT', 0)
    programs.write_onnx(converted, tmp_path / 'large.onnx')
    assert (tmp_path / 'large.onnx').stat().st_size < (tmp_path / 'unet.onnx').stat().st_size
    assert (tmp_path / 'large.onnx.data').stat().st_size > 0
    for name in ('unet.onnx', 'large.onnx'):
        run = programs.open_onnx(tmp_path / name)
        for batch in (1, 4):
            inputs = programs.random_inputs(unet, batch)
            with torch.no_grad():
                expected = unet(**inputs).sample
            torch.testing.assert_close(run(inputs), expected, rtol=0, atol=1e-4)
    found = programs.compare(unet, run, lambda batch: programs.random_inputs(unet, batch), seconds=0)
    assert [one.batch for one in found] == [1, 3] and all(one.runs == 3 and one.program_seconds > 0 for one in found)


@pytest.mark.parametrize('changes', [
    dict(num_classes=None, context_channels=None, stages=[dict(channels=8, blocks=1)]),
    dict(class_token=True),
    dict(num_classes=None)], ids=['no condition', 'class token', 'text'])
def test_the_batch_axis_of_an_onnx_program_has_a_name(changes, tmp_path):
    onnxruntime = pytest.importorskip('onnxruntime')
    unet = network(**{**changes, 'preconditioning': None})
    traced = programs.trace(unet, lambda batch: programs.random_inputs(unet, batch, 7))
    programs.write_onnx(programs.convert_onnx(traced, {}), tmp_path / 'unet.onnx')
    session = onnxruntime.InferenceSession(tmp_path / 'unet.onnx', providers=['CPUExecutionProvider'])
    found = {value.name: value.shape for value in [*session.get_inputs(), *session.get_outputs()]}
    expected = {name: ['batch', *value.shape[1:]] for name, value in programs.random_inputs(unet, 1, 7).items()}
    assert found == {**expected, 'out_sample': ['batch', 3, 8, 8]}


def test_a_program_that_differs_is_refused():
    unet = network()

    def make(batch):
        return programs.random_inputs(unet, batch)

    for spoil in (lambda y: y + 1e-3, lambda y: y[:1], lambda y: y * float('nan')):
        with pytest.raises(programs.ProgramError, match='differs from PyTorch by'):
            programs.compare(unet, lambda inputs: spoil(unet(**inputs).sample), make)  # noqa: B023
    programs.compare(unet, lambda inputs: unet(**inputs).sample + 1e-6, make, seconds=0)


def test_missing_libraries_name_the_extra(monkeypatch):
    monkeypatch.setattr('slimdiff.optional.find_spec', lambda name: None if name == 'onnxruntime' else True)
    with pytest.raises(ImportError, match=r"'onnxruntime', which is not installed: pip install .*\[onnx\]'"):
        programs.require_onnx()


def test_a_program_that_onnx_runtime_cannot_open(tmp_path):
    """As those of an opset that is newer than it."""
    pytest.importorskip('onnxruntime')
    (tmp_path / 'x.onnx').write_bytes(b'no program')
    with pytest.raises(programs.ProgramError, match='cannot open the program'):
        programs.open_onnx(tmp_path / 'x.onnx')


def test_a_unet_of_diffusers_takes_batches_up_to_63():
    """Its up-samplers branch at 64 images."""
    unet = UNet2DModel(sample_size=8, block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1,
                       down_block_types=('DownBlock2D', ) * 2, up_block_types=('UpBlock2D', ) * 2).eval()
    traced = programs.trace(unet, lambda batch: programs.random_inputs(unet, batch))
    assert programs.largest_batch(traced) == 63
    inputs = programs.random_inputs(unet, 3)
    with torch.no_grad():
        torch.testing.assert_close(traced.module()(**inputs), unet(**inputs).sample)
    ours = network()
    assert programs.largest_batch(programs.trace(ours, lambda batch: programs.random_inputs(ours, batch, 7))) is None
