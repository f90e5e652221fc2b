"""DD-Ranking's scores, continual learning and the utility bound: the experiments' arithmetic, and that they run."""

import importlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from infoutil_jax import config, losses, models, train
from infoutil_jax.stages import evaluate
from infoutil_jax.types import DistilledSet

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = ROOT / "experiments"


def module(monkeypatch, folder, name):
    monkeypatch.syspath_prepend(EXPERIMENTS / folder)
    return importlib.import_module(name)


@pytest.fixture
def bound(monkeypatch):
    return module(monkeypatch, "utility_bound", "bound")


@pytest.fixture
def increments(monkeypatch):
    return module(monkeypatch, "continual", "increments")


@pytest.fixture
def scores(monkeypatch):
    return module(monkeypatch, "ddranking", "scores")


# The utility bound


class Small(nn.Module):
    """BatchNorm and two dense layers."""

    n_classes: int = 3

    @nn.compact
    def __call__(self, images_norm, *, train: bool):
        x = nn.BatchNorm(not train)(images_norm).reshape(len(images_norm), -1)
        return nn.Dense(self.n_classes)(nn.relu(nn.Dense(5)(x)))


def network_of(n_classes):
    return train.Network(Small(n_classes), (0.5,) * 3, (0.5,) * 3)


def small_network():
    """A network with statistics of its own, its weights, and six images with labels."""
    rng, network = np.random.default_rng(0), network_of(3)
    variables = models.initialize(network.model, jax.random.key(0), 4)
    shaken = jax.tree.map(lambda a: a + rng.uniform(0, 0.5, a.shape).astype(np.float32), variables["batch_stats"])
    images = rng.uniform(size=(6, 4, 4, 3)).astype(np.float32)
    return network, {**variables, "batch_stats": shaken}, images, np.array([0, 1, 2, 2, 1, 0], np.int32)


def loss_of(network, variables, images, labels, rows):
    """Summed loss of `rows` as a function of the parameters."""

    def total(params):
        logits = network.logits({**variables, "params": params}, jnp.asarray(images[rows]))
        return losses.cross_entropy(logits, jnp.asarray(labels[rows])).sum()

    return total


def test_the_continuous_effect_is_the_inner_product_of_two_gradients(bound):
    network, variables, images, labels = small_network()
    one = [jax.grad(loss_of(network, variables, images, labels, [i]))(variables["params"]) for i in range(6)]
    dot = lambda a, b: sum(float(jnp.vdot(x, y)) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
    expected = [[0.1 * abs(dot(a, b)) for b in one] for a in one]
    gradients_NP = bound.gradients(network, variables, images, labels, chunk=4)  # a chunk of 4 and one of 2
    np.testing.assert_allclose(bound.continuous(gradients_NP, 0.1), expected, rtol=1e-4)


@pytest.mark.parametrize("eta", [0.5, 1e-3])
def test_the_discrete_effect_is_that_of_a_step_without_the_sample(bound, eta):
    network, variables, images, labels = small_network()

    def losses_after(rows):
        gradient = jax.grad(loss_of(network, variables, images, labels, rows))(variables["params"])
        params = jax.tree.map(lambda p, g: p - eta * g, variables["params"], gradient)
        return losses.cross_entropy(network.logits({**variables, "params": params}, jnp.asarray(images)), labels)

    expected = []
    for batch in ([0, 1, 2, 3], [4, 5]):
        expected += [np.abs(losses_after(batch) - losses_after([k for k in batch if k != i])) for i in batch]
    gradients_NP = bound.gradients(network, variables, images, labels, chunk=6)
    actual = bound.discrete(network, variables, images, labels, gradients_NP, eta, batch=4)
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-6)
    if eta < 0.01:
        np.testing.assert_allclose(actual, bound.continuous(gradients_NP, eta), rtol=0.05, atol=1e-5)


