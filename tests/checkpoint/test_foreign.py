"""Files of others: tensors are read as torch reads them, objects become stand-ins, and nothing is ever run."""

import builtins
import collections
import contextlib
import io
import os
import pickle
import struct
import subprocess
import sys
import textwrap
import zipfile

import numpy as np
import pytest
import torch

from slimdiff.checkpoint.files import CheckpointError
from slimdiff.checkpoint.foreign import load_foreign
from slimdiff.checkpoint.pickle_data import StandIn

WRITER = '''
    import collections, sys, types
    import numpy as np, torch

    class ModelCheckpoint:
        """A class that the reader does not have."""
        def __init__(self, best):
            self.best = best

    class DictConfig(dict):
        def __reduce__(self):
            return (DictConfig, ({'nested': ModelCheckpoint(1)},), {'state': 1}, None, iter([('a', 1)]))

    foreign = types.ModuleType('pytorch_lightning')
    foreign.ModelCheckpoint, foreign.DictConfig = ModelCheckpoint, DictConfig
    sys.modules['pytorch_lightning'] = foreign
    for cls in (ModelCheckpoint, DictConfig):
        cls.__module__ = 'pytorch_lightning'
        cls.__qualname__ = cls.__name__

    torch.manual_seed(0)
    state = collections.OrderedDict()
    base = torch.randn(6, 4)
    state['weight'] = base
    state['view'] = base.t()[1:3]
    state['parameter'] = torch.nn.Parameter(torch.randn(3))
    state['half'] = torch.randn(5).half()
    state['bf16'] = torch.randn(5).bfloat16()
    state['count'] = torch.tensor(7)
    state['flags'] = torch.tensor([True, False])
    state['empty'] = torch.empty(0, 3)
    state._metadata = collections.OrderedDict({'': {'version': 1}})
    content = {'epoch': 3, 'lr': 0.5, 'state_dict': state, 'bytes': b'\\x00\\xff', 'set': {1, 2},
               'callbacks': {ModelCheckpoint: {'best_model_score': torch.tensor(0.25), 'cfg': DictConfig(b=2)}},
               'hyper_parameters': DictConfig(), 'scalar': np.float64(3.5), 'array': np.arange(3),
               'instance': ModelCheckpoint(torch.ones(2)), 'counts': collections.defaultdict(int, {'a': 1})}
    for name in sys.argv[1:]:
        form, protocol = name.rpartition('/')[2].split('-')
        torch.save(content, name, _use_new_zipfile_serialization=form == 'zip', pickle_protocol=int(protocol))
'''
FORMS = ['zip-2', 'legacy-2', 'zip-4', 'legacy-5']


@pytest.fixture(scope='module')
def lightning_files(tmp_path_factory):
    """Written by another process, whose classes do not exist here."""
    folder = tmp_path_factory.mktemp('lightning')
    subprocess.run([sys.executable, '-c', textwrap.dedent(WRITER), *(folder / form for form in FORMS)], check=True)
    return folder


@pytest.mark.filterwarnings('ignore:Detected pickle protocol')
@pytest.mark.parametrize('form', FORMS)
def test_a_file_with_foreign_objects(lightning_files, form):
    lightning_file = lightning_files / form
    with pytest.raises(pickle.UnpicklingError):
        torch.load(lightning_file, weights_only=True)
    found = load_foreign(lightning_file)
    data, state = found.data, found.data['state_dict']
    torch.manual_seed(0)  # what the writer drew
    base = torch.randn(6, 4)
    assert torch.equal(state['weight'], base) and torch.equal(state['view'], base.t()[1:3])
    assert state['view'].stride() == (1, 4) and state['view'].data_ptr() == state['weight'].data_ptr() + 4
    assert torch.equal(state['parameter'], torch.randn(3))
    assert torch.equal(state['half'], torch.randn(5).half())
    assert torch.equal(state['bf16'], torch.randn(5).bfloat16())
    assert state['count'].shape == () and state['count'] == 7 and state['count'].dtype == torch.int64
    assert state['flags'].tolist() == [True, False] and state['empty'].shape == (0, 3)
    assert (data['epoch'], data['lr'], data['bytes'], sorted(data['set'])) == (3, 0.5, b'\x00\xff', [1, 2])
    assert data['counts'] == {'a': 1}
    (callback, content), = data['callbacks'].items()
    assert isinstance(callback, StandIn) and callback.name == 'pytorch_lightning.ModelCheckpoint'
    assert content['best_model_score'] == 0.25 and isinstance(content['cfg'], StandIn)
    assert isinstance(data['instance'], StandIn) and isinstance(data['array'], StandIn)
    assert {'pytorch_lightning.ModelCheckpoint', 'pytorch_lightning.DictConfig'} <= set(found.stand_ins)
    assert not any(name.startswith(('torch.', 'collections.')) for name in found.stand_ins)
    assert 'pytorch_lightning' not in sys.modules


