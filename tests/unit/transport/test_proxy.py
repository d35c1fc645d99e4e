# SPDX-License-Identifier: Apache-2.0
import pytest

from fedclave.errors import UserError
from fedclave.transport.grpc.proxy import proxy_for, split_address


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"http_proxy": "http://p:3128"}, "p:3128"),
        ({"http_proxy": "http://p"}, "p:80"),
        ({"HTTP_PROXY": "http://p:3128"}, None),  # gRPC reads the lower-case names only
        ({"http_proxy": ""}, None),
        ({"grpc_proxy": "http://a:1", "https_proxy": "http://b:2"}, "a:1"),
        ({"https_proxy": "http://b:2", "http_proxy": "http://c:3"}, "b:2"),
        ({"http_proxy": "http://p:3128", "no_proxy": "agg.example.org"}, None),
        ({"http_proxy": "http://p:3128", "no_proxy": "other.org, example.org"}, None),
        ({"http_proxy": "http://p:3128", "no_proxy": "EXAMPLE.ORG"}, None),
        ({"http_proxy": "http://p:3128", "no_proxy": "other.org,,"}, "p:3128"),
        (
            {"http_proxy": "http://p:3128", "no_proxy": "example.org", "no_grpc_proxy": "x"},
            "p:3128",
        ),
    ],
)
def test_the_environment_names_the_proxy_as_grpc_reads_it(
    environment: dict[str, str], expected: str | None
) -> None:
    found = proxy_for("agg.example.org:50051", environment)
    assert (str(found) if found else None) == expected


@pytest.mark.parametrize(
    ("address", "direct", "through"),
    [
        ("10.1.2.3:50051", "10.0.0.0/8", False),
        ("10.1.2.3:50051", "192.168.0.0/16", True),
        ("[fd00::7]:50051", "fd00::/8", False),
        ("agg.example.org:50051", "10.0.0.0/8", True),
    ],
)
def test_networks_are_reached_directly(address: str, direct: str, through: bool) -> None:
    environment = {"http_proxy": "http://p:3128", "no_proxy": direct}
    assert (proxy_for(address, environment) is not None) == through


def test_a_proxys_password_is_for_the_proxy_and_not_for_the_log() -> None:
    found = proxy_for("agg:1", {"http_proxy": "http://me:s%40cret@p:3128"})
    assert found is not None
    assert found.credentials == "me:s@cret"
    assert "cret" not in str(found)
    assert "cret" not in repr(found)


@pytest.mark.parametrize("proxy", ["https://p:3128", "socks5://p:1", "p:3128", "http://p:x"])
def test_a_proxy_that_grpc_does_not_take_is_the_users_mistake(proxy: str) -> None:
    with pytest.raises(UserError, match="proxy"):
        proxy_for("agg:1", {"http_proxy": proxy})


@pytest.mark.parametrize(
    "address", ["", "agg", "agg:", ":1", "agg:0", "agg:65536", "::1:5", "a/b:1"]
)
def test_an_address_that_is_none_is_the_users_mistake(address: str) -> None:
    with pytest.raises(UserError, match="is not HOST:PORT"):
        split_address(address)
