"""How much is read at a time."""

import pytest

from tarstream.portion import LEAST, MOST, SLOW, TRUST, Portion

PIECES = TRUST // LEAST


def test_it_is_little_at_first():
    assert Portion().size == LEAST == 128 * 1024


def test_it_is_much_once_a_client_took_more_than_sockets_hold_and_was_never_slow():
    portion = Portion()
    for _ in range(PIECES - 1):
        portion.taken(LEAST, SLOW)
        assert portion.size == LEAST
    portion.taken(LEAST, SLOW)
    assert portion.size == MOST == 1024 * 1024
    portion.taken(MOST, SLOW)
    assert portion.size == MOST


@pytest.mark.parametrize("before", [1, PIECES - 1, PIECES, PIECES + 1])
def test_who_was_slow_once_is_known_no_better_than_a_stranger(before):
    portion = Portion()
    for _ in range(before):
        portion.taken(LEAST, 0)
    portion.taken(MOST, SLOW + 0.001)
    for _ in range(PIECES - 1):
        assert portion.size == LEAST
        portion.taken(LEAST, 0)
    assert portion.size == LEAST
    portion.taken(1, 0)
    assert portion.size == LEAST
    portion.taken(LEAST - 1, 0)
    assert portion.size == MOST
