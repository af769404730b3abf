"""Authorization: what a 401 asks for (RFC 9110, 11), and the header that answers it.

Either Basic, or docker's Bearer: a token server, which the registry names, gives a token for a repository and
what is to be done with it, for credentials or for nobody in particular. A name and password go to the token
server in a GET; an identity token as OAuth2's refresh token in a POST. Tokens are kept for the session only.
"""

from __future__ import annotations

import base64
import io
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import urlencode

from sandbox.errors import ImageError, RegistryError
from sandbox.image import strict_json
from sandbox.image.auth import Credentials, Keyring
from sandbox.image.config import Endpoint
from sandbox.image.registry.transport import Answer, Request, origin_of
from sandbox.words import printable

__all__ = ["Challenge", "Tokens", "error_text", "parse_challenges"]

_LIMIT = 1 << 20
_ERROR_LIMIT = 64 << 10
#: Of a WWW-Authenticate header.
_CHALLENGE_LIMIT = 16 << 10
#: What can stand in a header as it is; longer tokens no server takes.
_TOKEN = re.compile(r"[\x21-\x7e]{1,32768}")
#: Seconds that a token lasts if its server does not say (docker's token specification).
_LIFETIME = 60

_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = re.compile(rf'({_WORD})[ \t]*=[ \t]*(?:"((?:[^"\\]++|\\.)*+)"|([^\s,"]++))')
_SCHEME = re.compile(_WORD)
_GAP = re.compile(r"[\s,]*")


class Challenge(NamedTuple):
    """One way to authorize that a 401 offers. The scheme and the names of parameters are in lower case."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(text: str) -> list[Challenge]:
    """The challenges of WWW-Authenticate headers; what comes after something malformed is dropped."""
    found: list[tuple[str, dict[str, str]]] = []
    at, end = 0, min(len(text), _CHALLENGE_LIMIT)
    while (at := _GAP.match(text, at).end()) < end:  # type: ignore[union-attr]  # it matches nothing as well
        if found and (match := _PARAMETER.match(text, at, end)):
            quoted = re.sub(r"\\(.)", r"\1", match[2]) if match[2] is not None else match[3]
            found[-1][1].setdefault(match[1].lower(), quoted)
        elif match := _SCHEME.match(text, at, end):
            found.append((match[0].lower(), {}))
        else:
            break
        at = match.end()
    return [Challenge(scheme, parameters) for scheme, parameters in found]


def error_text(answer: Answer) -> str:
    """What the body of an error says, in one line: the distribution specification's JSON, or nothing."""
    try:
        document = strict_json.parse(answer.read(_ERROR_LIMIT), "the error", _ERROR_LIMIT)
        errors = document.objects("errors", 100)
        said = [each.text("message", "") or each.text("code", "") for each in errors]
        said = said or [document.text("message", "") or document.text("details", "")]
    except ImageError:
        return ""
    return printable("; ".join(text for text in said if text))[:300]