def test_plain_files_are_read_by_torch(tmp_path):
    for zipped in (True, False):
        torch.save({'a': torch.arange(3.)}, tmp_path / 'x.ckpt', _use_new_zipfile_serialization=zipped)
        found = load_foreign(tmp_path / 'x.ckpt')
        assert found.stand_ins == [] and found.data['a'].tolist() == [0, 1, 2]


def test_safetensors(tmp_path):
    from safetensors.torch import save_file
    save_file({'a': torch.arange(3.)}, tmp_path / 'x.safetensors')
    assert load_foreign(tmp_path / 'x.safetensors').data['a'].tolist() == [0, 1, 2]
    (tmp_path / 'x.safetensors').write_bytes(b'\xff' * 100)
    with pytest.raises(CheckpointError, match='not in safetensors format'):
        load_foreign(tmp_path / 'x.safetensors')


# ---- malicious files ------------------------------------------------------------------------------------------------


def as_zip(path, text, records=None, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, 'w', compression) as archive:
        archive.writestr('archive/data.pkl', text)
        archive.writestr('archive/version', b'3\n')  # torch's reader wants it
        for name, content in (records or {}).items():
            archive.writestr(name, content)
    return path


def as_legacy(path, text):
    head = [pickle.dumps(v, 2) for v in (0x1950a86a20f9469cfc6c, 1001, {'little_endian': True})]
    path.write_bytes(b''.join(head) + text + pickle.dumps([], 2))
    return path


class Call:
    """Pickled as a call of ``function``."""

    def __init__(self, function, *arguments, **more):
        self.reduced = (function, arguments, *more.values())

    def __reduce__(self):
        return self.reduced


