import importlib.util
from pathlib import Path

from idx_files import write_idx

TOOL = Path(__file__).resolve().parents[2] / 'tools/analysis_tools/extractor_floors.py'
CONFIG = '''
val_dataloader = dict(batch_size=8, sampler=dict(type='DefaultSampler', shuffle=False),
                      dataset=dict(type='FashionMNIST', data_root='.', split='test'))
'''


def test_blur_rises_above_the_floor(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'config.py').write_text(CONFIG)
    write_idx(tmp_path, 80, split='test')
    spec = importlib.util.spec_from_file_location('extractor_floors', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.main(['config.py', '--num-images', '40', '--sizes', '--sigma2', '0', '1']) == 0
    rows = [[cell.strip() for cell in line.split('|')[1:-1]] for line in capsys.readouterr().out.splitlines()
            if line.startswith('| Random')]
    assert [row[2] for row in rows] == ['`fd`', '`kd`']
    for row in rows:
        floor, same, blurred = (float(cell.split(' ')[0]) for cell in row[3:6])
        spread = abs(same - floor)
        assert blurred > floor + 10 * spread and blurred > 0
