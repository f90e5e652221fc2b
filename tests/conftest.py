"""Every test runs on eight forced CPU devices, with silent promotions and warnings turned into errors."""

import os
import pathlib

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Workers and the processes that tests start share what one of them has compiled: the single operations too, which
# together take about as long as the large programs.
CACHE = pathlib.Path(__file__).resolve().parents[1] / ".cache" / "jax"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import jax  # noqa: E402  (the settings above must come first)

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