def test_the_bound_is_reached_by_the_largest_gradient(bound):
    gradients_NP, eta = np.array([[3, 0], [0, 4], [1, 0]], np.float32), 0.5
    effects, norms = bound.continuous(gradients_NP, eta), np.array([3.0, 4.0, 1.0])
    np.testing.assert_allclose(bound.utility(effects), [4.5, 8.0, 1.5])
    shares = {"least": 0.75, "median": 0.75, "largest": 1.0}
    figures = {"spearman": 1.0, "theorem_c": 2.0, "smallest_c": 2.0, "above_bound": 0.0}
    figures |= {"spearman_others": -math.sqrt(3) / 2, "smallest_c_others": 1.5}  # of 1.5, 0, 1.5: -1.5 / sqrt(2 * 1.5)
    summary = bound.summary(norms, effects, eta)
    assert summary.pop("utility_over_bound") == pytest.approx(shares) and summary == pytest.approx(figures)
    assert bound.summary(norms, 1.2 * effects, eta)["above_bound"] == pytest.approx(1 / 3)
    other_way = bound.summary(norms, np.diag([3.0, 1.0, 2.0]) + 1e-3 * np.array([[0, 1, 2]]), eta)
    assert other_way["spearman"] == pytest.approx(-0.5)  # 1 - 6 * 6 / 24


# Continual learning


def test_a_network_among_some_classes_is_the_same_network(increments):
    network, variables, images, _ = small_network()
    among = network._replace(model=increments.AmongClasses(network.model, (2, 0)))
    fresh, own = (models.initialize(n.model, jax.random.key(0), 4) for n in (among, network))
    jax.tree.map(np.testing.assert_array_equal, fresh, own)
    np.testing.assert_array_equal(among.logits(variables, images), network.logits(variables, images)[:, [2, 0]])
    options = dict(train=True, mutable=["batch_stats"])
    jax.tree.map(
        np.testing.assert_array_equal,
        among.model.apply(variables, images, **options)[1], network.model.apply(variables, images, **options)[1],
    )  # fmt: skip


def numbered_set(n_classes=6, ipc=2, patches=1):
    """An image of class c is plain grey c, its patches' logit of class k is 10 c + k."""
    labels = np.repeat(np.arange(n_classes, dtype=np.int32), ipc)
    images_u8 = np.broadcast_to(labels[:, None, None, None], (len(labels), 8, 8, 3)).astype(np.uint8)
    logits = np.float32(10 * labels[:, None, None] + np.arange(n_classes))
    nothing, ids = np.zeros((len(labels), patches), np.float32), tuple((f"{i}",) for i in range(len(labels)))
    boxes = np.zeros((len(labels), patches, 4), np.int32)
    return DistilledSet(images_u8, labels, logits, ids, boxes, nothing, nothing, {"label_teacher": "early"})


class Split:
    labels = np.arange(12, dtype=np.int32) % 6

    def images(self, indices):
        return 10 * self.labels[indices]


def test_a_restricted_set_keeps_images_and_renames_their_classes(increments):
    own = increments.restrict(numbered_set(), images_of=(5, 1), among=(3, 5, 1))
    assert own.images_u8[:, 0, 0, 0].tolist() == [1, 1, 5, 5] and own.labels.tolist() == [2, 2, 1, 1]
    assert own.patch_logits[:, 0].tolist() == [[13, 15, 11]] * 2 + [[53, 55, 51]] * 2
    assert own.patch_ids == (("2",), ("3",), ("10",), ("11",)) and len(own.patch_boxes) == 4
    val = increments.OfClasses(Split(), (3, 5, 1))
    assert val.labels.tolist() == [2, 0, 1] * 2 and len(val) == 6
    assert val.images(np.array([0, 5])).tolist() == [10, 50]


def test_groups_cut_all_classes_in_a_random_order(increments):
    parts = increments.groups(10, 5, order=0)
    assert [len(part) for part in parts] == [2] * 5 and sorted(sum(parts, ())) == list(range(10))
    assert parts == increments.groups(10, 5, order=0) != increments.groups(10, 5, order=1)
    assert [len(part) for part in increments.groups(7, 3, order=0)] == [3, 2, 2]


