"""One HTTP connection to a service: its key, its errors, its answers as models."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from api.settings import LOOPBACK

DEFAULT_URL = "http://127.0.0.1:8080"
AWAY = frozenset({502, 503, 504})

Model = TypeVar("Model", bound=BaseModel)
Item_co = TypeVar("Item_co", covariant=True)
Body = BaseModel | Mapping[str, object] | None
Params = Mapping[str, str | int | Sequence[str] | None]


class Page(Protocol[Item_co]):
    """A page of a list. `next` is the `after` of the next page."""

    @property
    def data(self) -> Sequence[Item_co]: ...

    @property
    def has_more(self) -> bool: ...

    @property
    def next(self) -> str | int | None: ...


PageType = TypeVar("PageType", bound=Page[Any])


class ClientError(Exception):
    """The service refused a request. `code` is stable; `param` is the field to change, if there is one."""

    def __init__(
        self, message: str, *, code: str, param: str | None = None, status: int | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.param = param
        self.status = status


class ServiceAwayError(ClientError):
    """No service answers at the URL."""

    def __init__(self, url: str, why: str) -> None:
        super().__init__(
            f"no Secateur answers at {url}: {why}; start one with `secateur serve`, or give another --url",
            code="unreachable",
            status=503,
        )


class Connection:
    """The HTTP connection of all calls. `transport` replaces the network in tests.

    The key is sent to the service alone, never to the target of a redirected download.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout: float = 60,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        try:
            host = httpx.URL(self.url).host
            self._http = httpx.Client(
                base_url=self.url,
                auth=_Key(httpx.URL(self.url), api_key) if api_key else None,
                timeout=timeout,
                transport=transport,
                trust_env=host not in LOOPBACK,  # a proxy cannot reach this machine's own services
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise ServiceAwayError(url, f"this is no URL ({error})") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _fetch(
        self,
        method: str,
        path: str,
        model: type[Model],
        *,
        json: Body = None,
        params: Params | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Model:
        """Make a call, and return its answer as a model."""
        return parsed(self._call(method, path, json=json, params=params, headers=headers).content, model)

    def _call(
        self,
        method: str,
        path: str,
        *,
        json: Body = None,
        params: Params | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        plain = json.model_dump(mode="json") if isinstance(json, BaseModel) else json
        try:
            answer = self._http.request(method, path, json=plain, params=params, headers=headers)
        except httpx.TransportError as error:
            raise ServiceAwayError(self.url, str(error) or type(error).__name__) from error
        self._refused(answer)
        return answer

    def _refused(self, answer: httpx.Response) -> None:
        """Raise the error that the answer describes, unless it is a success."""
        if answer.is_success:
            return
        answer.read()
        try:
            error = answer.json()["error"]
            message, code, param = error["message"], error["code"], error.get("param")
        except (ValueError, KeyError, TypeError):
            if answer.status_code in AWAY:
                raise ServiceAwayError(self.url, f"HTTP {answer.status_code}") from None
            message = f"{self.url} answered HTTP {answer.status_code}: {answer.text[:200]}"
            raise ClientError(message, code="unexpected_answer", status=answer.status_code) from None
        raise ClientError(message, code=code, param=param, status=answer.status_code)


class _Key(httpx.Auth):
    """Adds the key to requests to one origin."""

    def __init__(self, service: httpx.URL, key: str) -> None:
        self._origin = _origin(service)
        self._key = key

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Add the header. httpx itself drops it when it follows a redirect to another origin."""
        if _origin(request.url) == self._origin:
            request.headers["Authorization"] = f"Bearer {self._key}"
        yield request


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def parsed(content: bytes | str, model: type[Model]) -> Model:
    """Reads an answer as a model. Unknown fields are ignored, because a newer service may add some."""
    try:
        return model.model_validate_json(content, extra="ignore")
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ClientError(
            f"the service answered no {model.__name__}: {field} {first['msg'].lower()}; "
            f"is it a Secateur of another version?",
            code="unexpected_answer",
        ) from error


def paged(fetch: Callable[[Params], Page[Item_co]], given: Params) -> Iterator[Item_co]:
    """All items of a list. Pages are fetched as the iterator needs them; None and [] are not sent."""
    for page in pages(fetch, given):
        yield from page.data


def pages(fetch: Callable[[Params], PageType], given: Params) -> Iterator[PageType]:
    """All pages of a list, each fetched when the iterator needs it."""
    params = {name: value for name, value in given.items() if value not in (None, [])}
    while True:
        page = fetch(params)
        yield page
        if not page.has_more or page.next is None:
            return
        params["after"] = page.next


def safe(part: str) -> str:
    """Quotes a text, so that it is one segment of a path."""
    return quote(part, safe="")
