"""ti-backbones <command>: pretrain, inspect, architectures.

Bad input ends in one line on stderr and exit code 2; `--debug` shows the stack trace instead.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path

from .errors import InputError
from .inspection import InspectConfig, inspect
from .objective import PRESETS, Objective
from .pretrain import PretrainConfig, pretrain

PROGRAM = "ti-backbones"
EXTRAS = {
    "tyro": "train",
    "matplotlib": "train",
    "tensorboard": "train",
    "webdataset": "data",
    "onnx": "export",
    "onnxscript": "export",
    "onnxruntime": "export",
}
HELP = f"""usage: {PROGRAM} COMMAND [options]

Image backbones whose latent moves the way the image does.

commands:
  pretrain       train a TI backbone on images, certify and save it
  inspect        certify a model on held-out images: error by angle, gain, moving share
  architectures  which timm architectures build and wrap, as a table

{PROGRAM} COMMAND --help explains a command; --debug shows stack traces.
"""


def _pretrain(config: PretrainConfig) -> None:
    certificate = pretrain(config)
    if certificate is not None:
        print(certificate.table())
        print(f"saved to '{config.out}'; load it with ti_backbones.TIBackbone.from_pretrained('{config.out}')")


def _inspect(config: InspectConfig) -> None:
    print(inspect(config).table())


def _preset(arguments: Sequence[str]) -> Objective:
    """The objective that the options refine: that of the preset which the command line names."""
    name = "o2"
    for this, following in itertools.pairwise([*arguments, ""]):
        if this.partition("=")[0] == "--preset":
            name = this.partition("=")[2] or following
    return PRESETS.get(name, PRESETS["o2"])


@dataclass
class SweepConfig:
    """Probe every timm architecture and write which build, which wrap, and why not."""

    out: Path | None = None
    """table to write, CSV; none if not given"""
    pattern: str = "*"
    """architectures to probe, such as 'resnet*'"""
    workers: int = 1
    """processes"""


def _sweep(config: SweepConfig) -> None:
    from . import sweep

    print(sweep.summarize(sweep.run(config.out, config.pattern, config.workers)))


@dataclass(frozen=True)
class Command:
    """Attributes: its configuration's class, what runs it, names of the tyro markers its arguments take."""

    config: type
    run: Callable
    markers: tuple[str, ...] = ()


COMMANDS = {
    "pretrain": Command(PretrainConfig, _pretrain),
    "inspect": Command(InspectConfig, _inspect, ("PositionalRequiredArgs",)),
    "architectures": Command(SweepConfig, _sweep),
}


def parse(name: str, arguments: Sequence[str]):
    """The configuration of a command from its arguments.

    Raises:
        InputError: for arguments that do not fit; what tyro says, in one line.
        SystemExit: after printing the help.
    """
    import tyro

    command, program, said = COMMANDS[name], f"{PROGRAM} {name}", io.StringIO()
    default = {f.name: tyro.MISSING for f in fields(command.config) if f.default is f.default_factory is MISSING}
    if command.config is PretrainConfig:
        default["objective"] = _preset(arguments)
    markers = [getattr(tyro.conf, m) for m in command.markers]
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            return tyro.cli(
                command.config, prog=program, args=list(arguments), default=command.config(**default), config=markers
            )
    except SystemExit as e:
        if not e.code:
            print(said.getvalue(), end="")
            raise
        raise InputError(f"{_one_line(said.getvalue())}; see {program} --help") from None


def _one_line(box: str) -> str:
    """The words of tyro's boxed error, without its frame, its title and the help that it repeats."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines()
    title, *body = [line.strip("│╭╮╰╯─ ") for line in plain if line.strip("│╭╮╰╯─- ")]
    said = list(itertools.takewhile(lambda line: not line.startswith(("Argument helptext", "For full helptext")), body))
    words = " ".join(line for line in said if "--help" not in line) or title.lower()
    return words[0].lower() + words[1:].rstrip(". ")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        0, or 2 for input that cannot be used.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    try:
        if not arguments or arguments[0] in ("-h", "--help", "help"):
            print(HELP, end="")
            return 0 if arguments else 2
        if arguments[0] == "--version":
            from . import __version__

            print(f"{PROGRAM} {__version__}")
            return 0
        name, *rest = arguments
        if name not in COMMANDS:
            raise InputError(f"unknown command '{name}': one of {', '.join(COMMANDS)}")
        COMMANDS[name].run(parse(name, rest))
        return 0
    except InputError as e:
        return _fail(e, debug, " ".join(str(e).split()))
    except ModuleNotFoundError as e:
        extra = EXTRAS.get((e.name or "").partition(".")[0])
        if extra is None:
            raise
        return _fail(e, debug, f"'{e.name}' is not installed: pip install 'ti-backbones[{extra}]'")
    except KeyboardInterrupt:
        print(f"\n{PROGRAM}: interrupted; add --resume to continue a pretraining", file=sys.stderr)
        return 130


def _fail(error: BaseException, debug: bool, message: str) -> int:
    if debug:
        raise error
    if int(os.environ.get("RANK", 0)):  # under torchrun one process speaks for all
        time.sleep(1)  # torchrun ends the others as soon as one has failed: let that one speak first
    else:
        print(f"{PROGRAM}: error: {message}", file=sys.stderr, flush=True)
    return 2


if __name__ == "__main__":
    sys.exit(main())
