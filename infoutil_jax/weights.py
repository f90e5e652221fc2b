"""Teachers from elsewhere (docs/teachers.md): weights out of a safetensors file, all of them or an error.

A layout (models/layout.py) says how a library names its tensors; ours is the dotted paths of our own variables.
"""

import contextlib
import json
import re
import shlex
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from infoutil_jax import models, store
from infoutil_jax.data import classes
from infoutil_jax.errors import ConfigError, CorruptArtifact, DataError, NumericError
from infoutil_jax.models.layout import Layout

OWN = "infoutil_jax"
LAST_NAMES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
TO_TORCH = {2: (1, 0), 4: (3, 2, 0, 1)}  # axes of a kernel, by how many it has
FROM_TORCH = {2: (1, 0), 4: (2, 3, 1, 0)}
LISTED = 10  # keys of each kind in an error
PICKLED = (".pth", ".pt", ".bin", ".pkl", ".ckpt", ".tar")
CONVERT = (  # torchvision's training script, and so RDED, keeps its arguments beside the weights: a Namespace
    "import argparse, sys, torch; from safetensors.torch import save_file; "
    "torch.serialization.add_safe_globals([argparse.Namespace]); "
    "s = torch.load(sys.argv[1], map_location='cpu', weights_only=True); s = s.get('model', s.get('state_dict', s)); "
    "save_file({k: v.clone(memory_format=torch.contiguous_format) for k, v in s.items()}, sys.argv[2])"
)


# The file


def refuse_others(path: Path) -> None:
    """Raises ConfigError for a file that is not there or is pickled: reading that could run code."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; see teacher.weights and teacher.early_weights.")
    with open(path, "rb") as file:
        start = file.read(9)
    is_pickled = start.startswith((b"PK", b"\x80")) or path.suffix in PICKLED
    if is_pickled and start[8:] != b"{":  # where the header of a safetensors file begins
        command = f'python -c "{CONVERT}" {shlex.quote(str(path))} {shlex.quote(str(path.with_suffix(".safetensors")))}'
        raise ConfigError(f"{path}: pickled weights are not read, they can run code; convert them, once: {command}")


@contextlib.contextmanager
def _opened(path: Path):
    """The file, whose header the library has checked against its size before anything else is read."""
    refuse_others(path)
    try:
        with safe_open(path, framework="np") as file:
            yield file
    except SafetensorError as error:
        size = f"{path.stat().st_size:,} bytes"
        raise CorruptArtifact(f"{path}: no whole safetensors file in its {size} ({error}); fetch it again.") from error


def metadata(path: Path) -> dict[str, str]:
    """The free texts of the file's header."""
    with _opened(path) as file:
        return file.metadata() or {}


def read(path: Path) -> dict[str, np.ndarray]:
    """The tensors by name, floating ones as float32. Raises ConfigError, CorruptArtifact or DataError (their type)."""
    tensors = {}
    with _opened(path) as file:
        for key in file.keys():
            try:
                tensor = file.get_tensor(key)
            except AttributeError as error:  # 8 bits and fewer
                raise DataError(
                    f"{path}: {_shown(key)} is of a type that NumPy lacks ({error}); save it as float32."
                ) from error
            tensors[key] = tensor.astype(np.float32) if jnp.issubdtype(tensor.dtype, jnp.floating) else tensor
    wrapped = all(key.startswith("module.") for key in tensors)  # by DataParallel
    return {key.removeprefix("module."): value for key, value in tensors.items()} if wrapped else tensors


def write(path: Path, variables: dict, config, class_names, top1: float) -> None:
    """A teacher's variables as a file that `teacher.weights` takes, with its own config: everything in FIELDS."""
    tensors = {name: np.ascontiguousarray(leaf) for name, leaf in _flat(variables).items()}
    settings = config.data
    own = {
        "architecture": config.teacher.model, "mean": settings.mean, "std": settings.std, "top1": top1,
        "input_size": [3, settings.image_size, settings.image_size], "interpolation": settings.interpolation,
        "label_names": list(class_names), "crop_pct": settings.crop_share,
    }  # fmt: skip
    store.write_bytes(path, save(tensors, metadata={"pretrained_cfg": json.dumps(own)}))


# Its keys


def _names(path) -> tuple[str, ...]:
    return tuple(part.key for part in path)


