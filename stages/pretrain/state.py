"""The state of a training as tensors: copied out of model, optimizers and history, and put back into them.

    model/<parameter>   optimizer/<optimizer>.<parameter's number>.<name>   history/<column>

Where FSDP2 has cut the parameters, each process copies its own slice of each, along the first axis. Where tensor
parallelism has cut them, too, and along other axes, they are put together one at a time, and the first process copies
them whole. What is put back is always whole, and each process takes its part of it, so the number of processes may be
another one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate
from torch.optim import Optimizer

from stages.pretrain.history import Step, from_tensors, to_tensors

PARTS = ("model", "optimizer", "history")


@dataclass(frozen=True)
class Share:
    """What a process writes of the state: slice `number` of `count`; or, once all have `gathered` it, the first all."""

    number: int = 0
    count: int = 1
    gathered: bool = False


@dataclass(frozen=True)
class State:
    """A copy, on the CPU, of a share of the state after `step` steps: the tensors of each part by their names."""

    step: int
    share: Share
    parts: dict[str, dict[str, Tensor]]


def share_of(model: nn.Module, rank: int) -> Share | None:
    """What the process `rank` writes of the state of `model`; None if others have the same, and write it."""
    cuts = [parameter for parameter in model.parameters() if isinstance(parameter, DTensor)]
    if not cuts:
        return None if rank else Share()
    if any("tp" in (cut.device_mesh.mesh_dim_names or ()) for cut in cuts):
        return Share(gathered=True)
    cut = cuts[0]
    *replica, number = cut.device_mesh.get_coordinate() or [0]
    return None if any(replica) else Share(number, cut.device_mesh.size(-1))


def snapshot(
    model: nn.Module, optimizers: Sequence[Optimizer], steps: Sequence[Step], share: Share, wanted: bool = True
) -> State:
    """A copy of this process's share of the state after `steps`: training may go on while it is written.

    Of a share that is gathered all processes must ask for it, and those that don't want it get an empty one.
    """
    parts = {"model": weights(model), "optimizer": _of_optimizers(optimizers), "history": to_tensors(steps)}
    return State(len(steps), share, {part: _copies(tensors, share, wanted) for part, tensors in parts.items()})


def _copies(tensors: dict[str, Tensor], share: Share, wanted: bool) -> dict[str, Tensor]:
    copies = {}
    for name, tensor in tensors.items():
        mine = whole_tensor(tensor) if share.gathered else _here(tensor)
        if wanted and (isinstance(tensor, DTensor) or share.number == 0):  # what isn't cut is the same everywhere
            copies[name] = mine.detach().to("cpu", copy=True).contiguous()
    return copies


def weights(model: nn.Module) -> dict[str, Tensor]:
    """The parameters and persistent buffers of `model`, each tensor once, as this process has them."""
    every = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    aliases = every - {name for name, _ in model.named_parameters()}
    return {name: tensor.detach() for name, tensor in model.state_dict().items() if name not in aliases}


def whole_weights(model: nn.Module, wanted: bool = True) -> dict[str, Tensor]:
    """`weights`, whole and copied to the CPU; all processes must call it, and those that don't want them get none."""
    return _copies(weights(model), Share(gathered=True), wanted)  # one at a time: it may be that only one fits


def whole_tensor(tensor: Tensor) -> Tensor:
    """`tensor`, put together if processes have slices of it; they all must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def cut_alike(tensor: Tensor, like: Tensor) -> Tensor:
    """The whole `tensor`, which all processes have, cut as `like` is."""
    if not isinstance(like, DTensor):
        return tensor
    mesh = like.device_mesh
    everywhere = DTensor.from_local(tensor.to(like.device), mesh, [Replicate()] * mesh.ndim, run_check=False)
    return everywhere.redistribute(placements=like.placements)


def restore(tensors: Iterable[tuple[str, Tensor]], model: nn.Module, optimizers: Sequence[Optimizer]) -> list[Step]:
    """Put a state, whole and by name, into `model` and `optimizers`; return the steps that it is of.

    Without tensors nothing is changed and there are no steps: training starts at step 0.
    """
    own = weights(model)
    trained = [[p for group in optimizer.param_groups for p in group["params"]] for optimizer in optimizers]
    states: list[dict[int, dict[str, Tensor]]] = [{} for _ in optimizers]
    history: dict[str, Tensor] = {}
    for key, tensor in tensors:
        part, _, name = key.partition("/")
        if part == "model":
            own[name].copy_(cut_alike(tensor, own[name]))
        elif part == "optimizer":
            number, index, field = name.split(".", 2)
            like = trained[int(number)][int(index)]
            value = cut_alike(tensor, like) if tensor.shape == like.shape else tensor
            states[int(number)].setdefault(int(index), {})[field] = value
        else:
            history[name] = tensor
    if not history:
        return []
    for optimizer, state in zip(optimizers, states, strict=True):
        # The groups are those of the params: a learning rate is never read out of a checkpoint.
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return from_tensors(history)


def _of_optimizers(optimizers: Sequence[Optimizer]) -> dict[str, Tensor]:
    return {
        f"{number}.{index}.{name}": tensor
        for number, optimizer in enumerate(optimizers)
        for index, state in optimizer.state_dict()["state"].items()
        for name, tensor in state.items()
    }


def _here(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
