"""InfoUtil dataset distillation.

python main.py --config=configs/cifar10_ipc10.py [--config.key=value ...]   a run, or the rest of an interrupted one
python main.py join --config=... --workdir=DIR    puts together what runs with --shard=i/n did in DIR
python main.py rate DIR      bits per class of a distilled set, a run's sets, CLASS/IMAGE files or a FILE.iuc, by part
python main.py verify DIR    checks every byte of a distilled set, a workdir or a folder of artifacts

Without flags it distils scikit-learn's scanned digits into ten images, in minutes on a CPU. A config that is a .py file
is a program and is run; a .json file holds values only.
"""

import os
import sys
from pathlib import Path

from absl import app, flags, logging

from infoutil_jax import config, guard, progress
from infoutil_jax.errors import ConfigError, InfoUtilError

DEFAULT = str(Path(__file__).parent / "configs" / "digits_ipc1.py")
COMMANDS = {"join": (), "rate": ("DIR",), "verify": ("DIR",)}
CONFIG = config.define_flag()
WORKDIR = flags.DEFINE_string(
    "workdir", "", "Folder of the run, by default new, under runs/; an existing one is continued, never overwritten"
)
ARTIFACTS = flags.DEFINE_string(
    "artifacts", "", "Folder of teachers, attributions and scores, shared by runs that name it; by default in workdir"
)
DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Print the plan (evaluations, FLOPs, memory, bytes, what is missing) and stop, touching no data"
)
STRICT = flags.DEFINE_bool("strict", False, "What would be a warning stops the run")
SHARD = flags.DEFINE_string("shard", "", "i/n: only the classes whose number leaves i when divided by n; then join")
ACCELERATOR = flags.DEFINE_bool("require_accelerator", False, "Stop where JAX finds CPUs only")
COORDINATOR = flags.DEFINE_string("coordinator", "", "HOST:PORT of process 0 of several, or 'auto'; docs/clusters.md")
PROCESSES = flags.DEFINE_integer("processes", None, "How many processes there are")
PROCESS = flags.DEFINE_integer("process", None, "Which of them this is, from 0 on")


def parse(argv) -> list[str]:
    """Leaves no traceback for a mistyped flag."""
    try:
        rest = config.parse_flags(argv, DEFAULT)
        config.require_command(rest[1:], COMMANDS)
        return rest
    except ConfigError as error:
        sys.exit(complain(error))
    except SystemExit:  # --help was shown; absl leaves with 1
        sys.exit(0)


def complain(error: InfoUtilError) -> int:
    print(f"{error.label}: {error}", file=sys.stderr)
    return error.exit_code


def main(argv) -> int:
    logging.set_verbosity(logging.WARNING)  # of the libraries; what a run has to say it prints
    try:
        with guard.machine_faults():
            return act(*argv[1:])
    except InfoUtilError as error:
        return complain(error)
    except KeyboardInterrupt:
        print("stopped: at once; the same command goes on from what was saved.", file=sys.stderr)
        return 130


def act(command: str = "", directory: str = "") -> int:
    """The command's exit code. Imports JAX only here: --help answers at once."""
    settings = None if command in ("rate", "verify") else config.resolve(CONFIG.value)
    from infoutil_jax import compilation, parallel, pipeline, plan, processes

    progress.restart(strict=STRICT.value)
    if command == "verify":
        from infoutil_jax import verify

        return verify.run(Path(directory))
    if command == "rate":
        from infoutil_jax.rate import accounting, container

        file = Path(directory).is_file()
        return container.show(directory) if file else accounting.show(directory, ARTIFACTS.value)
    part = processes.parse_part(SHARD.value) if SHARD.value else processes.WHOLE
    processes.start(COORDINATOR.value, PROCESSES.value, PROCESS.value)
    if ACCELERATOR.value:
        parallel.require_accelerator()
    if DRY_RUN.value:
        print(plan.describe(settings))
        return 0
    compilation.keep_programs()
    work = pipeline.join if command == "join" else pipeline.run
    work(settings, workdir=WORKDIR.value, artifacts=ARTIFACTS.value, shard=part)
    return 0


def run(argv) -> int:
    """`main`, but a failure leaves at once: threads that read ahead, and other processes, are not waited for."""
    code = main(argv)
    if code:
        sys.stdout.flush()
        os._exit(code)
    return code


if __name__ == "__main__":
    with progress.readers_may_leave():
        app.run(run, flags_parser=parse)
