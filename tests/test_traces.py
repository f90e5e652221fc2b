"""A run traces each of its programs once, however many classes, methods and students it has."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KERNELS = {"attribute", "crop", "score", "label", "teacher", "evaluate", "train"}  # whose functions are compiled

# A function is traced when JAX calls it, so wrapped functions count their traces. Those of one name, with equal
# closures and arguments of equal shapes, are one program, whichever Python object they are.
SCRIPT = """
import collections, functools, inspect, json, pathlib, re, sys
import flax.linen, jax, numpy, optax

traces = collections.Counter()

def name(fn, arguments):
    shapes = jax.tree.map(lambda a: f"{a.dtype}{a.shape}" if hasattr(a, "dtype") else a, arguments)
    text = f"{fn.__module__.split('.')[-1]} {fn.__qualname__} {shapes} {inspect.getclosurevars(fn).nonlocals}"
    return re.sub(" at 0x[0-9a-f]+", "", text)

def counting(transform):
    def transformed(fn=None, *args, **kwargs):
        if not getattr(fn, "__module__", "").startswith("infoutil_jax."):
            return transform(fn, *args, **kwargs) if fn else transform(*args, **kwargs)

        @functools.wraps(fn)
        def traced(*arguments):
            traces[name(fn, arguments)] += 1
            return fn(*arguments)

        return transform(traced, *args, **kwargs)
    return transformed

jax.jit, jax.pmap = counting(jax.jit), counting(jax.pmap)
from tests import test_pipeline as t

root = pathlib.Path(sys.argv[1])
sizes = dict(train__ant=9, train__bee=12, train__cat=10, val__ant=3, val__bee=3, val__cat=3)
students = dict(evaluate__seeds=2, evaluate__hard_seeds=2)
methods = ("infoutil", "random_images", "rded")
settings = t.tiny(methods=methods, teacher__min_times_chance=0.0, **students, **t.folder(root / "data", **sizes))
t.run(settings, root / "run")
print(json.dumps(traces))
"""


def test_every_program_is_traced_once(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], cwd=ROOT, env={**os.environ, "XLA_FLAGS": ""},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    traces = json.loads(done.stdout)
    assert {kernel.split()[0] for kernel in traces} >= KERNELS
    again = {kernel: times for kernel, times in traces.items() if times > 1}
    assert not again, "traced more than once: " + "\n".join(f"{times} x {kernel}" for kernel, times in again.items())
