"""What a request says of itself, and whose page it comes from."""

from __future__ import annotations

import pytest

from spworkers.httprequest import HTTPRequest, same_origin

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    ("origins", "hosts", "may"),
    [
        ([], ["here"], True),  # no browser
        ([], [], True),
        (["http://here"], ["here"], True),
        (["https://HERE:8443"], ["here:8443"], True),
        (["http://[::1]:80"], ["[::1]:80"], True),
        (["http://here:8080"], ["here"], False),
        (["http://evil"], ["here"], False),
        (["http://here.evil"], ["here"], False),
        (["http://here@evil"], ["here"], False),
        (["http://evil#here"], ["here"], False),
        (["null"], ["here"], False),
        (["null"], [""], False),
        ([""], [""], False),
        (["http://"], [""], False),
        (["http://[::1"], ["[::1"], False),
        (["http://here"], [], False),
        (["http://here"], ["here", "here"], False),
        (["http://here", "http://here"], ["here"], False),
    ],
)
def test_whose_page_may_connect(origins: list[str], hosts: list[str], may: bool) -> None:
    assert same_origin(origins, hosts) is may


def test_a_request_in_parts() -> None:
    headers = (("Host", "here"), ("Cookie", "a=1"), ("cookie", "b=2"))
    request = HTTPRequest.from_wire(HTTPRequest("GET", "/x%20y?room=7&room=8&empty=", headers).to_wire())
    assert (request.path, request.query) == ("/x%20y", {"room": "8", "empty": ""})
    assert request.header("COOKIE") == "a=1, b=2"
    assert (request.header("Authorization"), request.header("Authorization", "none")) == (None, "none")
