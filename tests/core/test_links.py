import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthgrad.core.errors import LinkError
from synthgrad.core.links import Link, parse_link, parse_links


@pytest.mark.parametrize(
    ("text", "link"),
    [
        ("1GBps,20ms", Link(0.02, 1e9)),
        ("20ms,1GBps", Link(0.02, 1e9)),
        ("8Gbit/s", Link(0.0, 1e9)),
        ("100Mbitps , 50us", Link(5e-5, 1.25e7)),
        ("2s", Link(2.0)),
        ("1.5kB/s", Link(0.0, 1500.0)),
    ],
)
def test_a_text_is_read(text: str, link: Link) -> None:
    found = parse_link(text)
    assert found.latency == pytest.approx(link.latency) and found.bandwidth == pytest.approx(link.bandwidth)


@given(st.floats(0, 1e3), st.floats(1, 1e12))
def test_a_link_is_written_as_it_is_read(latency: float, bandwidth: float) -> None:
    link = Link(latency, bandwidth)
    again = parse_link(str(link))
    assert again.latency == pytest.approx(latency, rel=1e-5, abs=1e-12)
    assert again.bandwidth == pytest.approx(bandwidth, rel=1e-5)
    assert parse_link(str(Link(latency))).bandwidth == math.inf


@pytest.mark.parametrize(
    "text", ["", "fast", "1GB", "20", "-1ms", "1GBps,2GBps", "1ms,2ms", "1..2ms", "0GBps", "1GBps,,2ms", "1e999s"]
)
def test_what_cannot_be_read_is_refused_with_the_form_or_the_reason(text: str) -> None:
    with pytest.raises(LinkError, match="expected"):
        parse_link(text)


@pytest.mark.parametrize("values", [(-1.0, 1.0), (math.nan, 1.0), (math.inf, 1.0), (0.0, 0.0), (0.0, -1.0)])
def test_a_link_that_gives_time_or_takes_all_is_refused(values: tuple[float, float]) -> None:
    with pytest.raises(LinkError):
        Link(*values)


@pytest.mark.parametrize("text", ["0-3=1ms", "7-1=1ms", "1-1=1ms"])
def test_a_link_between_devices_that_are_not_there_is_refused(text: str) -> None:
    with pytest.raises(LinkError, match="0 to 2"):
        parse_links([text], devices=3)


def test_a_pair_has_its_own_link_in_both_directions() -> None:
    links = parse_links(["5ms", "1-2=1GBps,50ms"], devices=3)
    assert links(1, 2) == links(2, 1) == Link(0.05, 1e9)
    assert links(0, 1) == links(2, 0) == Link(0.005)
    assert parse_links([], devices=2)(0, 1) == Link()