class Tokens:
    """The authorization for one repository of a registry. Threads may share it.

    *send* makes an exchange without authorization of its own.
    """

    def __init__(self, endpoint: Endpoint, keyring: Keyring, send: Callable[[Request], Answer]) -> None:
        self._host = endpoint.host
        self._repository = endpoint.repository
        self._keyring = keyring
        self._send = send
        self._lock = threading.Lock()
        self._headers: dict[tuple[str, ...], tuple[str, float]] = {}
        self._credentials: list[Credentials | None] = []

    def header(self, scopes: tuple[str, ...]) -> str:
        """The Authorization header that is known to be good for *scopes*, or ""."""
        value, until = self._headers.get(scopes, ("", 0.0))
        return value if time.monotonic() < until else ""

    def renew(self, challenges: str, scopes: tuple[str, ...], stale: str) -> str:
        """A header for *scopes*, as the *challenges* of a 401 ask for it; *stale* is what was refused.

        Raises:
            RegistryError: there are no credentials, they are refused, or the challenge can't be met.
        """
        with self._lock:  # layers are fetched in parallel, and one of them gets the token for all
            known = self.header(scopes)
            if known and known != stale:
                return known
            value, lifetime = self._authorize(parse_challenges(challenges), scopes)
            self._headers[scopes] = (value, time.monotonic() + lifetime)
            return value

    def refused(self, said: str, status: int = 401) -> RegistryError:
        """The error for a request that stays refused; *said* is the registry's own reason."""
        credentials = self._find()
        parts = [f"{self._host.name} refuses {self._repository}" + (f": {said}" if said else "")]
        if credentials:
            parts.append(f"the credentials of {credentials.source} do not suffice")
        else:
            parts.append("it does not exist, or needs a login, and none was found for it")
        parts += self._keyring.problems
        login = self._host.name
        return RegistryError(
            "; ".join(parts), f"podman login {login}  (or docker login {login})", status=status
        )

    # -----------------------------------------------------------------------------------------------------

    def _find(self) -> Credentials | None:
        if not self._credentials:
            self._credentials.append(self._keyring.find(self._host.name, self._repository))
        return self._credentials[0]

    def _authorize(self, challenges: list[Challenge], scopes: tuple[str, ...]) -> tuple[str, float]:
        """A header, and for how many seconds."""
        credentials = self._find()
        for challenge in sorted(challenges, key=lambda each: each.scheme != "bearer"):
            if challenge.scheme == "bearer":
                if credentials and credentials.registry_token:
                    return f"Bearer {_checked(credentials.registry_token, credentials.source)}", 3600.0
                token, lifetime = self._token(challenge.parameters, scopes, credentials)
                return f"Bearer {token}", lifetime
            if challenge.scheme == "basic":
                if not credentials or not credentials.username:
                    raise self.refused("")
                return _basic(credentials), 24 * 3600.0
        offered = ", ".join(sorted({each.scheme for each in challenges})) or "nothing"
        raise RegistryError(
            f"{self._host.name} wants a login, and offers {printable(offered)[:100]}, which is not supported",
            status=401,
        )

    def _token(
        self, parameters: Mapping[str, str], scopes: tuple[str, ...], credentials: Credentials | None
    ) -> tuple[str, float]:
        request = self._token_request(parameters, _merged(parameters.get("scope", ""), scopes), credentials)
        with self._send(request) as answer:
            if answer.status != 200:
                said = error_text(answer)
                if answer.status in (400, 401, 403):
                    raise self.refused(said)
                where = origin_of(request.url)[1]
                raise RegistryError(
                    f"the token server {where} answers {answer.status}" + (f": {said}" if said else ""),
                    status=answer.status,
                )
            document = strict_json.parse(answer.read(_LIMIT), "the token server's answer", _LIMIT)
        token = document.text("token", "") or document.text("access_token", "")
        lifetime = document.number("expires_in", _LIFETIME)
        return _checked(token, "the token server"), max(lifetime - 10.0, 10.0)

    def _token_request(
        self, parameters: Mapping[str, str], scopes: list[str], credentials: Credentials | None
    ) -> Request:
        realm = parameters.get("realm", "")
        try:
            origin_of(realm)
        except ValueError:
            raise RegistryError(
                f"{self._host.name} names no token server that can be reached: {printable(realm)[:100]}",
                status=401,
            ) from None
        query = [("service", parameters["service"])] if "service" in parameters else []
        if credentials and credentials.identity_token:
            form = [
                ("grant_type", "refresh_token"),
                ("refresh_token", credentials.identity_token),
                ("client_id", "sandbox"),
                *query,
                ("scope", " ".join(scopes)),
            ]
            body = urlencode(form).encode()
            headers = {"Content-Type": "application/x-www-form-urlencoded", "Content-Length": str(len(body))}
            return Request("POST", realm, headers, body=lambda: io.BytesIO(body))
        query += [("scope", scope) for scope in scopes]
        headers = {}
        if credentials and credentials.username:
            query.append(("account", credentials.username))
            headers["Authorization"] = _basic(credentials)
        url = realm + ("&" if "?" in realm else "?") + urlencode(query) if query else realm
        return Request("GET", url, headers)


def _merged(challenged: str, scopes: tuple[str, ...]) -> list[str]:
    """What to ask a token for: what the challenge says, with the actions that the first of *scopes* has for
    the same repository (a HEAD is challenged for less than the PUT that follows), and the other *scopes*."""
    own, _, actions = scopes[0].rpartition(":") if scopes else ("", "", "")
    wanted: dict[str, None] = {}
    for scope in challenged.split() or scopes[:1]:
        name, _, given = scope.rpartition(":")
        both = dict.fromkeys([*given.split(","), *actions.split(",")]) if name == own else {}
        wanted[f"{name}:{','.join(both)}" if both else scope] = None
    return list({**wanted, **dict.fromkeys(scopes[1:])})


def _basic(credentials: Credentials) -> str:
    login = f"{credentials.username}:{credentials.password}".encode()
    return "Basic " + base64.b64encode(login).decode()


def _checked(token: str, source: str) -> str:
    """A token, unless it would break out of its header."""
    if not _TOKEN.fullmatch(token):
        raise RegistryError(f"{source} gave no token that can be used")
    return token
