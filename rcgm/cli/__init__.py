"""The command line: one module a command, with its words, its arguments and what it does.

Everything that takes time to import is imported by the command that runs, so that ``--help`` comes at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rcgm.cli import derivatives, encode, evaluate, export, info, plan, sample, train
from rcgm.cli.errors import exhausted, fail, missing_package

__all__ = ["main"]

COMMANDS = {
    "train": train,
    "sample": sample,
    "evaluate": evaluate,
    "encode": encode,
    "export": export,
    "derivatives": derivatives,
    "plan": plan,
    "info": info,
}

DESCRIPTION = """\
Train generative models that sample in one, two or a few steps.

  rcgm train configs/digits.yaml          train; all files go to runs/digits
  rcgm sample runs/digits --steps 1,2,4   draw samples with the trained network
  rcgm evaluate runs/digits               measure how good the samples are
  rcgm encode images latents ...          turn a folder of images into latents to train on
  rcgm export runs/digits                 write the network to one safetensors file or a folder
  rcgm derivatives --run runs/digits      measure how far derivatives of the network can be trusted
  rcgm plan configs/digits.yaml           compute whether a run fits the memory of its GPUs
  rcgm info                               what is installed, and which kernels will run

'rcgm COMMAND --help' explains a command and gives an example."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; ``arguments`` without the program's name, by default those of the process.

    Returns:
        The exit code: 0; 1 where training diverged or another process of it is gone; 2 for an error of the user's; 130
        where training was stopped.
    """
    options = _parse(arguments)
    try:
        return options.run_command(options)
    except KeyboardInterrupt:
        return fail("interrupted", code=130)
    except ModuleNotFoundError as error:
        message = missing_package(error)
        if options.traceback or message is None:
            raise
        return fail(message)
    except (ValueError, TypeError, OSError, RuntimeError, MemoryError) as error:
        message = exhausted(error, getattr(options, "output", None), options.less_memory)
        if message is None and isinstance(error, (ValueError, TypeError, OSError)):
            message = str(error)
        if options.traceback or message is None:
            raise
        return fail(message)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if rest:
        # argparse gives up on positional words after an option: 'train CONFIG --resume steps=10' ends here.
        if not hasattr(options, "overrides") or any(word.startswith("-") for word in rest):
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        options.overrides += rest
    return options


def _parser() -> argparse.ArgumentParser:
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="rcgm", description=DESCRIPTION, formatter_class=as_written)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        one = commands.add_parser(name, help=command.SHORT, description=command.TEXT, formatter_class=as_written)
        command.add_arguments(one)
        one.add_argument("--traceback", action="store_true", help="show the traceback of an error")
        one.set_defaults(run_command=command.run, less_memory=command.LESS_MEMORY)
    return parser
