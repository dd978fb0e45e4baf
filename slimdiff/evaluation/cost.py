"""What a network costs: parameters, multiply-accumulates (MACs) in both conventions, and activations.

MACs, not FLOPs: one multiply-accumulate is one MAC and two FLOPs. Two totals, because papers and profilers disagree:

* ``conv_linear_macs``: convolutions and linear layers only, the published convention. The papers of latent and slim
  diffusion print what ptflops counts, which adds one for every bias, and two for every element of an ``nn.GroupNorm``:
  :attr:`Cost.ptflops` has their last digit, too;
* ``macs_with_attention``: plus matrix products of activations with each other, i.e. attention.

Biases, norms, activations, additions, pooling and Fourier transforms are in neither.

*Activations* are the elements that the counted operators write: what a network moves through memory beside its weights,
and a better guide to its speed than MACs where memory is the limit (Radosavovic et al., "Designing Network Design
Spaces", CVPR 2020, who count those of convolutions). Fused attention counts its result alone: it never writes the
products of queries and keys.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from math import prod
from typing import Any

import torch
from fvcore.nn import FlopCountAnalysis
from fvcore.nn.jit_handles import (
    addmm_flop_jit,
    bmm_flop_jit,
    conv_flop_jit,
    einsum_flop_jit,
    get_shape,
    linear_flop_jit,
)
from torch import Tensor, nn

from slimdiff.evaluation.common import eval_mode
from slimdiff.models.layers import CrossAttentionBlock
from slimdiff.tables import text_table

#: operator names in fvcore's counts that are layers with weights; ``addmm`` is a linear layer on a 2-D input.
LAYER_OPERATORS = ('conv', 'linear', 'addmm')
#: products of activations.
PRODUCT_OPERATORS = ('matmul', 'mm', 'bmm', 'baddbmm', 'einsum', 'scaled_dot_product_attention')


@dataclass
class ModuleCost:
    """Cost of one module, its children included."""

    name: str
    type: str
    params: int
    conv_linear_macs: int
    macs_with_attention: int
    activations: int = 0
    biases: int = 0

    @property
    def depth(self) -> int:
        return 0 if not self.name else self.name.count('.') + 1


@dataclass(repr=False)
class Cost:
    """Cost of one forward pass of a network; ``conv_linear_macs`` is the papers' convention."""

    params: int
    conv_linear_macs: int
    macs_with_attention: int
    activations: int = 0
    #: additions of a bias
    biases: int = 0
    #: what ptflops counts for GroupNorm
    norms: int = 0
    modules: list[ModuleCost] = field(default_factory=list)
    #: operators that count as zero though they may do work, by number of calls (elementwise ones are many).
    uncounted: dict[str, int] = field(default_factory=dict)

    @property
    def ptflops(self) -> int:
        """``conv_linear_macs`` as ptflops counts it, to the last digit that a paper prints: with biases and GroupNorms.

        ptflops adds the bias of a convolution at every pixel, that of a linear layer once. Here both count everywhere:
        the projections around attention are 1x1 convolutions in LDM's code, and linear layers here. It looks layers up
        by their very class: of LDM's norms that are those of transformer blocks, the others are of a subclass.
        """
        return self.conv_linear_macs + self.biases + self.norms

    def __repr__(self) -> str:
        return (f'parameters     {human(self.params)} ({self.params:,})\n'
                f'MACs           {human(self.conv_linear_macs)} published convention (convolutions and linear layers)\n'
                f'               {human(self.ptflops)} with biases and norms, as ptflops counted for the papers\n'
                f'               {human(self.macs_with_attention)} with the products of attention\n'
                f'activations    {human(self.activations)} numbers, written by the operators that are counted above')

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; the units are in the keys."""
        units = dict(conv_linear_macs='macs_published')
        totals = {units.get(key, key): value for key, value in asdict(self).items()}
        totals['modules'] = [{units.get(key, key): value for key, value in module.items()}
                             for module in totals['modules']]
        return totals

    def table(self, depth: int = 1) -> str:
        """Text table of the modules down to ``depth`` (0: the totals alone)."""
        header = ('module', 'type', 'params', 'MACs published', 'MACs with attention', 'activations')
        rows = [(m.name or '(total)', m.type, human(m.params), human(m.conv_linear_macs), human(m.macs_with_attention),
                 human(m.activations)) for m in self.modules if m.depth <= depth]
        return text_table(header, rows, left=2, rule=True)


def human(number: float) -> str:
    """Four significant digits and a unit: 21.1 M, 6.712 G."""
    for unit, size in (('T', 1e12), ('G', 1e9), ('M', 1e6), ('k', 1e3)):
        if abs(number) >= size:
            return f'{number / size:.4g} {unit}'
    return f'{number:.4g}'


def _attention_macs(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """Q K^T and its product with V, (..., L, E) x (..., S, E) x (..., S, Ev), a causal mask not considered."""
    query, key, value = (get_shape(tensor) for tensor in inputs[:3])
    length, width = query[-2:]
    keys, value_width = key[-2], value[-1]
    return Counter(scaled_dot_product_attention=prod(query[:-2]) * length * keys * (width + value_width))


def _baddbmm_macs(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    batch, rows, inner = get_shape(inputs[1])
    return Counter(baddbmm=batch * rows * inner * get_shape(inputs[2])[-1])


def _matmul_macs(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """Any ranks, broadcasting included: every output element is an inner product (fvcore's own takes equal batches)."""
    return Counter(matmul=prod(get_shape(outputs[0])) * get_shape(inputs[0])[-1])


def _einsum_macs(inputs: list[Any], outputs: list[Any]) -> Any:
    """Two operands: one MAC for every combination of all indices (fvcore rounds what numpy's planner prints)."""
    terms = inputs[0].toIValue().replace(' ', '').split('->')[0].split(',')
    if len(terms) != 2 or any('.' in term for term in terms):
        return einsum_flop_jit(inputs, outputs)
    shapes = [get_shape(tensor) for tensor in inputs[1].node().inputs()]
    sizes = {letter: size for term, shape in zip(terms, shapes) for letter, size in zip(term, shape)}
    return Counter(einsum=prod(sizes.values()))


#: what is counted: operator -> its MACs
_COUNTED = {
    'aten::_convolution': conv_flop_jit,
    'aten::linear': linear_flop_jit,
    'aten::addmm': addmm_flop_jit,
    'aten::mm': _matmul_macs,
    'aten::matmul': _matmul_macs,
    'aten::bmm': bmm_flop_jit,
    'aten::baddbmm': _baddbmm_macs,
    'aten::einsum': _einsum_macs,
    'aten::scaled_dot_product_attention': _attention_macs,
}
ACTIVATIONS = 'activations'
#: the name under which additions of a bias are counted
BIASES = 'biases'
NORMS = 'norms'
#: which input of an operator is its bias
_BIAS_AT = {'_convolution': 2, 'linear': 2, 'addmm': 0}


def _counter(operator: str, macs: Callable[..., Any]) -> Callable[..., Counter[str]]:
    """MACs and activations from one trace: a second one would run a network of 100 G MACs twice."""

    def count(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
        counted = macs(inputs, outputs)
        counted = Counter(counted) if isinstance(counted, Mapping) else Counter({operator: counted})
        counted[ACTIVATIONS] = prod(get_shape(outputs[0]))
        bias = _BIAS_AT.get(operator)
        if bias is not None and inputs[bias].type().kind() != 'NoneType':
            counted[BIASES] = counted[ACTIVATIONS]
        return counted

    return count


def _group_norm(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """ptflops' count: one for each element, another for scale and shift."""
    affine = inputs[2].type().kind() != 'NoneType'
    return Counter({NORMS: (1 + affine) * prod(get_shape(outputs[0]))})


class _Call(nn.Module):
    """Positional inputs for the tracer, keyword arguments and structured outputs handled here."""

    def __init__(self, module: nn.Module, kwargs: Mapping[str, Any]) -> None:
        super().__init__()
        self.module = module
        self.kwargs = dict(kwargs)

    def forward(self, *inputs: Any) -> tuple[Tensor, ...]:
        return tuple(_tensors(self.module(*inputs, **self.kwargs)))


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    values = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for item in values for tensor in _tensors(item)]


@contextmanager
def _quiet(name: str):
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _unfused():
    """``nn.TransformerEncoderLayer`` as separate operators: evaluation takes one fused operator, which has no count."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def count_cost(module: nn.Module, *inputs: Any, **kwargs: Any) -> Cost:
    """Count one forward pass of ``module(*inputs, **kwargs)`` by tracing it.

    Give a batch of one: counts are for the whole batch.
    """
    call = _Call(module, kwargs)
    analysis = FlopCountAnalysis(call, inputs)
    for operator, macs in _COUNTED.items():
        analysis.set_op_handle(operator, _counter(operator.removeprefix('aten::'), macs))
    analysis.set_op_handle('aten::group_norm', _group_norm)
    # fvcore warns of every elementwise operator; those that count as zero are in Cost.uncounted.
    with eval_mode(call), torch.no_grad(), _quiet('fvcore.nn.jit_analysis'), _unfused():
        counts = analysis.by_module_and_operator()
        uncounted = analysis.unsupported_ops()
    modules = [_module_cost(name, child, counts.get(f'module.{name}' if name else 'module', Counter()))
               for name, child in module.named_modules()]
    total = modules[0]
    plain = {id(child) for child in module.modules() if type(child) is nn.GroupNorm}
    plain |= {id(block.norm) for block in module.modules() if isinstance(block, CrossAttentionBlock)}
    norms = sum(int(counts.get(f'module.{name}' if name else 'module', {}).get(NORMS, 0))
                for name, child in module.named_modules() if id(child) in plain)
    return Cost(total.params, total.conv_linear_macs, total.macs_with_attention, total.activations, total.biases, norms,
                modules, dict(uncounted))


def _module_cost(name: str, module: nn.Module, counts: Mapping[str, float]) -> ModuleCost:
    published = sum(int(counts.get(operator, 0)) for operator in LAYER_OPERATORS)
    products = sum(int(counts.get(operator, 0)) for operator in PRODUCT_OPERATORS)
    return ModuleCost(name, type(module).__name__, sum(p.numel() for p in module.parameters()), published,
                      published + products, int(counts.get(ACTIVATIONS, 0)), int(counts.get(BIASES, 0)))
