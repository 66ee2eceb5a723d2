"""ti-backbones <command>: pretrain, inspect, finetune, evaluate, predict, data, convert, export, publish, and more.

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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from .compare.run import CompareConfig, compare
from .convert import ConvertConfig, convert
from .data.check import CheckConfig, check
from .data.pack import PackConfig, pack
from .data.show import ShowConfig, show
from .data.writer import MANIFEST
from .errors import InputError
from .export import ExportConfig, export
from .hub import PublishConfig, publish
from .inspection import InspectConfig, inspect
from .objective import PRESETS
from .pose.evaluate import EvaluateConfig, evaluate
from .pose.finetune import FinetuneConfig, finetune
from .pose.predict import PredictConfig, predict
from .pose.recipe import PRESETS as RECIPES
from .pretrain import PretrainConfig, pretrain

PROGRAM = "ti-backbones"
SHOWN = 20  # lines of what was left out
EXTRAS = {
    "tyro": "train",
    "matplotlib": "train",
    "tensorboard": "train",
    "webdataset": "data",
    "lightly": "compare",
    "onnx": "export",
    "onnxscript": "export",
    "onnxruntime": "export",
}
HELP = f"""usage: {PROGRAM} COMMAND [options]

Image backbones whose latent moves the way the image does.

commands:
  pretrain       train a TI backbone on images, certify and save it
  inspect        certify a model on held-out images: error by angle, gain, moving share
  finetune       train a pose head, and the backbone if wanted, on labelled hands
  evaluate       errors of a pose model on labelled hands: table, JSON, figures, official files
  predict        joints of hands in images, as JSON and drawings
  compare        pretrainings under one budget: scratch, autoencoders, SimCLR, PeCLR, TI
  data check     read every image and label of a set, count, name what is broken
  data pack      write a set's crops as tar shards, for fast training
  data show      draw a contact sheet of a set, with its joints
  convert        another library's checkpoint as a timm-keyed model folder
  export         write a model as ONNX, .pth, TorchScript or torch.export, checked against PyTorch
  publish        upload a model folder to the Hugging Face Hub, with its card
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


def _finetune(config: FinetuneConfig) -> None:
    best = finetune(config)
    if best is not None:
        errors = f"MPJPE {best['mpjpe']:.2f} mm, PA-MPJPE {best['pa_mpjpe']:.2f} mm"
        print(f"best by validation: epoch {best['epoch']:g}, {errors}")
        print(f"saved to '{config.out}'; measure it with {PROGRAM} evaluate {config.out} --data SPEC")


def _evaluate(config: EvaluateConfig) -> None:
    results = evaluate(config)
    print(results.table() if results else f"the joints of '{config.data}' are not public: nothing to measure")


def _predict(config: PredictConfig) -> None:
    print(f"{predict(config)} hands in '{config.out / 'joints.json'}'")


def _compare(config: CompareConfig) -> None:
    print(compare(config).table())
    print(f"saved to '{config.out}': report.json, table.md, curves.png, bars.png")


def _preset(arguments: Sequence[str], presets: Mapping[str, Any]) -> Any:
    """What the options refine: the preset which the command line names, else the first."""
    name = default = next(iter(presets))
    for this, following in itertools.pairwise([*arguments, ""]):
        if this.partition("=")[0] == "--preset":
            name = this.partition("=")[2] or following
    return presets.get(name, presets[default])


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


def _check(config: CheckConfig) -> int:
    report = check(config)
    print(report.table())
    return 1 if report.broken else 0


def _pack(config: PackConfig) -> None:
    writer = pack(config)
    entries, left_out = writer.written.values(), writer.left_out
    megabytes = sum(entry["bytes"] for entry in entries) / 1e6
    packed = sum(entry["samples"] for entry in entries)
    print(f"packed {packed} samples into {len(writer)} shards, {megabytes:.1f} MB; train with shards:{config.out}")
    for line in left_out[:SHOWN]:
        print(f"left out: {line}")
    if len(left_out) > SHOWN:
        print(f"left out {len(left_out) - SHOWN} more: see '{config.out / MANIFEST}'")


def _show(config: ShowConfig) -> None:
    print(f"{show(config)} images of {config.spec} in '{config.out}'")


def _convert(config: ConvertConfig) -> None:
    print(
        f"{convert(config).table()}\nwrote '{config.out}'; timm.create_model('local-dir:{config.out}', pretrained=True)"
    )


