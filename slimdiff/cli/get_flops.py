"""``slimdiff get_flops``: parameters, MACs and activations of a config's network."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from slimdiff.cli.common import add_config_arguments, load_checked_config, runs_cleanly


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='slimdiff get_flops',
        description='Print the parameters and multiply-accumulates (MACs; FLOPs = 2 x MACs) of one forward pass of the '
        "config's UNet on one sample, in both conventions: published (convolutions and linear layers, what ptflops "
        'counts) and with the products of attention; and the activations that these operators write.')
    add_config_arguments(parser)
    parser.add_argument('--json', metavar='FILE', help='also write all counts there')
    parser.add_argument('--depth', type=int, default=1, help='levels of modules in the table (0: the total alone)')
    parser.add_argument('--context-length', type=int,
                        help="tokens of encoder_hidden_states, for networks with cross-attention (default: the text "
                        "encoder's, or 1)")
    return parser.parse_args(argv)


@runs_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    args = parse_args(argv)
    config = load_checked_config(args)
    # Here, not above: `--help` answers at once.
    from slimdiff.checkpoint import write_json
    from slimdiff.evaluation.cost import human
    from slimdiff.evaluation.unet_cost import class_parameters, context_length_of, unet_cost, unet_inputs
    from slimdiff.models.serving import serving_config
    from slimdiff.registry import MODELS
    model = MODELS.build(serving_config(config.model))
    cost = unet_cost(model, args.context_length or context_length_of(model))
    shape = unet_inputs(model.unet)[0][0].shape[1:]
    print(cost.table(args.depth))
    print(f'\ninput          {"x".join(map(str, shape))}, one sample')
    print(cost)
    if tokens := class_parameters(model.unet):
        print(f'               {human(tokens)} of them are those of class embeddings (LDM counts these apart)')
    if args.json:
        path = Path(args.json)
        write_json(path, dict(config=str(args.config), input=list(shape), class_params=tokens, **cost.to_dict()))
        print(f'written        {path}')
    return 0
