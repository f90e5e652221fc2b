"""InfoUtil dataset distillation: python main.py --config=configs/cifar10_ipc10.py [--config.key=value ...]

Without flags it distils scikit-learn's scanned digits into ten images, in minutes on a CPU.
"""

import sys
from pathlib import Path

from absl import app, flags, logging

from infoutil_jax import config
from infoutil_jax.errors import ConfigError, EnvironmentFault, InfoUtilError

DEFAULT = str(Path(__file__).parent / "configs" / "digits_ipc1.py")
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


def parse(argv) -> list[str]:
    """Leaves no traceback for a mistyped flag."""
    try:
        rest = config.parse_flags(argv, DEFAULT)
        if rest[1:]:
            raise ConfigError(f"unexpected argument {rest[1]!r}; every argument is a flag, see --help.")
        return rest
    except ConfigError as error:
        sys.exit(complain(error))
    except SystemExit:  # --help was shown; absl leaves with 1
        sys.exit(0)


def complain(error: InfoUtilError) -> int:
    print(f"error: {error}", file=sys.stderr)
    return error.exit_code


def main(_) -> int:
    logging.set_verbosity(logging.WARNING)  # of the libraries; what a run has to say it prints
    try:
        settings = config.resolve(CONFIG.value)
        from infoutil_jax import compilation, pipeline, plan  # JAX only after the flags: --help answers at once

        if DRY_RUN.value:
            print(plan.describe(settings))
        else:
            compilation.keep_programs()
            pipeline.run(settings, workdir=WORKDIR.value, artifacts=ARTIFACTS.value)
    except InfoUtilError as error:
        return complain(error)
    except OSError as error:
        return complain(EnvironmentFault(f"{error}; check space and permissions, or choose another --workdir."))
    return 0


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
