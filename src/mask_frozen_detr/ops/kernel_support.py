"""Whether the Triton kernels run on a GPU, found out once; where they do not, a warning says why, once."""

import warnings

import torch

LOWEST_CAPABILITY = (8, 0)  # Triton supports no NVIDIA GPU before Ampere

_faults: dict[int, str | None] = {}
_told: set[str] = set()


@torch.compiler.assume_constant_result  # torch.compile asks, and does not trace the answer
def kernel_fault(index: int) -> str | None:
    """Why the kernels do not run on GPU `index`, told by a warning the first time; None where they run."""
    if index not in _faults:
        _faults[index] = try_kernels(index)
    fault = _faults[index]
    if fault is not None:
        warn_once(f"GPU {index}: {fault}")
    return fault


def try_kernels(index: int) -> str | None:
    """Run the forward kernel on one point of GPU `index`: what is in its way, or None."""
    if torch.version.cuda is None:
        return "this torch is not built for NVIDIA's CUDA, and the kernels have not been tried on other GPUs"
    capability = torch.cuda.get_device_capability(index)
    if capability < LOWEST_CAPABILITY:
        found, expected = (".".join(map(str, numbers)) for numbers in (capability, LOWEST_CAPABILITY))
        return f"found compute capability {found}, expected {expected} (Ampere) or later"
    try:
        import triton  # noqa: F401
    except ImportError:
        return "found no Triton, which comes with torch for CUDA on Linux; expected it to be installed"
    from mask_frozen_detr.ops.deformable_attention_triton import deformable_attention_triton

    try:
        with torch.no_grad():
            value, weights = torch.ones(1, 1, 1, 16, device=index), torch.ones(1, 1, 1, 1, 1, device=index)
            centre = torch.full((1, 1, 1, 1, 1, 2), 0.5, device=index)
            read = deformable_attention_triton(value, [(1, 1)], centre, weights)
            return None if bool((read == 1).all()) else "they compile, but read other values than they should"
    except Exception as error:  # Triton raises what it likes: no C compiler, no writable cache, an unknown card …
        return f"{type(error).__name__}: {error}"


def warn_once(reason: str) -> None:
    """Say that deformable attention runs without its kernels, and why; nothing while torch.compile traces."""
    if not torch.compiler.is_compiling() and reason not in _told:
        _told.add(reason)
        warnings.warn(
            f"deformable attention runs without its Triton kernels, several times slower: {reason}", stacklevel=3
        )
