import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenml.errors import SettingsError
from greenml.factors import user_given


def test_given_intensity():
    found = user_given.carbon_intensity(297.6)
    assert (found.grams_per_kwh, found.low, found.high, found.scope, found.year) == (
        297.6,
        297.6,
        297.6,
        "given",
        None,
    )
    assert not found.assumed
    assert found.note == ""
    assert user_given.carbon_intensity(300, low=200, high=400).high == 400


@given(st.floats(1.5, 3000))
def test_given_intensity_is_kept_as_given(grams):
    assert user_given.carbon_intensity(grams).grams_per_kwh == grams


def test_zero_is_a_value_that_may_be_given():
    assert user_given.carbon_intensity(0).grams_per_kwh == 0
    assert user_given.carbon_intensity(0).note == ""


def test_kilograms_are_refused_and_the_right_figure_named():
    with pytest.raises(SettingsError, match=r"0\.2976 g/kWh looks like kg/kWh; the unit is g/kWh, so give 297\.6"):
        user_given.carbon_intensity(0.2976)
    assert "very low" in user_given.carbon_intensity(2.73).note


@pytest.mark.parametrize("wrong", [-1, 3000.1, 297600, float("nan"), float("inf"), "much", None])
def test_wrong_intensity(wrong):
    with pytest.raises(SettingsError):
        user_given.carbon_intensity(wrong)


@pytest.mark.parametrize("interval", [(310, 400), (200, 290), (-5, 400)])
def test_an_interval_holds_its_value(interval):
    with pytest.raises(SettingsError, match="outside its interval"):
        user_given.carbon_intensity(300, *interval)


def test_given_price():
    found = user_given.price(22.03, "dedicated", "ND40rs_v2", "westus2")
    assert (found.usd_per_hour, found.tier, found.sku, found.region) == (
        22.03,
        "dedicated",
        "ND40rs_v2",
        "westus2",
    )
    assert (found.low, found.high, found.derived) == (22.03, 22.03, False)
    with pytest.raises(SettingsError, match="give 0 or more"):
        user_given.price(-0.01)


def test_given_pue():
    assert user_given.pue(1.0).ratio == 1.0
    assert user_given.pue(1.12).scope == "given"
    with pytest.raises(SettingsError, match=r"so give 1\.12"):
        user_given.pue(0.12)
    for wrong in (0, -1, 5.01, float("nan")):
        with pytest.raises(SettingsError):
            user_given.pue(wrong)
