"""An exchange with what surrounds it: redirects, authorization, trying again.

`Authorization` goes to the registry itself and nowhere else (distribution-spec: it must not cross hosts), and
credentials to the token server that it names. What is transient, a broken connection, a 429 or a 5xx, is
tried again a bounded number of times, at the pace that the registry asks for if that is bearable.
"""

from __future__ import annotations

import email.utils
import random
import re
import threading
import time
from dataclasses import dataclass, field, replace
from urllib.parse import urljoin

from sandbox.errors import ImageError, RegistryError
from sandbox.image.auth import Keyring
from sandbox.image.config import Endpoint, Registries
from sandbox.image.registry.connection import Patience
from sandbox.image.registry.tokens import Tokens, error_text
from sandbox.image.registry.transport import (
    Answer,
    Origin,
    Request,
    Transport,
    Unreachable,
    origin_of,
    written,
)
from sandbox.units import format_duration
from sandbox.words import printable

__all__ = ["Context", "Retry", "Session", "Stop", "Stopped"]

_REDIRECTS = 5
_REDIRECTING = (301, 302, 303, 307, 308)
_TRANSIENT = (408, 429, 500, 502, 503, 504)


class Stopped(ImageError):
    """A transfer was told to stop; never seen by a caller."""


class Stop:
    """Tells the threads of one transfer to end."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """End as soon as you can."""
        self._event.set()

    def check(self) -> None:
        """Raise `Stopped` if it was set."""
        if self._event.is_set():
            raise Stopped("stopped")

    def wait(self, seconds: float) -> None:
        """Sleep; raises `Stopped` when it is set meanwhile."""
        self._event.wait(seconds)
        self.check()


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and how soon to try again.

    Attributes:
        tries: attempts in all.
        first: seconds before the second attempt; doubled before each that follows.
        longest: seconds that are waited at most, also when a registry asks for more.
    """

    tries: int = 5
    first: float = 1.0
    longest: float = 60.0

    def delay(self, attempt: int) -> float:
        """Seconds to wait after attempt number *attempt*, from 0; not the same for everybody."""
        return min(self.first * 2.0**attempt, self.longest) * random.uniform(0.75, 1.25)


@dataclass(frozen=True, slots=True)
class Context:
    """What the sessions of one transfer share."""

    registries: Registries
    keyring: Keyring
    stop: Stop = field(default_factory=Stop)
    retry: Retry = field(default_factory=Retry)
    patience: Patience = field(default_factory=Patience)


class Session:
    """Exchanges with one repository of a registry. Threads may share it. A context manager: leaving it closes
    the connections."""

    def __init__(self, endpoint: Endpoint, context: Context) -> None:
        self.endpoint = endpoint
        self.context = context
        self._transport = Transport(endpoint.host, context.registries, context.patience)
        self._tokens = Tokens(endpoint, context.keyring, self._follow)
        self._origin = origin_of(endpoint.host.url)
        self._answered: set[Origin] = set()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *error: object) -> None:
        self._transport.close()

    def abort(self) -> None:
        """End all exchanges, from any thread."""
        self._transport.abort()

    def url(self, path: str) -> str:
        """The URL of *path* in the repository: "manifests/latest", "blobs/sha256:…"."""
        return f"{self.endpoint.host.url}/v2/{self.endpoint.repository}/{path}"

    def located(self, answer: Answer) -> str:
        """The URL of an answer's Location header, which may be relative.

        Raises:
            RegistryError: it has none, or none that can be followed.
        """
        location = answer.header("Location")
        try:
            url = urljoin(answer.url, location).partition("#")[0]
            origin_of(url if location else "")
        except ValueError:
            where = printable(location)[:100] or "missing"
            raise RegistryError(f"{self.endpoint.host.name} sends us nowhere: Location is {where}") from None
        return url

    def ask(self, request: Request) -> Answer:
        """Send *request*, with authorization if the registry wants it; the answer, which may be an error.

        Raises:
            RegistryError: there is no answer, or none without other credentials.
        """
        stale = header = self._tokens.header(request.scopes)
        fresh = False
        while True:
            answer = self._follow(request, header)
            if answer.status != 401 or origin_of(answer.url) != self._origin:
                return answer
            with answer:
                challenges, said = answer.header("WWW-Authenticate"), error_text(answer)
            if fresh:
                raise self._tokens.refused(said)
            header, fresh = self._tokens.renew(challenges, request.scopes, stale), True

    def failed(self, answer: Answer, what: str) -> RegistryError:
        """The error for an answer with another status than was hoped for; *what* says what was tried."""
        said = error_text(answer)
        origin = origin_of(answer.url)
        where = self.endpoint.host.name if origin == self._origin else written(origin)
        if answer.status in (401, 403) and origin == self._origin:
            return self._tokens.refused(said, answer.status)
        if answer.status == 429:
            wait = _retry_after(answer.header("Retry-After"))
            when = f" for {format_duration(wait)}" if wait else ""
            return RegistryError(
                f"{where} has had enough requests{when}: {said or 'too many requests'}",
                f"try again later, or log in, which allows more: podman login {where}",
                status=429,
            )
        return RegistryError(
            f"{what}: {where} answers {answer.status}" + (f": {said}" if said else ""), status=answer.status
        )

    def pause(self, attempt: int) -> None:
        """Wait as after attempt number *attempt*, from 0."""
        self.context.stop.wait(self.context.retry.delay(attempt))

    # -----------------------------------------------------------------------------------------------------

    def _follow(self, request: Request, header: str = "") -> Answer:
        """The answer where the redirects end. *header* is the Authorization for the registry itself."""
        for _ in range(_REDIRECTS + 1):
            headers = dict(request.headers)
            if header and origin_of(request.url) == self._origin:
                headers["Authorization"] = header
            answer = self._patiently(replace(request, headers=headers))
            if answer.status not in _REDIRECTING or request.method not in ("GET", "HEAD"):
                return answer
            with answer:
                url = self.located(answer)
                answer.discard()
            if origin_of(url) != origin_of(request.url):
                # a token request's own; the registry's is added above, and only for the registry
                own = {name: value for name, value in request.headers.items() if name != "Authorization"}
                request = replace(request, headers=own)
            request = replace(request, url=url)
        raise RegistryError(f"{self.endpoint.host.name} redirects more than {_REDIRECTS} times")

    def _patiently(self, request: Request) -> Answer:
        tries = self.context.retry.tries if request.again else 1
        origin = origin_of(request.url)
        attempt = 0
        while True:
            self.context.stop.check()
            last = attempt == tries - 1
            delay = 0.0
            try:
                answer = self._transport.open(request)
            except Unreachable as error:
                self.context.stop.check()
                # A host that never answered is not there, more likely than not.
                if last or not error.transient or not (error.connected or origin in self._answered):
                    raise
            else:
                self._answered.add(origin)
                delay = _retry_after(answer.header("Retry-After"))
                if last or answer.status not in _TRANSIENT or delay > self.context.retry.longest:
                    return answer
                with answer:
                    answer.discard()
            self.context.stop.wait(max(delay, self.context.retry.delay(attempt)))
            attempt += 1


def _retry_after(text: str) -> float:
    """Seconds that a Retry-After header asks for, a number or a date (RFC 9110, 10.2.3); 0.0 for none."""
    text = text.strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError, IndexError, OverflowError):
        return 0.0
