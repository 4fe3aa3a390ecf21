"""From torch to a program of ONNX: `trace`, and what stands in its way kept out of it for as long as it takes."""

import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mask_frozen_detr.errors import UserError, reason
from mask_frozen_detr.export.graph import OUTPUTS
from mask_frozen_detr.runtime.model import IMAGES, PICTURE, SIZES, THRESHOLD

PICTURES = 2  # of the batch that a trace is made with
BATCHED = (IMAGES, SIZES)  # inputs with an entry a picture
LARGEST_CONSTANT = 2**20  # numbers: weights that only have to be turned are, too
PASTED_AT = (61, 83)  # height and width, of none of the sizes that occur in a model
SMALLER = (0.7, 0.6)  # height and width of the second one, where graphs take padded pictures

_ABSENT = object()


def symbolic_length(value: Any) -> Any:
    """`len`, but of a tensor the symbol that stands for its length: `len` itself makes a number of it."""
    return value.shape[0] if isinstance(value, Tensor) else len(value)


def no_check(*_arguments: Any, **_keywords: Any) -> None:
    """Stands for transformers' checks of values, which would be operators without a counterpart in ONNX."""


@dataclass(frozen=True)
class Example:
    """Inputs of a graph, by name, with two pictures: smooth noise, no two alike, the second one padded if at all."""

    inputs: dict[str, Tensor]

    @classmethod
    def of(cls, height: int, width: int, padded: bool, pastes: bool = False, channels: int = 3) -> "Example":
        """Inputs of a canvas of so many pixels and channels. padded: `sizes` is an input. pastes: `picture` is one."""
        generator = torch.Generator().manual_seed(0)
        coarse = torch.randn(PICTURES, channels, max(2, height // 16), max(2, width // 16), generator=generator)
        images = nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
        inputs = {IMAGES: images, THRESHOLD: torch.tensor(0.0)}
        if padded:
            h, w = (max(1, round(part * side)) for part, side in zip(SMALLER, (height, width), strict=True))
            images[1, :, h:], images[1, :, :, w:] = 0, 0
            inputs[SIZES] = torch.tensor([[height, width], [h, w]])
        if pastes:
            inputs[PICTURE] = torch.tensor(PASTED_AT)
        return cls(inputs)

    def some(self, count: int | None, start: int = 0) -> dict[str, Tensor]:
        """The inputs with `count` of the pictures, or all."""
        end = None if count is None else start + count
        return {name: value[start:end] if name in BATCHED else value for name, value in self.inputs.items()}


def trace(
    graph: nn.Module, example: Example, opset: int, name: str, outputs: Sequence[str] = OUTPUTS
) -> tuple[Any, int | None]:
    """A graph of these inputs as a program of ONNX, and how many pictures it takes.

    None is any number, where that can be traced; else one. name: of the detector. outputs: their names. Raises
    UserError, which names the detector, for what cannot be traced or has no operators in ONNX.
    """
    batch = torch.export.Dim("batch")
    shapes = {input: {0: batch} if input in BATCHED else None for input in example.inputs}
    with traceable(graph):
        count = None
        try:
            captured = torch.export.export(graph, (), example.inputs, dynamic_shapes=shapes, strict=False)
        except Exception as dynamic:  # whatever a family's code brings about in a trace
            count = 1
            try:
                captured = torch.export.export(graph, (), example.some(1), strict=False)
            except Exception as error:
                raise UserError(f"{name}: cannot be exported: {reason(error)}; {reason(dynamic)}") from error
        try:
            program: Any = torch.onnx.export(
                captured,
                dynamo=True,
                opset_version=opset,
                input_names=list(example.inputs),
                output_names=list(outputs),
                optimize=False,  # `tidy` does what of it is worth its time
                verbose=False,
            )
        except Exception as error:
            raise UserError(f"{name}: an operator of it has no counterpart in ONNX: {reason(error)}") from error
        tidy(program.model)
    return program, count


def tidy(model: Any) -> None:
    """Fold what is constant in an `onnx_ir.Model`, in place, and drop what nothing reads.

    A third of the nodes is left, half the bytes, none of the sequences that TensorRT does not know, and nothing of
    where the code lies on this machine, which torch notes at every node.
    """
    from onnx_ir.passes import common
    from onnxscript.optimizer import fold_constants

    fold_constants(model, input_size_limit=LARGEST_CONSTANT, output_size_limit=LARGEST_CONSTANT)
    common.RemoveUnusedNodesPass()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.CommonSubexpressionEliminationPass()(model)
    common.ClearMetadataAndDocStringPass()(model)


@contextmanager
def traceable(model: nn.Module) -> Iterator[None]:
    """Within it the model's modules of transformers can be traced with a batch of any length."""
    names = {type(module).__module__ for module in model.modules()}
    modules = [sys.modules[name] for name in names if name.startswith("transformers.models.")]
    substitutes = {"len": symbolic_length, "torch_compilable_check": no_check}
    before = [(module, name, vars(module).get(name, _ABSENT)) for module in modules for name in substitutes]
    try:
        for module, name, _ in before:
            setattr(module, name, substitutes[name])
        yield
    finally:
        for module, name, value in before:
            if value is _ABSENT:
                delattr(module, name)
            else:
                setattr(module, name, value)


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps back what torch and onnxscript tell about their own workings."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx", "torch.export")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