def _export(config: ExportConfig) -> None:
    print(export(config).text())


def _publish(config: PublishConfig) -> None:
    print(publish(config).text())


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        config: its configuration's class. run: what runs it; may give an exit code.
        positional: which of its fields are given without their names.
        interrupted: what to do after Ctrl-C.
        presets: a field, and what it starts from by the name of `--preset`; the first is the default.
        renamed: fields whose option has another name, one that Python keeps for itself.
    """

    config: type
    run: Callable
    positional: tuple[str, ...] = ()
    interrupted: str = ""
    presets: tuple[str, Mapping[str, Any]] | None = None
    renamed: Mapping[str, str] = field(default_factory=dict)


COMMANDS = {
    "pretrain": Command(
        PretrainConfig,
        _pretrain,
        interrupted="add --resume to continue a pretraining",
        presets=("objective", PRESETS),
    ),
    "inspect": Command(InspectConfig, _inspect, ("model",)),
    "finetune": Command(
        FinetuneConfig, _finetune, interrupted="add --resume to continue a fine-tuning", presets=("recipe", RECIPES)
    ),
    "evaluate": Command(EvaluateConfig, _evaluate, ("run",)),
    "predict": Command(PredictConfig, _predict, ("run", "images")),
    "compare": Command(CompareConfig, _compare, interrupted="the same command goes on", presets=("recipe", RECIPES)),
    "data check": Command(CheckConfig, _check, ("spec",)),
    "data pack": Command(PackConfig, _pack, ("spec",), "the same command continues"),
    "data show": Command(ShowConfig, _show, ("spec",)),
    "convert": Command(ConvertConfig, _convert, renamed={"source": "from"}),
    "export": Command(ExportConfig, _export, ("model",)),
    "publish": Command(PublishConfig, _publish, ("folder",), "what is published is as it was; run it again"),
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
    shown = _annotated(command)
    default = {f.name: tyro.MISSING for f in fields(command.config) if f.default is f.default_factory is MISSING}
    if command.presets is not None:
        default[command.presets[0]] = _preset(arguments, command.presets[1])
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            parsed = tyro.cli(shown, prog=program, args=list(arguments), default=shown(**default))
            return command.config(**{f.name: getattr(parsed, f.name) for f in fields(command.config)})
    except SystemExit as e:
        if not e.code:
            print(said.getvalue(), end="")
            raise
        raise InputError(f"{_one_line(said.getvalue())}; see {program} --help") from None


def _annotated(command: Command) -> type:
    """A configuration's class, some of whose fields tyro takes by position or by another name."""
    import tyro

    config = command.config
    marks = dict.fromkeys(command.positional, tyro.conf.Positional)
    marks |= {name: tyro.conf.arg(name=option) for name, option in command.renamed.items()}
    hints = {name: Annotated[get_type_hints(config)[name], mark] for name, mark in marks.items()}
    own = {"__annotations__": hints, "__doc__": config.__doc__, "__module__": config.__module__}
    return dataclass(type(config.__name__, (config,), own))


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
        0; 1 for data that is not sound; 2 for input that cannot be used.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    name, rest = _command(arguments)
    try:
        if name.rpartition(" ")[2] in ("", "data", "-h", "--help", "help"):  # of all commands, or of a group's
            print(HELP, end="")
            return 0 if name.endswith(("-h", "help")) else 2
        if arguments[0] == "--version":
            from . import __version__

            print(f"{PROGRAM} {__version__}")
            return 0
        if name not in COMMANDS:
            raise InputError(f"unknown command '{name}': one of {', '.join(COMMANDS)}")
        return COMMANDS[name].run(parse(name, rest)) or 0
    except InputError as e:
        return _fail(e, debug, " ".join(str(e).split()))
    except ModuleNotFoundError as e:
        extra = EXTRAS.get((e.name or "").partition(".")[0])
        if extra is None:
            raise
        return _fail(e, debug, f"'{e.name}' is not installed: pip install 'ti-backbones[{extra}]'")
    except KeyboardInterrupt:
        way_on = COMMANDS[name].interrupted if name in COMMANDS else ""
        print(f"\n{PROGRAM}: interrupted{way_on and f'; {way_on}'}", file=sys.stderr)
        return 130


def _command(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The command's name, of one or two words, and its arguments."""
    words = 2 if any(name.startswith(f"{arguments[0]} ") for name in COMMANDS if arguments) else 1
    return " ".join(arguments[:words]), list(arguments[words:])


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
