"""The libraries that run a graph, behind one call: names and arrays in, named arrays out."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np

from mask_frozen_detr.errors import UserError, check_choice, reason
from mask_frozen_detr.machine.config import Runtime

Session = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


def open_session(graph: Path, opset: int, runtime: Runtime = "onnxruntime", threads: int | None = None) -> Session:
    """A graph, ready to run on the CPU.

    threads: of the runtime; None leaves the number to it. Raises UserError where the runtime is not installed, or
    cannot take the graph.
    """
    check_choice("runtime", runtime, get_args(Runtime))
    opened = _onnxruntime if runtime == "onnxruntime" else _openvino
    try:
        return opened(graph, threads)
    except ImportError as error:
        extra = "onnx" if runtime == "onnxruntime" else runtime
        raise UserError(
            f"runtime {runtime!r}: is not installed ({reason(error)}); pip install 'mask-frozen-detr[{extra}]'"
        ) from error
    except Exception as error:  # each runtime raises its own
        raise UserError(
            f"{graph}: {runtime} {_version(runtime)} cannot take this graph of opset {opset}: {reason(error)}; install "
            "a newer one, or export with a lower --opset"
        ) from error


def _onnxruntime(graph: Path, threads: int | None) -> Session:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    if threads is not None:
        options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, dict(inputs)), strict=True))


def _openvino(graph: Path, threads: int | None) -> Session:
    import openvino

    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    compiled = openvino.Core().compile_model(str(graph), "CPU", settings)
    taken = {name for port in compiled.inputs for name in port.get_names()}

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = compiled({name: value for name, value in inputs.items() if name in taken})
        return {port.get_any_name(): np.array(value) for port, value in found.items()}

    return run


def _version(runtime: Runtime) -> str:
    import importlib.metadata

    return importlib.metadata.version(runtime)
