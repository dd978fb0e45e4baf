"""The blocks of diffusers' transformers: where they are, and which streams of tokens pass through them."""

from __future__ import annotations

from typing import Any

from torch import nn

#: where transformers of diffusers have their blocks, in the order in which they run
BLOCK_LISTS = ('transformer_blocks', 'single_transformer_blocks', 'layers', 'blocks')
#: blocks of one stream that diffusers' table lacks
ONE_STREAM = ('SanaTransformerBlock', 'Lumina2TransformerBlock')


def streams_of(block: nn.Module) -> list[tuple[str, int | None]]:
    """(name of an argument, its place in the output) of each stream of tokens that a block passes on.

    diffusers keeps a table of its blocks for its own caches, and this is read here.

    Raises:
        ValueError: a block that is in no table.
    """
    from diffusers.hooks._helpers import TransformerBlockRegistry
    if type(block).__name__ in ONE_STREAM:
        return [('hidden_states', None)]
    entry = TransformerBlockRegistry.get(type(block))
    context = entry.return_encoder_hidden_states_index
    if context is None:
        return [(entry.hidden_states_argument_name, None)]
    return [(entry.hidden_states_argument_name, entry.return_hidden_states_index),
            (entry.encoder_hidden_states_argument_name, context)]


def block_lists(network: nn.Module) -> list[nn.ModuleList]:
    """The lists of transformer blocks whose streams are known, in the order in which they run."""
    children = dict(network.named_children())
    lists = [children.get(name) for name in BLOCK_LISTS]
    found = [blocks for blocks in lists if isinstance(blocks, nn.ModuleList) and len(blocks)]
    try:
        for blocks in found:
            for block in blocks:
                streams_of(block)
    except ValueError:
        return []
    return found


def block_ranges(network: nn.Module, front: int, back: int = 0) -> list[tuple[nn.ModuleList, int, int]]:
    """The ranges of blocks behind the first ``front`` and before the last ``back`` of all lists together."""
    lists = block_lists(network)
    total, before, found = sum(map(len, lists)), 0, []
    for blocks in lists:
        start, stop = max(front - before, 0), min(total - back - before, len(blocks))
        if start < stop:
            found.append((blocks, start, stop))
        before += len(blocks)
    return found


def image_tokens(block: nn.Module, output: Any) -> Any:
    """Of a transformer block that passes on two streams, the image's; any other output as it is."""
    try:
        places = [place for _, place in streams_of(block)]
    except ValueError:
        return output
    return output[places[0]] if isinstance(output, tuple) and places[0] is not None else output
