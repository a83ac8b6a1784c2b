"""How much is read at a time."""

import pytest

from tarstream.portion import LEAST, MOST, SECONDS, TRUST, Portion

PIECES = TRUST // LEAST


def taken(portion, pieces, seconds=0.0):
    """Sizes after each of so many pieces that took so long together."""
    sizes = []
    for _ in range(pieces):
        portion.taken(LEAST, seconds / pieces)
        sizes.append(portion.size)
    return sizes


def test_it_is_little_at_first():
    assert Portion().size == LEAST == 128 * 1024


@pytest.mark.parametrize("seconds", [0, SECONDS])
def test_it_is_much_for_who_took_more_than_sockets_hold(seconds):
    portion = Portion()
    assert taken(portion, PIECES, seconds) == [*[LEAST] * (PIECES - 1), MOST]
    assert MOST == 512 * 1024
    assert set(taken(portion, PIECES, seconds)) == {MOST}


def test_it_is_little_until_the_last_byte_of_that():
    portion = Portion()
    portion.taken(TRUST - 1, 0)
    assert portion.size == LEAST
    portion.taken(1, 0)
    assert portion.size == MOST


def test_it_is_little_again_as_soon_as_that_takes_too_long():
    portion = Portion()
    taken(portion, PIECES)
    portion.taken(MOST, SECONDS)
    assert portion.size == MOST
    portion.taken(MOST, 0.001)
    assert portion.size == LEAST


@pytest.mark.parametrize("before", [1, PIECES - 1, PIECES, PIECES + 1])
def test_who_was_slow_is_known_no_better_than_a_stranger(before):
    portion = Portion()
    taken(portion, before)
    portion.taken(MOST, SECONDS + 0.001)
    assert taken(portion, PIECES, SECONDS) == [*[LEAST] * (PIECES - 1), MOST]


def test_what_counts_is_how_much_came_in_that_time_and_not_how_it_came():
    """One long wait, as for a socket that tells only once a third of it is free, is not slow."""
    portion = Portion()
    portion.taken(LEAST, SECONDS)
    assert taken(portion, PIECES - 1)[-1] == MOST
