"""``slimdiff get_flops``: parameters and MACs of a config's network."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimdiff.cli.common import add_config_arguments, load_checked_config, runs_cleanly

if TYPE_CHECKING:
    from torch import Tensor, nn

    from slimdiff.evaluation.cost import Cost


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='slimdiff get_flops',
        description='Print the parameters and multiply-accumulates (MACs; FLOPs = 2 x MACs) of one forward pass of the '
        "config's UNet on one sample, in both conventions: published (convolutions and linear layers, what ptflops "
        'counts) and with the products of attention.')
    add_config_arguments(parser)
    parser.add_argument('--json', metavar='FILE', help='also write all counts there')
    parser.add_argument('--depth', type=int, default=1, help='levels of modules in the table (0: the total alone)')
    parser.add_argument('--context-length', type=int,
                        help="tokens of encoder_hidden_states, for networks with cross-attention (default: the text "
                        "encoder's, or 1)")
    return parser.parse_args(argv)


def unet_inputs(unet: nn.Module, context_length: int = 1) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Zeros for one sample, by the UNet's config: positional and keyword arguments."""
    import torch

    from slimdiff.models.unets.context import expected_context
    config = unet.config
    inputs = (torch.zeros(1, config.in_channels, config.sample_size, config.sample_size), torch.tensor([0]))
    kwargs: dict[str, Tensor] = {}
    if config.get('num_classes'):
        kwargs['class_labels'] = torch.tensor([0])
    width = expected_context(unet)
    if width:
        kwargs['encoder_hidden_states'] = torch.zeros(1, context_length, width)
    return inputs, kwargs


def context_length_of(model: Any) -> int:
    """Tokens of the context that a model's text encoder gives; 1 without one."""
    conditioner = getattr(model, 'conditioner', None)
    return 1 if conditioner is None else conditioner.max_length


def unet_cost(model: Any, context_length: int = 1) -> Cost:
    """Cost of the ``unet`` of a built algorithm."""
    from slimdiff.evaluation.cost import count_cost
    inputs, kwargs = unet_inputs(model.unet, context_length)
    return count_cost(model.unet, *inputs, **kwargs)


@runs_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    args = parse_args(argv)
    # Here, not above: `--help` answers at once.
    from slimdiff.evaluation.cost import human
    from slimdiff.models.serving import serving_config
    from slimdiff.registry import MODELS

    config = load_checked_config(args)
    model = MODELS.build(serving_config(config.model))
    cost = unet_cost(model, args.context_length or context_length_of(model))
    shape = unet_inputs(model.unet)[0][0].shape[1:]
    print(cost.table(args.depth))
    print(f'\ninput          {"x".join(map(str, shape))}, one sample')
    print(f'parameters     {human(cost.params)} ({cost.params:,})')
    print(f'MACs           {human(cost.published)} published convention (convolutions and linear layers)')
    print(f'               {human(cost.with_attention)} with the products of attention')
    if args.json:
        path = Path(args.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dict(config=str(args.config), input=list(shape), **cost.to_dict()), indent=1) + '\n')
        print(f'written        {path}')
    return 0
