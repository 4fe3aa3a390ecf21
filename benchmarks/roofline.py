"""What the step could cost at least: its bytes and operations against the device's measured copy and matmul rates."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.contestants import ours
from benchmarks.measure import Timing, free_memory, interleaved, rounded
from benchmarks.pictures import draw_pictures
from benchmarks.sizes import Sizes
from mask_frozen_detr.machine.config import Precision


class ByteCounter(TorchDispatchMode):
    """Bytes that operators read and write: every tensor in and out, none for views. What fusion saves, it does not."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs, outputs = _dense_tensors((args, kwargs)), _dense_tensors(result)
        read = {tensor.untyped_storage().data_ptr() for tensor in inputs}
        view = bool(inputs) and all(tensor.untyped_storage().data_ptr() in read for tensor in outputs)
        if func._schema.is_mutable or not view:
            self.bytes += sum(tensor.nbytes for tensor in inputs + outputs)
        return result


def _dense_tensors(tree: Any) -> list[Tensor]:
    """Tensors in `tree`, sparse ones as the dense ones that they consist of."""
    tensors = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
    return [
        part
        for tensor in tensors
        for part in (
            [tensor]
            if tensor.layout == torch.strided
            else [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
        )
    ]


def rates(sizes: Sizes, device: torch.device, precision: Precision, until: float) -> dict[str, float]:
    """copy: bytes/s, read and written. matmul: operations/s in the precision of training."""
    source = torch.randint(0, 255, (sizes.copy_bytes,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(sizes.matmul, sizes.matmul, device=device).to(dtype) for _ in range(2))
    works = {"copy": lambda: target.copy_(source), "matmul": lambda: a @ b}
    amounts = {"copy": 2 * sizes.copy_bytes, "matmul": 2 * sizes.matmul**3}
    found = {}
    for name, timing in interleaved(works, device, sizes.rounds, until).items():
        if isinstance(timing, str):
            raise RuntimeError(f"{name}: {timing}")
        found[name] = 1000 * amounts[name] / timing.median
    return found


def count(work: Any) -> tuple[int, int]:
    """Operations (2 a multiply-accumulate; none for sampling and resizing) and bytes of a call."""
    counter = ByteCounter()
    with FlopCounterMode(display=False) as flops, counter:
        work()
    return flops.get_total_flops(), counter.bytes


def roofline(
    sizes: Sizes, device: torch.device, precision: Precision, until: float
) -> tuple[list[dict[str, Any]], list[str]]:
    """The smallest batch's step and its frozen forward pass."""
    measured = rates(sizes, device, precision, until)
    free_memory(device)
    batch = sizes.batches[0]
    contestant = ours(sizes, draw_pictures(sizes, batch), device, precision)
    works = {"frozen forward": contestant.parts["frozen forward"], "training step": contestant.step}
    times = interleaved(works, device, sizes.rounds, until)
    rows, failures = [], []
    for name, work in works.items():
        timing = times[name]
        if not isinstance(timing, Timing):
            failures.append(f"{name}: {timing}")
            continue
        operations, moved = count(work)
        by_operations, by_bytes = 1000 * operations / measured["matmul"], 1000 * moved / measured["copy"]
        rows.append(
            {
                "what": name,
                "batch": batch,
                "10⁹ operations": rounded(operations / 1e9),
                "GB, nothing fused": rounded(moved / 1e9),
                "matmul 10¹² operations/s": rounded(measured["matmul"] / 1e12),
                "copy GB/s": rounded(measured["copy"] / 1e9),
                "ms by operations": rounded(by_operations),
                "ms by bytes": rounded(by_bytes),
                "ms measured": rounded(timing.median),
                "measured ÷ larger": rounded(timing.median / max(by_operations, by_bytes)),
            }
        )
    del contestant, works
    free_memory(device)
    return rows, failures
