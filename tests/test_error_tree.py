"""What errors carry from where something goes wrong to where it is told."""

import pytest

from tarstream.errors import OriginBroken, OriginError, OriginTimeout, Refusal, Unavailable


@pytest.mark.parametrize(
    "error",
    [
        OriginError("its origin gives no length"),
        OriginBroken("its origin answers 503", kind="status", retry_after=7),
        OriginTimeout("its origin is too slow", kind="slow"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_about_an_id_is_the_same_error_and_names_the_id(error):
    about = error.about("a 'b'")
    assert type(about) is type(error)
    told = {"detail", "refusals"}
    assert vars(about) == vars(error) | {name: getattr(about, name) for name in told}
    assert about.refusals == (Refusal("a 'b'", error.detail),)
    assert about.detail == str(about) == f"\"a 'b'\" cannot be had: {error.detail}"


def test_an_error_that_others_share_does_not_change():
    """Whoever waits for the same answer has other ids for it."""
    error = OriginBroken("its origin answers 503")
    assert [error.about(id_).refusals[0].id for id_ in "ab"] == ["a", "b"]
    assert (error.detail, error.refusals) == ("its origin answers 503", ())
    assert str(error) == "its origin answers 503"


def test_who_is_turned_away_is_told_when_to_come_back():
    assert Unavailable("full").retry_after == 5
    error = Unavailable("draining", 1)
    assert (error.retry_after, error.detail, error.refusals) == (1, "draining", ())
    assert str(error) == "draining"


def test_a_failure_that_may_pass_says_of_which_kind_it_is_and_when_to_try_again():
    for error, kind, retry_after in (
        (OriginBroken("x"), "broken", None),
        (OriginBroken("x", kind="read"), "read", None),
        (OriginBroken("x", kind="status", retry_after=2.5), "status", 2.5),
        (OriginTimeout("x"), "timeout", None),
        (OriginTimeout("x", kind="slow"), "slow", None),
    ):
        assert (error.detail, error.kind, error.retry_after) == ("x", kind, retry_after)
        assert error.kind in OriginBroken.KINDS