def _leaves(variables: dict) -> dict:
    return {_names(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(variables)}


def _flat(variables: dict) -> dict:
    return {".".join(names): leaf for names, leaf in _leaves(variables).items()}


def _name_in(library: str, names: tuple[str, ...]) -> str:
    """Where a layout's rename leads: ('params', 'block', 'conv1', 'kernel') -> 'block.conv1.weight'."""
    return ".".join(names if library == OWN else (*names[1:-1], LAST_NAMES.get(names[-1], names[-1])))


def _is_turned(library: str, names: tuple[str, ...]) -> bool:
    return library != OWN and names[-1] == "kernel"


def _shape_in(library: str, names: tuple[str, ...], shape: tuple) -> tuple:
    return tuple(shape[axis] for axis in TO_TORCH[len(shape)]) if _is_turned(library, names) else shape


def _choose(keys, layouts: dict[str, Layout], leaves: dict) -> str:
    """The library whose names explain the most keys."""

    def explained(library):
        return len({layouts[library].rename(key) for key in keys} & {_name_in(library, names) for names in leaves})

    return max(layouts, key=explained)


def _match(keys, layout: Layout, targets: dict[str, tuple]) -> tuple[dict, list[str]]:
    """({a leaf's names: the key of the file}, the keys that have no leaf or a taken one)."""
    found, unexpected = {}, []
    for key in keys:
        target = layout.rename(key)
        if target in targets and targets[target] not in found:
            found[targets[target]] = key
        elif target is not None:
            unexpected.append(key)
    return found, unexpected


def class_rows(n_rows: int, class_names, label_names) -> tuple[list[int] | None, str]:
    """(the classifier's rows in the order of `class_names`, None for as they are; a sentence on it).

    By the names that the file gives its classes; else, of 1000, by the WordNet ids of ImageNet-1K. Raises DataError
    where the file's own names are of the same kind as the data's, and lack some of them.
    """
    absent = [name for name in class_names if name not in label_names]
    one_kind = len(absent) < len(class_names) or (_all_wnids(label_names) and _all_wnids(class_names))
    if absent and one_kind and len(set(label_names)) == n_rows:
        listed = ", ".join(map(_shown, absent[:LISTED]))
        fault = f"the file names its {n_rows} classes, and {len(absent)} of the data's are not among them: {listed}"
        raise DataError(f"{fault}; choose weights of these classes, or mend label_names.")
    imagenet = [wnid for wnid, _ in classes.load("imagenet1k")] if n_rows == 1000 else []
    for names, source in ((label_names, "the file's label_names"), (imagenet, "ImageNet-1K's order")):
        if len(set(names)) == n_rows and set(class_names) <= set(names):
            return [names.index(name) for name in class_names], f"classes found by name among {n_rows}, by {source}"
    first = ", ".join(map(str, class_names[:3]))
    how = f"names its classes otherwise ({_shown(label_names[0])}, ...)" if label_names else "does not name its classes"
    return None, f"the file {how}, they are taken in the data's order: {first}, ..."


def assign(tensors: dict, model: str, like: dict, class_names, label_names=(), *, where: str) -> tuple:
    """(`tensors` as the variables of the network called `model`, structured as `like`; how many classes the file has;
    a sentence on their order).

    Raises DataError that counts the keys that are missing, unexpected or of another shape or type and lists the first
    of each (`where` names the file; missing keys are in the names they would be read under), NumericError for a tensor
    that is not finite. See `class_rows` for the order of the classifier's rows, and for what it raises.
    """
    leaves = _leaves(like)
    layouts = {**models.layouts(model), OWN: Layout(lambda key: key)}
    library = _choose(tensors, layouts, leaves)
    # where what it needs is missing or misshaped: listed below
    with contextlib.suppress(LookupError, ValueError, TypeError, ArithmeticError):
        tensors = dict(layouts[library].prepare(tensors))
    targets = {_name_in(library, names): names for names in leaves}
    found, unexpected = _match(tensors, layouts[library], targets)
    n_rows, note = _order_classes(tensors, found, library, class_names, label_names)
    misshaped = []
    for names, key in found.items():
        wanted, tensor = _shape_in(library, names, leaves[names].shape), tensors[key]
        if (tensor.shape, tensor.dtype) != (wanted, leaves[names].dtype):
            misshaped.append(f"{key} ({tensor.dtype} {list(tensor.shape)} for {list(wanted)})")
    missing = [target for target, names in targets.items() if names not in found]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape or type": misshaped}
    if any(faults.values()):
        rows = f"; the file's classifier has {n_rows} rows, the data have {len(class_names)} classes"
        fault = f"{where} does not fit teacher.model={model!r} (read in the names of {library}): {_listed(faults)}"
        raise DataError(f"{fault}{rows if n_rows not in (None, len(class_names)) else ''}; nothing is loaded in part.")
    # in a tree of one level: named as in the file
    require_finite({key: tensors[key] for key in found.values()}, where, "fetch the file again or choose another")

    def leaf_of(path, _):
        names = _names(path)
        tensor = tensors[found[names]]
        return np.ascontiguousarray(tensor.transpose(FROM_TORCH[tensor.ndim]) if _is_turned(library, names) else tensor)

    return jax.tree_util.tree_map_with_path(leaf_of, like), n_rows, note


def _order_classes(tensors: dict, found: dict, library: str, class_names, label_names) -> tuple[int | None, str]:
    """Puts the classifier's rows in `tensors` in order -> (how many the file has, a sentence on it)."""
    n_rows, note = None, ""
    heads = (key for names, key in found.items() if names[1] == "classifier" and tensors[key].ndim)
    for key in heads:
        axis = -1 if library == OWN else 0
        n_rows = tensors[key].shape[axis]
        rows, note = class_rows(n_rows, class_names, label_names)
        tensors[key] = tensors[key] if rows is None else np.take(tensors[key], rows, axis)
    return n_rows, note


def _all_wnids(names) -> bool:
    return all(re.fullmatch(r"n\d{8}", str(name)) for name in names)


def _listed(faults: dict[str, list[str]]) -> str:
    texts = []
    for fault, keys in faults.items():
        more = ", ..." if len(keys) > LISTED else ""
        texts += [f"{len(keys)} {fault}: {', '.join(map(_shown, keys[:LISTED]))}{more}"] if keys else []
    return "; ".join(texts)


def _shown(key: str) -> str:
    """A file's own text, harmless on a terminal."""
    return key if key.isprintable() else ascii(key)


def require_finite(variables: dict, where: str, mend: str) -> None:
    """Raises NumericError naming the first tensor, in the order of the tree, that holds NaN or infinity."""
    for name, tensor in _flat(variables).items():
        if not np.isfinite(tensor).all():
            raise NumericError(f"{where}: {_shown(name)} holds NaN or infinity; {mend}.")
