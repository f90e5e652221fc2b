"""The selection against Python's sort, with ties; permutations; pools and duplicates; too few crops; coresets."""

import contextlib
import io
import statistics
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from infoutil_jax import coresets, distil, progress
from infoutil_jax.errors import ConfigError, DataError
from infoutil_jax.keys import generator
from infoutil_jax.stages import attribute, select
from infoutil_jax.types import Candidates, Scores

NUMBERS = st.sampled_from([0.0, 2e-5, 0.125, 0.25, 1.0, 1.5, 2.0, 98765.0])  # few, so that ties are common


BY_SCORE = [rule for rule in select.RULES if rule not in select.FEATURE_RULES]


@st.composite
def pools(draw):
    """(Scores, boxes, ids) of M images with R crops each."""
    m, r = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    of = lambda values: np.array(draw(st.lists(values, min_size=m * r, max_size=m * r))).reshape(m, r)
    features = np.stack([of(NUMBERS), of(NUMBERS)], axis=-1).astype(np.float32)
    scores = Scores(of(NUMBERS).astype(np.float32), of(st.booleans()), of(NUMBERS).astype(np.float32), features)
    scores = scores._replace(forgotten=of(st.integers(0, 2)).astype(np.int32))
    boxes = np.stack([of(st.integers(0, 1))] * 4, axis=-1).astype(np.int32)
    ids = draw(st.lists(st.text(st.sampled_from("a1é\U0001f600"), max_size=3), min_size=m, max_size=m, unique=True))
    return scores, boxes, tuple(ids)


def choose(rule, pool, n, *, kind="all", duplicates=True, seed=0):
    scores, boxes, ids = pool
    chosen = select.Settings(rule=rule, pool=kind, duplicates=duplicates)
    return [tuple(row) for row in select.run(chosen, seed, scores, boxes, ids, n, where="class cat").tolist()]


def five_digits(value):
    return float(f"{value:.4e}")


def sorted_by_python(rule, pool, seed=0):
    scores, _, ids = pool
    median = statistics.median(five_digits(v) for v in scores.gradient_norm.ravel())
    draws = {i: generator(seed, "select", i).uniform(size=scores.loss.shape[1]) for i in ids}

    def key(row):
        norm, loss = five_digits(scores.gradient_norm[row]), five_digits(scores.loss[row])
        first = {
            "largest_gradient_norm": -norm,
            "smallest_gradient_norm": norm,
            "middle_gradient_norm": five_digits(abs(norm - median)),
            "largest_correct": (not scores.correct[row], -norm),
            "lowest_loss": loss,
            "forgetting": (-scores.forgotten[row], draws[ids[row[0]]][row[1]]),
            "random": draws[ids[row[0]]][row[1]],
        }[rule]
        return first, ids[row[0]], row[1]

    return sorted(np.ndindex(scores.loss.shape), key=key)


def first_of_each(rows, label):
    seen = {}
    for row in rows:
        seen.setdefault(label(row), row)
    return list(seen.values())


