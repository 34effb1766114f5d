import pytest

from services.auth import Guard, Unauthorised, bearer, is_loopback

LOCAL = Guard.bound_to(["127.0.0.1", "localhost"])


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("192.0.2.1", False),
        ("localhost.example", False),
        ("", False),
    ],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_dev_token_stands_for_self_on_the_default_tenant() -> None:
    principal = LOCAL.principal("dev", {"Host": "localhost"})
    assert (principal.tenant, principal.role) == ("default", "self")


@pytest.mark.parametrize("token", [None, "", "DEV", "dev ", "ädev", "x" * 100_000])
def test_other_tokens_are_refused(token: str | None) -> None:
    with pytest.raises(Unauthorised):
        LOCAL.principal(token, {})


@pytest.mark.parametrize(
    "header",
    [
        "Forwarded",
        "X-Forwarded-For",
        "x-forwarded-host",
        "X-FORWARDED-PROTO",
        "X-Forwarded-Anything",
    ],
)
def test_dev_token_does_not_pass_a_proxy(header: str) -> None:
    with pytest.raises(Unauthorised, match="proxy"):
        LOCAL.principal("dev", {header: "for=192.0.2.1"})


def test_dev_token_dies_with_the_first_open_socket() -> None:
    with pytest.raises(Unauthorised, match="loopback"):
        Guard.bound_to(["127.0.0.1", "0.0.0.0"]).principal("dev", {})


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ({}, None),
        ({"Authorization": "Bearer dev"}, "dev"),
        ({"authorization": "bearer  dev "}, "dev"),
        ({"Authorization": "Basic ZGV2"}, None),
        ({"Authorization": "dev"}, None),
    ],
)
def test_bearer(headers: dict[str, str], token: str | None) -> None:
    assert bearer(headers) == token
