# SPDX-License-Identifier: Apache-2.0
import pytest

from fedclave.errors import UserError
from fedclave.trust.names import Identity


def test_an_identity_survives_its_uri() -> None:
    identity = Identity(federation="my.fed_1", role="aggregator", name="agg-1")
    assert Identity.parse(identity.uri) == identity


@pytest.mark.parametrize(
    "uri",
    [
        "https://digits/collaborator/alice",
        "fedclave://digits/admin/alice",
        "fedclave://digits/collaborator/alice/extra",
        "fedclave://digits/collaborator/",
        "fedclave://digits/collaborator/../alice",
        "fedclave://digits/collaborator/alice\n",
        "fedclave://user@digits/collaborator/alice",
    ],
)
def test_another_uri_is_no_identity(uri: str) -> None:
    with pytest.raises(ValueError, match="is not fedclave://"):
        Identity.parse(uri)


@pytest.mark.parametrize("name", ["", ".", "-a", "a/b", "a b", "a" * 65, "../x", "é"])
def test_a_name_that_cannot_be_a_file_or_uri_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="is not allowed"):
        Identity(federation="digits", role="collaborator", name=name)
    with pytest.raises(UserError, match="is not allowed"):
        Identity(federation=name, role="collaborator", name="alice")


def test_an_unknown_role_is_refused() -> None:
    with pytest.raises(UserError, match="role 'admin' is unknown"):
        Identity(federation="digits", role="admin", name="alice")  # type: ignore[arg-type]
