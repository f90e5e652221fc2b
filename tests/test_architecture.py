"""The house stands: imports point one way, each outside library has one door, and importing does nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "infoutil_jax"

# From the ground up. A module may import from the layers below its own, and from its own folder unless that is stages.
LAYERS = [
    ["errors", "types", "keys", "losses", "metrics", "optim"],
    ["checks", "clock", "compilation", "durable", "utility", "coresets"],
    ["guard"],
    ["progress", "processes"],
    ["tfrecord", "store", "examples"],
    ["checkpoints", "parallel", "data", "models", "attribution", "records", "pictures", "findings"],
    ["train", "layerwise", "report", "weights", "provenance"],
    ["stages", "selfcheck", "pretrained"],
    ["settings"],
    ["config", "distil", "plan"],
    ["rate"],
    ["results", "teachers"],
    ["sets"],
    ["pipeline"],
    ["verify"],
]
DOORS = {  # library -> the only modules that may import it, at their top or inside a function
    "ml_collections": {"config"},
    "absl": {"config"},
    "orbax": {"checkpoints"},
    "safetensors": {"weights"},
    "tensorflow_datasets": {"data.tfds_source", "plan", "records", "examples"},
    "sklearn": {"data.digits", "coresets"},
    "jinja2": {"report"},
    "google_crc32c": {"tfrecord"},
    "tqdm": {"progress"},
    "constriction": {"rate.entropy"},
}
HEAVY = {"orbax", "tensorflow_datasets", "sklearn", "tqdm", "constriction"}  # imported inside functions only
FORBIDDEN = {"tensorflow", "torch", "torchvision", "pickle", "dill", "shelve", "yaml", "requests"}
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}


def imports(path, *, inside_functions=True):
    """Full names of what a file imports, 'infoutil_jax.train' for `from infoutil_jax import train`."""
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if inside_functions else tree.body
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own(path):
    """Modules of the package that a file imports, without the package's name."""
    for name in imports(path):
        if name.startswith("infoutil_jax."):
            parts = name.split(".")[1:]
            while parts and ".".join(parts) not in MODULES:
                parts.pop()  # names inside a module
            if parts:
                yield ".".join(parts)


def layer(module):
    found = [i for i, names in enumerate(LAYERS) if module.split(".")[0] in names]
    assert len(found) == 1, f"{module} is in {len(found)} layers; give it one in LAYERS"
    return found[0]


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"__init__"}))
def test_imports_point_downwards(module):
    for other in own(MODULES[module]):
        inner = module.split(".")[0] == other.split(".")[0] != "stages"
        assert inner or layer(other) < layer(module), f"{module} imports {other}, which is not below it"


def test_every_layer_name_exists():
    assert {name for names in LAYERS for name in names} == {module.split(".")[0] for module in MODULES} - {"__init__"}


def test_stages_import_no_stage_and_do_not_know_the_disk():
    stages = [module for module in MODULES if module.startswith("stages.")]
    unknown = {"stages", "store", "checkpoints", "records", "tfrecord", "settings", "config"}
    assert len(stages) == 8
    for module in stages:
        assert not unknown & {other.split(".")[0] for other in own(MODULES[module])}, module


def test_models_and_numerics_know_no_device_and_no_setting():
    unknown = {"parallel", "settings", "config", "data", "store"}
    for module in MODULES:
        if module.split(".")[0] in ("models", "attribution", "losses", "metrics", "optim", "utility", "layerwise"):
            assert not unknown & {other.split(".")[0] for other in own(MODULES[module])}, module


def test_a_run_knows_of_rates_only_what_its_sets_cost():
    outside = {m: path for m, path in MODULES.items() if not m.startswith("rate")}
    using = {(m, other) for m, path in outside.items() for other in own(path) if other.startswith("rate")}
    assert using == {("sets", "rate.accounting"), ("pipeline", "rate.accounting")}
    assert not any(other.startswith("rate") for other in own(MODULES["rate.accounting"]))


@pytest.mark.parametrize("library", DOORS)
def test_each_outside_library_has_its_door(library):
    using = {m for m, path in MODULES.items() if any(n.split(".")[0] == library for n in imports(path))}
    assert using == DOORS[library]


def test_heavy_libraries_are_imported_inside_functions():
    for module, path in MODULES.items():
        assert not HEAVY & {name.split(".")[0] for name in imports(path, inside_functions=False)}, module


def test_forbidden_libraries_are_never_imported():
    for module, path in {**MODULES, "main": ROOT / "main.py"}.items():
        names = {name.split(".")[0] for name in imports(path)}
        assert not FORBIDDEN & names, module


def names_used(path):
    """Identifiers, attributes, keywords and imported names in a file's code, not in its comments or texts."""
    for node in ast.walk(ast.parse(path.read_text())):
        yield from (getattr(node, field) for field in ("id", "attr", "arg", "name") if hasattr(node, field))


def test_only_parallel_names_the_ways_to_spread_work():
    ways = {"pmap", "Mesh", "PartitionSpec", "NamedSharding", "shard_map"}
    using = {module for module, path in MODULES.items() if ways & set(names_used(path))}
    assert using == {"parallel"}


def test_nothing_is_evaluated_or_unpickled():
    for module, path in MODULES.items():
        assert not {"eval", "exec", "allow_pickle", "pickle", "__import__"} & set(names_used(path)), module


def test_only_main_and_config_know_flags_and_main_is_small():
    assert len((ROOT / "main.py").read_text().splitlines()) < 110
    for path in PACKAGE.rglob("*.py"):
        assert not any(n.startswith("main") for n in imports(path))


IMPORT_ALL = """
import builtins, pathlib, sys
import absl.flags, flax.linen, jinja2, jax, ml_collections.config_flags, numpy, optax, PIL.Image  # theirs is theirs
opened, real = [], builtins.open
def watched(file, *args, **kwargs):
    opened.append(str(file))
    return real(file, *args, **kwargs)
builtins.open = watched
before = set(absl.flags.FLAGS)
for name in sys.argv[1:]:
    __import__(name)
assert not opened, opened
assert set(absl.flags.FLAGS) == before, "a module defines flags"
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized(), "a module touches a device"
heavy = {"tensorflow", "torch", "tensorflow_datasets", "sklearn", "orbax"} & set(sys.modules)
assert not heavy, heavy
"""


def test_importing_everything_touches_no_device_no_file_and_nothing_heavy():
    names = [f"infoutil_jax.{module}" for module in sorted(set(MODULES) - {"__init__"})]
    command = [sys.executable, "-c", IMPORT_ALL, *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-1000:]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_files_are_small_and_lines_are_short(module):
    lines = MODULES[module].read_text().splitlines()
    assert len(lines) <= 300
    assert not [i for i, line in enumerate(lines, start=1) if len(line) > 120]
