"""What there is: configs, and the counts of their networks, which are kept in a file because counting takes minutes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimdiff.checkpoint import write_json
from slimdiff.configuration import check_config, load_config
from slimdiff.models.serving import network_digest, serving_config
from studies.model_zoo.published import FAMILIES, PUBLISHED, Published, training_data

Count = dict[str, Any]
#: what is kept of a network; a file that lacks one of these has been written by an older version
FIELDS = {'input', 'context_length', 'params', 'class_tokens', 'macs_published', 'macs_ptflops', 'macs_with_attention',
          'activations'}


@dataclass(frozen=True)
class Entry:
    """A config of the zoo.

    Args:
        path: ``configs/sd/ffhq.py``.
        summary: the first sentence of its comment.
        model: its model, as far as sampling needs it.
        digest: of its network; configs that share a network share it.
        weights: a folder of the repository with trained weights, or None.
    """

    path: str
    summary: str
    model: Mapping[str, Any]
    digest: str
    data: str
    published: Published
    weights: str | None

    @property
    def family(self) -> str:
        return self.path.split('/')[1]

    @property
    def name(self) -> str:
        return Path(self.path).stem


def summary_of(text: str) -> str:
    """The first sentence of the comment at the top of a config."""
    comment = re.match(r'(#.*\n)+', text)
    lines = [line[1:].strip() for line in comment[0].splitlines() if not line.startswith('#  ')] if comment else []
    sentence = re.match(r'.*?(?:[.](?= [A-Z])|[.:]$)', ' '.join(lines))
    files_as_code = re.sub(r'[\w*/-]+\.py\b', r'`\g<0>`', sentence[0] if sentence else '')
    return files_as_code.removesuffix(':').removesuffix('.') + '.' if sentence else ''


def collect(root: Path) -> list[Entry]:
    """All configs of the families below ``root``, in order of name."""
    entries = []
    for family in FAMILIES:
        for file in sorted((root / 'configs' / family.folder).glob('*.py')):
            cfg = load_config(file)
            check_config(cfg)
            weights = Path('configs', family.folder, f'{file.stem}_weights')
            entries.append(Entry(
                path=file.relative_to(root).as_posix(), summary=summary_of(file.read_text(encoding='utf-8')),
                model=serving_config(cfg.model), digest=network_digest(cfg.model), data=training_data(file.stem),
                published=PUBLISHED.get(f'{family.folder}/{file.stem}', Published()),
                weights=weights.as_posix() if (root / weights).is_dir() else None))
    return entries


def count(entry: Entry) -> Count:
    """Parameters, MACs in all conventions and activations, of a forward pass of one sample."""
    from slimdiff.evaluation.unet_cost import class_parameters, context_length_of, unet_cost, unet_inputs
    from slimdiff.registry import MODELS
    model = MODELS.build(dict(entry.model))
    length = context_length_of(model)
    cost = unet_cost(model, length)
    tokens = class_parameters(model.unet) if model.unet.config.get('class_token') else 0
    inputs, kwargs = unet_inputs(model.unet, length)
    return dict(input=list(inputs[0].shape[1:]), context_length=length if 'encoder_hidden_states' in kwargs else None,
                params=cost.params, class_tokens=tokens, macs_published=cost.conv_linear_macs,
                macs_ptflops=cost.ptflops, macs_with_attention=cost.macs_with_attention, activations=cost.activations)


class Counts:
    """Counts by network, in a file that is written after each of them, so that an interrupt loses one at most.

    Args:
        path: the JSON file; it need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        found = json.loads(path.read_text(encoding='utf-8'))['networks'] if path.exists() else {}
        self.known: dict[str, Count] = {digest: known for digest, known in found.items() if known.keys() >= FIELDS}

    def missing(self, entries: Iterable[Entry]) -> list[Entry]:
        """One entry of every network that has not been counted."""
        first = {entry.digest: entry for entry in reversed(list(entries))}
        return [entry for digest, entry in reversed(first.items()) if digest not in self.known]

    def add(self, entries: Iterable[Entry], counter: Callable[[Entry], Count] = count) -> None:
        """Count the networks of ``entries`` one after another."""
        for entry in entries:
            self.known[entry.digest] = dict(first_config=entry.path, **counter(entry))
            self.write()

    def keep(self, entries: Iterable[Entry]) -> None:
        """Forget networks that no config has any more, and name the others after the first that has them."""
        first = {entry.digest: entry.path for entry in reversed(list(entries))}
        self.known = {digest: found | dict(first_config=first[digest]) for digest, found in self.known.items()
                      if digest in first}
        self.write()

    def write(self) -> None:
        networks = dict(sorted(self.known.items(), key=lambda item: item[1]['first_config']))
        write_json(self.path, dict(made_by='python tools/misc/model_zoo.py', networks=networks))
