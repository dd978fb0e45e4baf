"""metafile.yml of each family and model-index.yml, in the format of OpenMMLab's tools."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from slimdiff.version import __version__
from studies.model_zoo.entries import Count, Entry
from studies.model_zoo.published import Family

COMMENT = '''\
# Written by `python tools/misc/model_zoo.py`: change that, not this.
# One sample through the UNet. MACs: convolutions and linear layers. FLOPs: 2 x MACs with the products of attention.
'''


def dump(content: Any) -> str:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)


def metafile(family: Family, entries: Iterable[Entry], counts: Mapping[str, Count]) -> str:
    """Facts alone: no results, and weights only where the repository has them."""
    title, url = family.paper
    models = []
    for e in entries:
        count = counts[e.digest]
        model = {
            'Name': f'{e.family}_{e.name}',
            'In Collection': family.name,
            'Config': e.path,
            'Metadata': {
                'Training Data': e.data,
                'Parameters': count['params'],
                'MACs': count['macs_published'],
                'MACs with attention': count['macs_with_attention'],
                'FLOPs': 2 * count['macs_with_attention'],
                'Activations': count['activations'],
                'Input': 'x'.join(map(str, count['input'])),
            },
        }
        if e.weights:
            model['Weights'] = e.weights
        models.append(model)
    collection = {
        'Name': family.name,
        'Metadata': {'Architecture': list(family.architecture)},
        'Paper': {'Title': title, 'URL': url},
        'README': f'configs/{family.folder}/README.md',
        'Code': {'Version': __version__},
    }
    return COMMENT + dump({'Collections': [collection], 'Models': models})


def model_index(families: Sequence[Family]) -> str:
    return COMMENT.splitlines()[0] + '\n' + dump({'Import': [f'configs/{f.folder}/metafile.yml' for f in families]})
