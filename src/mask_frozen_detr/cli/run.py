"""From the words of a command line to a command that runs; what goes wrong becomes one line and exit code 2."""

import argparse
import os
import sys
from dataclasses import make_dataclass
from functools import partial
from typing import Annotated, Any

import tyro

from mask_frozen_detr.cli.annotate import Annotate
from mask_frozen_detr.cli.benchmark import Benchmark
from mask_frozen_detr.cli.compare import Compare
from mask_frozen_detr.cli.complexity import Complexity
from mask_frozen_detr.cli.convert import Convert
from mask_frozen_detr.cli.demo import Demo
from mask_frozen_detr.cli.detectors import Detectors
from mask_frozen_detr.cli.evaluate import Evaluate
from mask_frozen_detr.cli.export import Export
from mask_frozen_detr.cli.inspect import Inspect
from mask_frozen_detr.cli.predict import Predict
from mask_frozen_detr.cli.recipes import Recipes
from mask_frozen_detr.cli.reproduce import Reproduce
from mask_frozen_detr.cli.serve import Serve
from mask_frozen_detr.cli.train import Train, train_by_recipe
from mask_frozen_detr.errors import UserError, is_out_of_memory, reason, safe
from mask_frozen_detr.machine.memory import keep_freed_memory

NAME = "mask-frozen-detr"
ABOUT = "Instance masks for the DETR detector you already trust. `COMMAND --help` explains a command's options."
COMMANDS = {
    "inspect": Inspect,
    "train": Train,
    "evaluate": Evaluate,
    "compare": Compare,
    "predict": Predict,
    "export": Export,
    "annotate": Annotate,
    "serve": Serve,
    "benchmark": Benchmark,
    "demo": Demo,
    "detectors": Detectors,
    "convert": Convert,
    "recipes": Recipes,
    "reproduce": Reproduce,
    "complexity": Complexity,
}


def run_command(arguments: list[str]) -> int:
    """Returns the exit code: 0, or 2 after printing what the user can mend."""
    try:
        command = _parse(arguments)
        if isinstance(command, Train):
            command.parse_again = partial(_parse, arguments)
        keep_freed_memory()
        command.run()
    except UserError as error:
        return _refuse(str(error))
    except SystemExit as stop:  # after --help, what cannot be parsed, or a signal
        return int(stop.code or 0)
    except BrokenPipeError:  # whoever read what is printed has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # the disk is full, or this is not permitted
        if error.strerror is None:
            raise
        return _refuse(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return _refuse(f"{reason(error)}; smaller pictures, a lower --batch or fewer detections need less")
    return 0


def _refuse(message: str) -> int:
    print(f"{NAME}: {safe(message)}", file=sys.stderr)
    return 2


def _parse(arguments: list[str], defaults: Train | None = None) -> Any:
    """The command that the words name. defaults: of `train`, for what they leave open."""
    return tyro.cli(_commands(arguments, defaults), prog=NAME, args=arguments, description=ABOUT).command


def _commands(arguments: list[str], defaults: Train | None) -> type:
    """The type that is parsed, with a field `command`; a recipe that `train` names gives the defaults of the rest."""
    kinds: list[Any] = []
    for name, kind in COMMANDS.items():
        # The list of commands shows a line of each; its own help all there is to say.
        about = None if arguments[:1] == [name] else (kind.__doc__ or "").split("\n")[0]
        subcommand = tyro.conf.subcommand(name, description=about)
        if kind is Train and defaults is not None:
            subcommand = tyro.conf.subcommand(name, default=defaults)
        elif name == "train" and (recipe := _recipe_of(arguments)) is not None:
            subcommand = tyro.conf.subcommand(name, default=train_by_recipe(recipe))
        kinds.append(Annotated[kind, subcommand])
    union = kinds[0]
    for kind in kinds[1:]:
        union = union | kind
    # As a field of a class: of a bare union the messages would speak by an inner name of its own.
    return make_dataclass(
        "Commands", [("command", Annotated[union, tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes])]
    )


def _recipe_of(arguments: list[str]) -> str | None:
    """The recipe that a command line names, if it is one of `train`: it must be known before the rest is parsed."""
    if arguments[:1] != ["train"]:
        return None
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--recipe")
    try:
        return parser.parse_known_args(arguments[1:])[0].recipe
    except argparse.ArgumentError:  # no word behind it: the whole parser says so
        return None