@pytest.mark.parametrize("rule", BY_SCORE)
@settings(max_examples=40, deadline=None)
@given(pool=pools())
def test_rows_are_in_the_order_of_pythons_sort(rule, pool):
    expected = sorted_by_python(rule, pool)
    n = len(expected)
    assert choose(rule, pool, n) == expected
    assert choose(rule, pool, (n + 1) // 2) == expected[: (n + 1) // 2]
    best = first_of_each(expected, lambda row: row[0])
    assert choose(rule, pool, len(best), kind="best_per_image") == best
    different = first_of_each(expected, lambda row: (row[0], *pool[1][row].tolist()))
    assert choose(rule, pool, len(different), duplicates=False) == different


@pytest.mark.parametrize("rule", select.RULES)
@settings(max_examples=15, deadline=None)
@given(pool=pools(), data=st.data())
def test_permuting_the_candidates_permutes_nothing_but_the_row_numbers(rule, pool, data):
    scores, boxes, ids = pool
    order = data.draw(st.permutations(range(len(ids))))
    there = choose(rule, pool, scores.loss.size)
    moved = Scores(*(part[order] for part in scores)), boxes[order], tuple(ids[i] for i in order)
    assert [(order[m], r) for m, r in choose(rule, moved, scores.loss.size)] == there


@pytest.mark.parametrize("rule", [rule for rule in BY_SCORE if rule not in ("random", "forgetting")])
def test_rounding_noise_does_not_change_the_order_of_ties(rule):
    rng = np.random.default_rng(0)
    values = rng.choice([0.125, 1.5, 2.0, 700.0], (30, 4))
    ids = tuple(f"{i:02}" for i in rng.permutation(30))
    boxes = np.zeros((30, 4, 4), np.int32)

    def noisy(relative):
        shaken = [values * (1 + relative * rng.uniform(-1, 1, values.shape)) for _ in range(2)]
        return Scores(shaken[0], values == 2.0, shaken[1])

    exact = choose(rule, (noisy(0), boxes, ids), 120)
    assert choose(rule, (noisy(1e-7), boxes, ids), 120) == exact
    assert choose(rule, (noisy(1e-2), boxes, ids), 120) != exact


def test_random_selection_depends_on_seed_and_id_alone():
    pool = Scores(*[np.full((5, 3), np.nan)] * 3), np.zeros((5, 3, 4), np.int32), tuple("abcde")
    few = Scores(*(part[:2] for part in pool[0][:3])), pool[1][:2], pool[2][:2]
    all_rows = choose("random", pool, 15)
    assert choose("random", few, 6) == [row for row in all_rows if row[0] < 2]
    assert choose("random", pool, 15, seed=1) != all_rows


def test_too_few_crops_are_refused_with_the_way_out():
    pool = Scores(*[np.ones((3, 2))] * 3), np.zeros((3, 2, 4), np.int32), tuple("abc")
    for options, have in (({}, 6), ({"kind": "best_per_image"}, 3), ({"duplicates": False}, 3)):
        assert len(choose("largest_gradient_norm", pool, have, **options)) == have
        with pytest.raises(DataError, match=f"class cat needs {have + 1} crops .* has {have} to .*lower ipc"):
            choose("largest_gradient_norm", pool, have + 1, **options)


def herded_by_python(features, ids, n):
    """Ids that herding takes, by trying every image that is left."""
    unit = {i: np.divide(v, np.linalg.norm(v) or 1) for i, v in zip(ids, np.asarray(features, np.float64))}
    mean, taken = np.mean(list(unit.values()), axis=0), []
    for _ in range(n):
        distance = lambda i: five_digits(np.linalg.norm(mean - np.mean([unit[j] for j in [*taken, i]], axis=0)))
        taken.append(min(sorted(set(ids) - set(taken)), key=distance))
    return taken


def whole_images(features, ids):
    nothing = np.full((len(ids), 1), np.nan)
    return Scores(nothing, nothing > 0, nothing, features[:, None]), np.zeros((len(ids), 1, 4), np.int32), ids


def clustered_features():
    """(features (12, 3), ids): clusters of 6, 4 and 2 points that are far from each other."""
    rng = np.random.default_rng(0)
    centres = np.repeat(np.eye(3) * 100, (6, 4, 2), axis=0)
    return (centres + rng.normal(size=(12, 3))).astype(np.float32), tuple(rng.permutation(list("abcdefghijkl")))


def test_herding_takes_what_brings_the_mean_nearest():
    features, ids = clustered_features()
    chosen = [ids[m] for m, _ in choose("herding", whole_images(features, ids), 12)]
    assert chosen == herded_by_python(features, ids, 12)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    assert chosen != [ids[m] for m in np.linalg.norm(unit - unit.mean(axis=0), axis=1).argsort()]
    longer = features * np.linspace(1, 30, 12)[:, None].astype(np.float32)  # directions alone count
    assert [ids[m] for m, _ in choose("herding", whole_images(longer, ids), 12)] == chosen


def test_k_means_takes_the_nearest_to_each_clusters_mean():
    features, ids = clustered_features()
    chosen = [m for m, _ in choose("k_means", whole_images(features, ids), 3)]
    members = (range(6), range(6, 10), range(10, 12))
    nearest = []
    for rows in members:
        rows = np.array(rows)
        distance = np.linalg.norm(features[rows] - features[rows].mean(axis=0), axis=1)
        nearest.append([rows[i] for i in np.flatnonzero(np.isclose(distance, distance.min(), rtol=1e-4))])
    assert len(set(chosen)) == 3 and all(set(chosen) & set(rows) for rows in nearest)
    assert sorted(coresets.k_means(np.ones((5, 2)), 3, seed=0).tolist()) == list(range(5))
    everyone = coresets.k_means(features, 3, seed=0)
    assert sorted(everyone.tolist()) == list(range(12))
    assert sorted(coresets.k_means(features, 12, seed=0).tolist()) == list(range(12))


def test_forgetting_counts_by_a_loop():
    correct = np.random.default_rng(0).random((9, 200)) < 0.4
    correct[:, 0], correct[:, 1] = False, True
    counts = coresets.forgetting_counts(correct)
    for n, of_image in enumerate(correct.T):
        events = sum(before and not after for before, after in zip(of_image, of_image[1:]))
        assert counts[n] == (events if of_image.any() else 9)
    assert counts[0] == 9 and counts[1] == 0


def test_forgetting_finds_an_images_count_by_its_id():
    config = SimpleNamespace(select=SimpleNamespace(rule="forgetting"))
    method = SimpleNamespace(config=config, teacher=SimpleNamespace(forgotten={"a": 3, "b": 0, "c": 7}))
    scores = distil.scores_of(method, Candidates(None, ("b", "c"), 0), None, np.zeros((2, 1, 4, 4, 3), np.uint8))
    assert scores.forgotten.tolist() == [[0], [7]]


def tied_by_python(rule, pool, n):
    """How many of the first n score as the last of them, while other crops that are not among them do so too."""
    scores, boxes, ids = pool
    value = {"lowest_loss": scores.loss, "smallest_gradient_norm": scores.gradient_norm}[rule]
    order = sorted_by_python(rule, pool)
    last, crop = five_digits(value[order[n - 1]]), lambda row: (row[0], *boxes[row])
    chosen = [row for row in order[:n] if five_digits(value[row]) == last]
    others = {crop(row) for row in order[n:] if five_digits(value[row]) == last} - {crop(row) for row in order[:n]}
    return (len(chosen), len(others)) if others else (0, 0)


@given(pools(), st.sampled_from(["lowest_loss", "smallest_gradient_norm"]), st.data())
@settings(deadline=None, max_examples=200)
def test_ties_are_counted_and_told(pool, rule, data):
    n = data.draw(st.integers(1, pool[0].loss.size))
    tied, others = tied_by_python(rule, pool, n)
    told = io.StringIO()
    with contextlib.redirect_stderr(told):
        choose(rule, pool, n)
    line = (
        f"warning: select: class cat, {rule}: {tied} of {n} crops were chosen by id, {others} others score the same\n"
    )
    assert told.getvalue() == (line if tied > 0.1 * n and tied + others > 2 else "")


def test_a_tie_stops_a_strict_run_and_draws_and_places_never_tie(capsys):
    m, same = 12, np.ones((12, 2), np.float32)
    scores = Scores(same, same > 0, same, np.zeros((m, 2, 3), np.float32), np.zeros((m, 2), np.int32))
    pool = scores, np.zeros((m, 2, 4), np.int32), tuple("abcdefghijkl")
    for rule in ("random", "forgetting", *select.FEATURE_RULES):
        choose(rule, pool, 5)
    assert not capsys.readouterr().err
    progress.restart(strict=True)
    with pytest.raises(DataError, match=r"class cat, lowest_loss: 5 of 5 .*, 9 others .*--strict"):
        choose("lowest_loss", pool, 5)
    progress.restart()


def test_images_whose_patches_are_all_worth_the_same_are_told(capsys):
    phi = np.random.default_rng(0).normal(size=(10, 2, 2)).astype(np.float32)
    phi[:2] = [[[0.1]], [[1e-9]]]
    distil._warn_of_flat(attribute.Attribution(phi, np.float32([1] * 10), None), "class cat")
    assert (
        capsys.readouterr().err == "warning: attribute: class cat: in 2 of 10 images all patches are worth the same\n"
    )
    distil._warn_of_flat(attribute.Attribution(phi[1:], np.float32([1] * 9), None), "class cat")
    assert "in 1 of 9 " in capsys.readouterr().err
    for few in (phi[2:], np.concatenate([phi[1:], phi[2:3]])):  # none; one of ten
        distil._warn_of_flat(attribute.Attribution(few, np.ones(len(few), np.float32), None), "class cat")
    assert not capsys.readouterr().err


def test_unknown_names_are_refused():
    for bad in ({"rule": "largest"}, {"pool": "best"}):
        with pytest.raises(ConfigError, match=f"select.{next(iter(bad))}"):
            select.Settings(**dict(rule="random", pool="all", duplicates=True) | bad)
