"""What a request says of itself, and whose page it comes from."""

from __future__ import annotations

import pytest

from spworkers.httprequest import HTTPRequest, rebound, same_origin

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


@pytest.mark.parametrize(
    ("host", "given", "local", "is_one"),
    [
        ("evil.example:80", "127.0.0.1", "127.0.0.1:80", True),
        ("evil.example", "localhost", "[::1]:80", True),
        ("localhost.evil.example", "127.0.0.1", "127.0.0.1:80", True),
        ("evillocalhost", "127.0.0.1", "127.0.0.1:80", True),
        ("", "127.0.0.1", "127.0.0.1:80", True),
        ("LOCALHOST:8080", "127.0.0.1", "127.0.0.1:80", False),
        ("app.localhost.", "127.0.0.1", "127.0.0.1:80", False),
        ("127.0.0.1:80", "localhost", "127.0.0.1:80", False),
        ("[::1]:80", "localhost", "[::1]:80", False),
        ("192.0.2.1", "127.0.0.1", "127.0.0.1:80", False),  # forwarded from there; no name, so no DNS
        ("dev.example:80", "Dev.example", "127.0.1.1:80", False),  # the name that was given
        ("here.example", "*", "127.0.0.1:80", False),  # a listener for everybody
        ("here.example", "", "127.0.0.1:80", False),
        ("here.example", "192.0.2.1", "192.0.2.1:80", False),
        ("here.example", "x", "", False),  # of a unix socket, say
    ],
)
def test_a_page_whose_name_was_made_to_mean_this_machine(host: str, given: str, local: str, is_one: bool) -> None:
    assert rebound(host, given, local) is is_one


def test_a_request_in_parts() -> None:
    headers = (("Host", "here"), ("Cookie", "a=1"), ("cookie", "b=2"))
    request = HTTPRequest.from_wire(HTTPRequest("GET", "/x%20y?room=7&room=8&empty=", headers).to_wire())
    assert (request.path, request.query) == ("/x%20y", {"room": "8", "empty": ""})
    assert request.header("COOKIE") == "a=1, b=2"
    assert (request.header("Authorization"), request.header("Authorization", "none")) == (None, "none")
