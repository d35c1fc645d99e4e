# SPDX-License-Identifier: Apache-2.0
"""Who a certificate speaks for: ``fedclave://FEDERATION/ROLE/NAME``, its one URI SAN."""

import re
from dataclasses import dataclass
from typing import Literal, Self, cast, get_args

from cryptography import x509

from fedclave.errors import UserError
from fedclave.plan import NAME

Role = Literal["aggregator", "collaborator", "authority"]
"""``authority`` is the enrolment service of the CA."""

ROLES: tuple[Role, ...] = get_args(Role)
SERVERS: tuple[Role, ...] = ("aggregator", "authority")
"""Roles that listen, and never dial; a collaborator only dials."""

_URI = re.compile(rf"fedclave://({NAME.pattern})/({'|'.join(ROLES)})/({NAME.pattern})")


@dataclass(frozen=True, kw_only=True)
class Identity:
    """One party of one federation, in one role.

    >>> Identity(federation="digits", role="collaborator", name="alice").uri
    'fedclave://digits/collaborator/alice'
    """

    federation: str
    role: Role
    name: str

    def __post_init__(self) -> None:
        check_name("federation", self.federation)
        check_name("party", self.name)
        if self.role not in ROLES:
            raise UserError(f"role {self.role!r} is unknown. Use one of {', '.join(ROLES)}")

    @property
    def uri(self) -> str:
        """The identity as it stands in a certificate."""
        return f"fedclave://{self.federation}/{self.role}/{self.name}"

    @classmethod
    def parse(cls, uri: str) -> Self:
        """The identity in a URI. Raises ``ValueError`` on any other text."""
        match = _URI.fullmatch(uri)
        if match is None:
            raise ValueError(f"{uri!r} is not fedclave://FEDERATION/ROLE/NAME")
        federation, role, name = (part for part in match.group(1, 3, 4))
        return cls(federation=federation, role=cast(Role, role), name=name)

    @classmethod
    def of(cls, document: x509.Certificate | x509.CertificateSigningRequest) -> Self:
        """The identity in a certificate or request. ``ValueError`` unless there is exactly one."""
        try:
            names = document.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (x509.ExtensionNotFound, x509.DuplicateExtension) as error:
            raise ValueError("it carries no one list of names") from error
        except x509.UnsupportedGeneralNameType as error:
            raise ValueError("it carries a kind of name that no party has") from error
        except Warning as error:  # some processes make errors of warnings
            raise ValueError("its list of names is not as it should be") from error
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        if len(uris) != 1:
            raise ValueError(f"it carries {len(uris)} URI names, not one")
        return cls.parse(uris[0])


def check_name(kind: str, name: str) -> None:
    """Raise ``UserError`` unless a federation or party may be called this."""
    if not NAME.fullmatch(name):
        raise UserError(
            f"{kind} name {name!r} is not allowed. Use 1 to 64 letters, digits, dots, dashes or"
            " underscores, with a letter or digit at both ends"
        )


def server_name(role: Role) -> str:
    """The DNS SAN that every server of a role has, wherever it listens: what TLS clients ask for.

    >>> server_name("aggregator")
    'aggregator.fedclave.internal'
    """
    return f"{role}.fedclave.internal"