def attacks(mark):
    """Pickles that leave the file ``mark`` behind when a pickle reader runs them."""
    touch = f'open({str(mark)!r}, "w")'
    shell = f'touch {mark}'
    raw_text = shell.encode()
    short = b'\x8c' + bytes([len(raw_text)]) + raw_text
    deep = Call(os.system, shell)
    for _ in range(20):
        deep = {'state_dict': [deep, (deep, )]}
    return {
        'os.system': pickle.dumps({'state_dict': Call(os.system, shell)}),
        'eval': pickle.dumps(Call(eval, touch)),
        'exec': pickle.dumps({'a': Call(exec, touch)}, 4),
        'subprocess': pickle.dumps(Call(subprocess.getoutput, shell)),
        'import': pickle.dumps(Call(builtins.__import__, 'os')),
        'getattr': pickle.dumps(Call(getattr, Call(builtins.__import__, 'os'), 'system')),
        'called result': b'cbuiltins\ngetattr\n(cos\nsystem\nS"__call__"\ntR(V' + raw_text + b'\ntR.',
        'nested': pickle.dumps(deep),
        'as an argument of a builder': pickle.dumps(
            Call(torch._utils._rebuild_parameter, Call(os.system, shell), True, Call(eval, touch))),
        'as state': pickle.dumps(Call(collections.OrderedDict, state={'__setstate__': Call(os.system, shell)})),
        'as a dict key': b'}(cos\nsystem\n(V' + raw_text + b'\ntRI1\nu.',
        'inst': b'(V' + raw_text + b'\nios\nsystem\n.',
        'obj': b'(cos\nsystem\nV' + raw_text + b'\no.',
        'newobj': b'\x80\x02cos\nsystem\nV' + raw_text + b'\n\x85\x81.',
        'newobj_ex': b'\x80\x04cos\nsystem\nV' + raw_text + b'\n\x85}\x92.',
        'stack_global': b'\x80\x04\x8c\x02os\x8c\x06system\x93' + short + b'\x85R.',
        'dotted name': b'\x80\x04\x8c\x05torch\x8c\x09os.system\x93' + short + b'\x85R.',
        'extension': b'\x80\x02\x82\x01V' + raw_text + b'\n\x85R.',
        'torch.load': pickle.dumps(Call(torch.load, io.BytesIO(pickle.dumps(Call(os.system, shell))))),
        'build on a global': b'ccollections\nOrderedDict\n(N}S"__reduce__"\ncos\nsystem\nstb.',
        'setitem on a global': b'cos\nenviron\nV' + b'SLIMDIFF_ATTACK' + b'\nVx\ns.',
        'append to a global': b'csys\npath\nVattack\na.',
        'builder by another path': pickle.dumps(Call(torch.storage._load_from_bytes, b'x')),
    }


NAMES = list(attacks('x'))


@pytest.mark.parametrize('form', ['zip', 'legacy'])
@pytest.mark.parametrize('name', NAMES)
def test_nothing_runs(name, form, tmp_path):
    mark = tmp_path / 'mark'
    path = (as_zip if form == 'zip' else as_legacy)(tmp_path / 'x.ckpt', attacks(mark)[name])
    before = (dict(os.environ), list(sys.path), vars(collections.OrderedDict).get('__reduce__'))
    try:
        found = load_foreign(path)
        assert found.stand_ins or name == 'build on a global'
    except CheckpointError:
        pass
    assert not mark.exists()
    assert (dict(os.environ), list(sys.path), vars(collections.OrderedDict).get('__reduce__')) == before


def test_the_attacks_are_real(tmp_path):
    """The oracle of the test above: Python's own reader runs them."""
    ran = []
    for name, text in attacks(tmp_path / 'mark').items():
        if name in ('build on a global', 'setitem on a global', 'append to a global', 'torch.load', 'extension'):
            continue
        with contextlib.suppress(Exception):
            pickle.loads(text)
        if (tmp_path / 'mark').exists():
            ran.append(name)
            (tmp_path / 'mark').unlink()
    assert len(ran) >= 12, ran


def test_stand_ins_are_named(tmp_path):
    text = pickle.dumps({'a': Call(os.system, 'true'), 'b': Call(eval, '1')})
    found = load_foreign(as_zip(tmp_path / 'x.ckpt', text))
    assert found.stand_ins == ['posix.system', 'builtins.eval']
    assert repr(found.data['a']) == '<stand-in for posix.system>'


def storage_pickle(key='0', count=4, size=(4, ), stride=(1, ), offset=0, kind='FloatStorage', rest=()):
    """A tensor whose numbers one can choose."""

    class Storage:
        pass

    class Pickler(pickle.Pickler):

        def persistent_id(self, thing):
            return ('storage', getattr(torch, kind), key, 'cpu', count, *rest) if isinstance(thing, Storage) else None

    out = io.BytesIO()
    Pickler(out, 2).dump({'x': Call(torch._utils._rebuild_tensor_v2, Storage(), offset, size, stride, False, None),
                          'y': np.float64(1)})  # so that weights_only refuses it
    return out.getvalue()


def test_a_tensor_by_hand(tmp_path):
    """The oracle of the next test: with the right numbers, the file reads."""
    values = struct.pack('<4f', 1, 2, 3, 4)
    path = as_zip(tmp_path / 'x.ckpt', storage_pickle(size=(2, 2), stride=(1, 2)), {'archive/data/0': values})
    assert load_foreign(path).data['x'].tolist() == [[1, 3], [2, 4]]