@pytest.mark.parametrize("protocol", ["joint", "new_only"])
def test_a_step_learns_its_images_and_starts_where_the_protocol_says(increments, monkeypatch, protocol):
    seen, fresh = [], {"params": {"w": jnp.zeros(())}}

    def run(settings, own, student, teacher, variables, val, seed, *, flip, label):
        start = models.initialize(student.model, None, 8)
        classes = student.model.classes
        assert teacher.model.classes == classes and variables == "early weights" and seed == 7
        np.testing.assert_array_equal(np.array(classes)[own.labels], own.images_u8[:, 0, 0, 0])
        np.testing.assert_array_equal(np.array(classes)[val.labels], val.images(np.arange(len(val))) // 10)
        seen.append((sorted(set(own.images_u8.flat)), classes, settings.batch_size, float(start["params"]["w"])))
        train.test(student, jax.tree.map(lambda w: w + 1, start), val)
        return [(1, 0.9, 1.0), (2, len(seen) / 10, 1.0)]

    for owner, name, fake in (
        (evaluate, "run", run), (train, "test", lambda *_: None), (models, "initialize", lambda *_: fresh),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, fake)
    teacher = SimpleNamespace(network=network_of(6), variables=lambda which: f"{which} weights")
    parts, own = [(3, 5), (0,), (4, 1)], numbered_set()
    curve = increments.learn(toy(ipc=2), own, network_of(6), teacher, Split(), parts, 7, protocol=protocol, label="")
    assert curve == [0.1, 0.2, 0.3]
    classes = [(3, 5), (3, 5, 0), (3, 5, 0, 4, 1)]
    images = [sorted(part) for part in (parts if protocol == "new_only" else classes)]
    starts = [0.0, 1.0, 2.0] if protocol == "new_only" else [0.0] * 3
    sizes = [min(10, 2 * len(part)) for part in images]  # RDED's batch, no more than the set
    assert seen == list(zip(images, classes, sizes, starts))


# DD-Ranking


def toy(**changes):
    c = config.load(str(EXPERIMENTS / "toy.py"))
    c.update_from_flattened_dict(changes)
    return config.resolve(c)


def test_without_augmentation_a_view_is_the_image(scores):
    changes = {"data.flip": True, "evaluate.shuffle": True, "evaluate.zoom": 0.5, "compose.factor": 2}
    settings = toy(**changes)
    plain = scores.without_augmentation(settings)
    image = jnp.asarray(np.random.default_rng(0).uniform(size=(16, 16, 3)), jnp.float32)
    keys, targets = jax.random.split(jax.random.key(0), 20), jnp.zeros((2, 2, 3))

    def same(settings):
        view = lambda key: evaluate.view(settings.students, 2, settings.data.flip, key, image, targets)[0]
        return [bool((seen == image).all()) for seen in jax.jit(jax.vmap(view))(keys)]

    assert all(same(plain)) and not any(same(settings)[:5])
    assert settings.students.cutmix and not plain.students.cutmix
    assert plain.teacher == settings.teacher and plain.students.epochs == settings.students.epochs


# The experiments run


def start(folder, *arguments, fails=0):
    """Runs an experiment on one device; with `fails`, its exit code, -> stderr."""
    command = [sys.executable, str(EXPERIMENTS / folder / "run.py"), "--smoke", *arguments]
    environment = {**os.environ, "XLA_FLAGS": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == fails, done.stderr[-2000:]
    return done.stderr if fails else done.stdout


def squash(x):
    return (math.exp(x) - math.exp(-1)) / (math.e - math.exp(-1))


def test_a_run_is_scored_and_learned_step_by_step(tmp_path):
    printed = start("ddranking", f"--workdir={tmp_path}")
    found = json.loads((tmp_path / "ddranking" / "results.json").read_text())["toy, rded, convnet3"]["scores"]
    run = json.loads((tmp_path / "results.json").read_text())
    first = lambda by, labels: by[labels]["top1"]["seeds"][0]
    for method, by in run["methods"].items():
        random, scores = run["methods"]["random_images"], found[method]
        gap = run["teacher"]["converged"]["top1"] - first(by, "hard")
        robust = squash((first(by, "online") - first(random, "online") - gap) / 2)
        assert scores["LRS"]["seeds"] == run["label_robust_score"][method]["seeds"] == [pytest.approx(robust)]
        names = ("augmentation of the recipe", "no augmentation")
        margins = [scores[n]["seeds"][1] - found["random_images"][n]["seeds"][1] for n in names]
        assert scores["ARS"]["seeds"][1] == pytest.approx(squash(sum(margins) / 2)) and len(scores["ARS"]["seeds"]) == 2
        assert scores[names[0]]["seeds"] == by["online"]["top1"]["seeds"]
    assert "| random crops |" in printed

    seconds = []
    for _ in range(2):  # what is finished is not learned again
        start("continual", f"--set={tmp_path}", "--steps=2", "--orders=1", "--protocols=new_only")
        record = json.loads((tmp_path / "continual" / "results.json").read_text())["toy, rded, convnet3, 2 steps"]
        seconds.append(record["seconds"])
    learned = record["top1"]
    assert seconds[0] == seconds[1] > 0 and "--orders=1 --steps=2" in record["command"]
    assert set(learned) == {"random_crops", "random_images"}
    assert all([len(accuracies) for accuracies in by["new_only"]] == [2] for by in learned.values())
    assert (tmp_path / "continual" / "results.md").read_text().count("|") == 5 * 4


def test_what_is_wrong_is_told_without_a_traceback(tmp_path):
    told = start("continual", f"--set={tmp_path}", "--protocols=joint,all_at_once", fails=1)
    assert "'all_at_once']: known protocols: joint, new_only\n" in told and "Traceback" not in told
    (tmp_path / "thesis.tex").write_text("precious")
    for told in (
        start("continual", f"--set={tmp_path}", fails=2),
        start("ddranking", f"--workdir={tmp_path}", fails=2),
    ):
        assert f"error: {tmp_path} is not empty and holds no run" in told and "Traceback" not in told


def test_the_utility_bound_is_measured_at_every_stage_of_every_seed(tmp_path):
    of = lambda *more: start("utility_bound", f"--runs={tmp_path}", "--sets=digits", "--samples=16", "--width=8", *more)
    of("--batch=8", "--seeds=1")
    path = tmp_path / "results.json"
    first = json.loads(path.read_text())["digits"]
    assert set(first) == {"0"} and set(first["0"]["epochs"]) == {"0", "1", "2"} and first["0"]["seconds"] > 0
    for figures in first["0"]["epochs"].values():
        exact = figures["continuous"]
        assert exact["smallest_c"] == pytest.approx(exact["theorem_c"]) and exact["above_bound"] == 0
        small_step = figures["step 0.005"]["utility_over_bound"]["median"]
        assert small_step == pytest.approx(exact["utility_over_bound"]["median"], rel=0.3)
    of("--batch=8", "--seeds=2")
    both = json.loads(path.read_text())["digits"]
    assert both["0"] == first["0"] and both["1"]["epochs"]["2"] != first["0"]["epochs"]["2"]
    ranks = [both[seed]["epochs"]["2"]["continuous"]["spearman"] for seed in "01"]
    rows = [row.split(" | ") for row in (tmp_path / "results.md").read_text().splitlines() if "| digits, 2 " in row]
    assert rows[0][2:4] == ["continuous", f"{np.mean(ranks):.2f} ± {np.std(ranks, ddof=1):.2f}"]
    with np.load(tmp_path / "digits-1.npz") as arrays:
        assert {name: array.shape for name, array in arrays.items()}["2/step 0.05"] == (16,)
