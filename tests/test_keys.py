"""Draws depend on (seed, names) and on nothing else."""

import hashlib

import jax
import numpy as np
import pytest

from infoutil_jax.keys import generator, key_for

NAMES = [("crop", "a"), ("crop", "b"), ("cro", "pa"), ("crop", "a", "b"), ("crop", "ab"), ("a", "crop")]


def key_words(seed, *names):
    return tuple(jax.random.key_data(key_for(seed, *names)).tolist())


def first_draw(seed, *names):
    return generator(seed, *names).uniform()


@pytest.mark.parametrize("draw", [key_words, first_draw])
def test_a_draw_depends_on_seed_and_names_alone(draw):
    alone = {(seed, names): draw(seed, *names) for seed in (0, 1) for names in NAMES}
    assert len(set(alone.values())) == len(alone)
    for (seed, names), value in reversed(alone.items()):  # another order, other neighbours
        assert draw(seed, *names) == value


def test_numbers_and_their_text_name_the_same_purpose():
    assert key_words(0, "order", 7) == key_words(0, "order", "7") != key_words(0, "order", 8)


def test_ids_that_are_no_valid_utf8_have_draws():
    assert first_draw(0, "dog/\udcff.jpg") != first_draw(0, "dog/\udcfe.jpg")


def test_seeds_are_64_bits_of_blake2s_over_the_names():
    digest = hashlib.blake2s(b"crop\0dog/1.jpg", digest_size=8).digest()
    words = [int.from_bytes(digest[i : i + 4], "little") for i in (0, 4)]
    expected = np.random.Generator(np.random.PCG64(np.random.SeedSequence([3, *words])))
    np.testing.assert_array_equal(generator(3, "crop", "dog/1.jpg").normal(size=5), expected.normal(size=5))
    folded = jax.random.key(3)
    for word in words:
        folded = jax.random.fold_in(folded, word)
    assert key_words(3, "crop", "dog/1.jpg") == tuple(jax.random.key_data(folded).tolist())