@pytest.mark.parametrize('numbers, message', [
    (dict(size=(5, )), 'beyond its storage'),
    (dict(offset=1), 'beyond its storage'),
    (dict(size=(2, 2), stride=(1, 3)), 'beyond its storage'),
    (dict(size=(1000, 1000), stride=(0, 0)), 'beyond its storage'),
    (dict(size=(-1, )), 'impossible shape'),
    (dict(stride=(-1, )), 'impossible shape'),
    (dict(size=(2**70, )), 'impossible shape'),
    (dict(offset=-4), 'impossible shape'),
    (dict(count=5), 'not all there'),
    (dict(count=2**60), 'impossible name or size'),
    (dict(key='../../../etc/passwd'), 'impossible name'),
    (dict(key='0/../0'), 'impossible name'),
    (dict(key='7'), 'not all there'),
    (dict(kind='ComplexFloatStorage'), r'unknown type torch\.complex64'),
])
def test_tensors_that_reach_outside(numbers, message, tmp_path):
    path = as_zip(tmp_path / 'x.ckpt', storage_pickle(**numbers),
                  {'archive/data/0': bytes(16), 'archive/data/../../../etc/passwd': bytes(16)})
    with pytest.raises(CheckpointError, match=message):
        load_foreign(path)


@pytest.mark.parametrize('text, message', [
    (b'', 'pickle exhausted|no end'),
    (b'\x80\x02}', 'pickle exhausted|no end'),
    (b'.', 'makes no sense'),
    (b'(((.', 'makes no sense'),
    (b'u.', 'makes no sense'),
    (b'I1\nI2\nI3\ns.', 'makes no sense'),
    (b'g5\n.', 'makes no sense'),
    (b'b.', 'makes no sense'),
    (b'Vstorage\nQ.', 'unknown persistent id'),
    (b'P../../etc/passwd\n.', 'unknown persistent id'),
    (b'\xff\xff', 'not a checkpoint'),
    (b'ctorch._utils\n_rebuild_tensor_v2\n(tR.', 'makes no sense'),
    (b'ctorch._utils\n_rebuild_tensor_v2\n(I1\nI2\n))tR.', 'without a storage'),
    (b'c_codecs\nencode\n(Vx\nVpunycode\ntR.', 'unknown encoding'),
    (b'ccollections\nOrderedDict\n((lI1\natR.', 'something else than pairs'),
])
def test_nonsense(text, message, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        load_foreign(as_zip(tmp_path / 'x.ckpt', text))


def test_a_torchscript_program(tmp_path):
    """torch.load would hand it to torch.jit.load."""
    torch.jit.save(torch.jit.script(torch.nn.Identity()), tmp_path / 'x.ckpt')
    with pytest.raises(CheckpointError, match='program of TorchScript'):
        load_foreign(tmp_path / 'x.ckpt')


@pytest.mark.parametrize('form', ['zip', 'legacy'])
def test_persistent_ids_that_torch_would_believe(form, tmp_path):
    """A 'module' makes torch read source files, and a view may reach beyond its storage."""
    for pickled in (b"\x80\x02(X\x06\x00\x00\x00modulecos\nsystem\nX\x01\x00\x00\x00fX\x01\x00\x00\x00stQ.",
                    storage_pickle(rest=(('1', 3, 4), )), storage_pickle(rest=((('1', ) * 3, 0, 4), )),
                    storage_pickle(count=10**6, size=(10**6, ))):
        path = (as_zip if form == 'zip' else as_legacy)(tmp_path / 'x.ckpt', pickled)
        with pytest.raises(CheckpointError, match='unknown persistent id|beyond another|not all there'):
            load_foreign(path)


def test_storage_keys_that_cannot_be_hashed(tmp_path):
    path = as_legacy(tmp_path / 'x.ckpt', pickle.dumps(np.float64(1), 2))
    path.write_bytes(path.read_bytes().removesuffix(pickle.dumps([], 2)) + b'])' + b'\x85' * 200_000 + b'a.')
    with pytest.raises(CheckpointError, match='neither'):
        load_foreign(path)


def test_keys_that_cannot_be_hashed_in_time(tmp_path):
    """A tuple 200,000 deep overflows the C stack of hash()."""
    text = b'})' + b'\x85' * 200_000 + b'I1\ns.'
    (key, value), = load_foreign(as_zip(tmp_path / 'x.ckpt', text)).data.items()
    assert isinstance(key, StandIn) and value == 1


def test_other_files(tmp_path):
    import tarfile
    path = tmp_path / 'x.ckpt'
    for content, message in ((b'', 'empty'), (b'PK\x03\x04 cut off', 'damaged'), (b'<html>404</html>' * 99, 'not a ch'),
                             (pickle.dumps(Call(os.getcwd)), 'neither a file of torch.save nor safetensors')):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            load_foreign(path)
    with tarfile.open(path, 'w') as archive:
        archive.add(__file__)
    with pytest.raises(CheckpointError, match='tar archive'):
        load_foreign(path)
    with pytest.raises(CheckpointError, match='no such'):
        load_foreign(tmp_path / 'none.ckpt')
    as_zip(path, b'}.', {'other/data.pkl': b'}.'})
    with pytest.raises(CheckpointError, match='2 files data.pkl'):
        load_foreign(path)
    as_zip(path, storage_pickle(), {'archive/data/0': bytes(16)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match='compressed'):
        load_foreign(path)
    as_zip(path, storage_pickle(), {'archive/data/0': bytes(16), 'archive/byteorder': b'big'})
    with pytest.raises(CheckpointError, match='big-endian'):
        load_foreign(path)


@pytest.mark.parametrize('form', ['zip', 'legacy'])
def test_random_damage_is_an_error_or_harmless(form, tmp_path):
    """Bytes changed, removed and put in: the file is read, or refused with the one class of error."""
    path = tmp_path / 'x.ckpt'
    torch.save({'a': torch.randn(3, 4), 'b': [np.float64(1), {1: (2, None)}], 'c': torch.randn(5).half()}, path,
               _use_new_zipfile_serialization=form == 'zip')
    records, text = {}, path.read_bytes()
    if form == 'zip':
        with zipfile.ZipFile(path) as archive:
            records = {name: archive.read(name) for name in archive.namelist()}
        text = next(records[name] for name in records if name.endswith('/data.pkl'))
    random, refused = np.random.default_rng(0), 0
    for _ in range(250):
        damaged = bytearray(text)
        for place in random.integers(0, len(text), random.integers(1, 4)):
            kind = random.integers(3)
            damaged[place:place + int(kind < 2)] = b'' if kind == 1 else bytes([random.integers(256)])
        if form == 'zip':
            with zipfile.ZipFile(path, 'w') as archive:
                for name, content in records.items():
                    archive.writestr(name, bytes(damaged) if name.endswith('/data.pkl') else content)
        else:
            path.write_bytes(damaged)
        try:
            for value in load_foreign(path).data.values():
                if isinstance(value, torch.Tensor):
                    value.float().sum()
        except CheckpointError:
            refused += 1
        except AttributeError:  # of this test: the content is no dict any more
            pass
    assert 50 < refused < 250


@pytest.mark.parametrize('end', [0.999, 0.7, 0.3, 0.05])
def test_cut_off_legacy_files(tmp_path, end):
    path = tmp_path / 'x.ckpt'
    torch.save({'a': torch.randn(100), 'b': np.float64(1), 'c': torch.randn(50)}, path,
               _use_new_zipfile_serialization=False)
    assert load_foreign(path).data['c'].shape == (50, )
    content = path.read_bytes()
    path.write_bytes(content[:int(end * len(content))])
    with pytest.raises(CheckpointError):
        load_foreign(path)
