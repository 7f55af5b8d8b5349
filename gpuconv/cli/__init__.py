"""The command ``gpuconv``: train, summary, report, profile, bench, doctor."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from gpuconv import __version__
from gpuconv.cli.lines import say
from gpuconv.errors import GpuconvError, InvalidArgumentError, suggestion


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    0 for success, 2 for what the user can mend (said in one line), 130 after Ctrl-C.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    parser = _parser()
    options, others = parser.parse_known_args(arguments)
    if others and options.run is not _bench:
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    options.others = others
    try:
        status: int = options.run(options)
        return status
    except (GpuconvError, OSError) as error:
        say(f"gpuconv: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("gpuconv: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    # Each command's module is imported when it runs: --help needs none of them.
    parser = argparse.ArgumentParser(
        prog="gpuconv",
        description="Convolutional networks with hand-written gradients, on GPU and CPU.",
    )
    parser.add_argument("--version", action="version", version=f"gpuconv {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = commands.add_parser(
        "train",
        help="train a network on the bundled handwritten digits, or on other images",
        description="Train a convolutional network on 1,797 real handwritten digits, evaluate it "
        "on a held-out part, and leave a folder with the model, the history and pictures.",
    )
    train.add_argument(
        "--data",
        default=None,
        help="digits (default; bundled), mnist, fashion_mnist, cifar10 or cifar100 (downloaded)",
    )
    train.add_argument(
        "--data-path", default=None, help="folder or archive with the files, instead of a download"
    )
    train.add_argument(
        "--model",
        default=None,
        help="digits (default for digits), seed (default for others), lenet5, resnet18, "
        "mobilenet_v2, vgg11 or alexnet",
    )
    train.add_argument("--backend", default=None, help="auto (default), cpu, cuda, or an engine")
    train.add_argument("--epochs", type=int, default=None, help="default 20")
    train.add_argument("--batch-size", type=int, default=None, help="default 32")
    train.add_argument("--learning-rate", type=float, default=None, help="default 0.002")
    train.add_argument("--seed", type=int, default=None, help="default 0")
    train.add_argument("--out", default=None, help="run folder (default: runs/DATA-DATE-TIME)")
    train.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in --out, or with the latest in runs/",
    )
    train.set_defaults(run=_train)

    summary = commands.add_parser("summary", help="print the layers of a network or a model file")
    summary.add_argument("what", help="seed, digits, or the path of a saved model")
    summary.add_argument("--style", default="table", choices=["table", "classic"])
    summary.set_defaults(run=_summary)

    report = commands.add_parser(
        "report",
        help="write a run as one HTML page, for any browser and without network",
        description="Write what a run of 'gpuconv train' left as one HTML page: curves, confusion "
        "matrix, filters, feature maps, who computes what and why, and the time of each layer.",
    )
    report.add_argument("folder", metavar="RUN", help="the folder of the run")
    report.add_argument("--out", default=None, help="the file (default: RUN/report.html)")
    report.set_defaults(run=_report)

    profile = commands.add_parser(
        "profile",
        help="time the layers of a network in training steps",
        description="Time each layer of a network in training steps on made-up data: time, "
        "GFLOP/s, memory and engine, forwards and backwards.",
    )
    profile.add_argument(
        "--model", default="digits", help="a network's name or a saved model's path (digits)"
    )
    profile.add_argument("--batch", type=int, default=32, help="samples in a batch (32)")
    profile.add_argument("--backend", default=None, help="auto (default), cpu, cuda, or an engine")
    profile.set_defaults(run=_profile)

    # What it does not know itself goes to the benchmark, --help too: each has its own options.
    bench = commands.add_parser(
        "bench",
        help="time convolutions and training steps, beside PyTorch where it is installed",
        add_help=False,
        allow_abbrev=False,
    )
    bench.add_argument("--backend", default="auto", choices=["auto", "cpu", "cuda"])
    bench.set_defaults(run=_bench)

    doctor = commands.add_parser("doctor", help="say what can run here, and why the rest cannot")
    doctor.set_defaults(run=_doctor)
    return parser


def _train(options: argparse.Namespace) -> int:
    from gpuconv.cli.train import train

    return train(options)


def _summary(options: argparse.Namespace) -> int:
    from gpuconv import zoo
    from gpuconv.models import load_model

    networks = {"seed": zoo.seed_network, "digits": zoo.digits_network}
    make = networks.get(options.what)
    if make is None and not Path(options.what).exists():
        raise InvalidArgumentError(
            f"expected {', '.join(networks)} or the path of a saved model."
            f"{suggestion(options.what, networks)} Received: {options.what}"
        )
    model = load_model(options.what) if make is None else make()
    model.summary(style=options.style)
    return 0


def _report(options: argparse.Namespace) -> int:
    from gpuconv.cli.report import report

    return report(options)


def _profile(options: argparse.Namespace) -> int:
    from gpuconv.cli.profile import profile

    return profile(options)


def _bench(options: argparse.Namespace) -> int:
    backend = options.backend
    if backend == "auto":
        from gpuconv.backends.cuda_probe import probe_cuda

        backend = "cuda" if probe_cuda().available else "cpu"
    program = f"gpuconv bench --backend {backend}"
    if backend == "cuda":
        from gpuconv.benchmarks import gpu

        return gpu.main(options.others, program)
    from gpuconv.benchmarks import cpu

    return cpu.main(options.others, program)


def _doctor(options: argparse.Namespace) -> int:
    from gpuconv.diagnosis import doctor

    doctor()
    return 0
