"""Compiled programs are kept on disk between runs: the second start of a command compiles next to nothing."""

import os
import sys
import tempfile
from pathlib import Path

import jax

LEAST_SECONDS = 0.1  # what compiles faster is not worth a file


def keep_programs() -> None:
    """Turns on JAX's persistent compilation cache below $XDG_CACHE_HOME or ~/.cache.

    JAX_COMPILATION_CACHE_DIR, or a caller's own setting, goes first; empty it means no cache. A folder that cannot be
    written costs a note on stderr, no more.

    A program's key holds the jaxlib, the devices and the CPU's features (jax 0.10.2: another --xla_cpu_max_isa is
    another key), so machines that share a home directory do not run each other's instructions.
    """
    if jax.config.jax_compilation_cache_dir is not None:
        return
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "infoutil_jax" / "jax"
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        print(f"note: compiled programs are not kept ({error}); set JAX_COMPILATION_CACHE_DIR.", file=sys.stderr)
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)
