"""PyTorch's FSDP2 as a model wrapper: moments, averages and stored weights are spread over the processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.dist import broadcast
from mmengine.registry import MODEL_WRAPPERS
from torch import Tensor, nn
from torch.distributed import get_world_size
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


@MODEL_WRAPPERS.register_module()
class FullyShard:
    """``model_wrapper_cfg = dict(type='FullyShard')``: :func:`torch.distributed.fsdp.fully_shard` on the model.

    All that is trained is one group, whose weights are whole during the forward and backward pass: slimmable networks,
    taps and sampling need no hooks within the network. It changes the model in place and is no module around it.

    Args:
        module: the model.
    """

    def __new__(cls, module: nn.Module) -> nn.Module:
        if hasattr(module, 'init_weights'):
            module.init_weights()
        for tensor in module.state_dict().values():  # all begin at the same weights, as DDP makes sure
            broadcast(tensor)
        mesh = init_device_mesh('cuda' if torch.cuda.is_available() else 'cpu', (get_world_size(), ))
        for parameter in module.parameters():
            parameter.data = parameter.data.contiguous()  # our convolutions' are channels_last, which FSDP refuses
        frozen = {parameter for parameter in module.parameters() if not parameter.requires_grad}
        return fully_shard(module, mesh=mesh, ignored_params=frozen)


def whole(data: Any) -> Any:
    """Nested data with every sharded tensor in it gathered, on the CPU. Collective."""
    if isinstance(data, DTensor):
        return data.full_tensor().cpu()
    if isinstance(data, Mapping):
        return {key: whole(value) for key, value in data.items()}
    return [whole(value) for value in data] if isinstance(data, list) else data


def like(value: Tensor, target: Tensor) -> Tensor:
    """``value``, of all of a tensor, sharded as ``target`` is. Collective."""
    if not isinstance(target, DTensor):
        return value
    return distribute_tensor(value.to(target.device), target.device_mesh, target.placements)


def optimizer_state_like(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The ``state_dict`` of an optimizer with what has a parameter's shape sharded as that parameter. Collective."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group['params']]
    return {**state, 'state': {
        index: {key: like(value, parameters[index])
                if isinstance(value, Tensor) and value.shape == parameters[index].shape else value
                for key, value in values.items()}
        for index, values in state['state'].items()}}
