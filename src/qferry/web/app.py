"""The pages, and what may be asked of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, TypeAlias

import orjson
from markupsafe import Markup
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from qferry import commands
from qferry.commands import Examination, Seen
from qferry.connection import Connection
from qferry.errors import Conflict, FerryError, Misuse, Refused, RemoteFailure
from qferry.protocol.phases import out_of_order
from qferry.protocol.records import Migration
from qferry.web import views
from qferry.web.actions import ACTIONS, Action
from qferry.web.aside import KeptOpen, aside
from qferry.web.security import Headers, NotAForm, Sessions, comes_from_elsewhere, host_is_ours, read_form
from qferry.web.watching import ALL, Look, NoSuchMigration, Watching
from qferry.web.works import Work, Works

# A look that takes longer is given up: whoever opens a page is told instead.
LOOK_TIMEOUT_S = 5
# How long a form waits for the end of what it has set going, so that a refusal is its answer.
ANSWER_S = 1.5
# Pages that may be kept up to date at the same time.
STREAMS_MAX = 100
# What was found is shown for so long before doctor is asked again.
_FINDINGS_S = 10.0

_log = logging.getLogger(__name__)

Handler: TypeAlias = Callable[[Request], Awaitable[Response]]


@dataclass
class Examined:
    """A look of doctor's, under way or over."""

    task: asyncio.Task[Examination]
    ended: float | None = None  # when, on the monotonic clock

    @property
    def is_old(self) -> bool:
        """Whether what was found is no news any more: doctor may have listened for longer than it stays news."""
        return self.ended is not None and time.monotonic() - self.ended > _FINDINGS_S

    def over(self, _: object) -> None:
        """Take note of the end."""
        self.ended = time.monotonic()


class Dashboard:
    """
    The pages of one server's migrations.

    Args:
        connection: The servers, which no page can choose.
        sessions: Who is signed in.
        names: What the dashboard is known by, in lower case; `localhost` always is.
        any_address: Whether it is reached under its address too.
        read_only: Whether it shows and does nothing.
    """

    def __init__(
        self,
        connection: Connection,
        sessions: Sessions,
        *,
        names: Collection[str] = (),
        any_address: bool = False,
        read_only: bool = False,
    ) -> None:
        self.works = Works()
        self._connection = connection
        self._sessions = sessions
        self._names = frozenset(names)
        self._any_address = any_address
        self._read_only = read_only
        self._templates = views.environment()
        self._examined: dict[str, Examined] = {}
        self._made: dict[str, tuple[Look, dict[str, str]]] = {}  # of what is watched, as last seen
        self._watching: Watching | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def app(self) -> Starlette:
        """The application to be served."""
        routes = [
            Route("/", self._page(self._list)),
            Route("/live", self._page(self._live)),
            Route("/login", self._page(self._login, open_to_all=True), methods=["GET", "POST"]),
            Route("/logout", self._page(self._logout), methods=["POST"]),
            Route("/migrations/{id}", self._page(self._migration)),
            Route("/migrations/{id}/history", self._page(self._history)),
            Route("/migrations/{id}/doctor", self._page(self._doctor)),
        ]
        if not self._read_only:
            routes += [
                Route("/migrations/{id}/stop", self._page(self._stop), methods=["POST"]),
                Route("/migrations/{id}/{verb}", self._page(self._action), methods=["GET", "POST"]),
            ]
        return Starlette(
            routes=[*routes, Mount("/static", StaticFiles(packages=[("qferry.web", "static")]))],
            middleware=[Middleware(Headers)],
            exception_handlers={HTTPException: self._http_problem},  # type: ignore[dict-item]  # it is one
            lifespan=self._lifespan,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self._loop = asyncio.get_running_loop()
        with KeptOpen.of(self._connection, LOOK_TIMEOUT_S) as looking:
            self._watching = Watching(looking)
            yield
            self._watching.end()

    def end_streams(self) -> None:
        """Let everybody who watches go, from a signal handler or another thread."""
        if self._loop is not None and self._watching is not None:
            self._loop.call_soon_threadsafe(self._watching.end)

    @property
    def watching(self) -> Watching:
        """What looks for everybody, while the application is served."""
        if self._watching is None:
            raise RuntimeError("the dashboard is not being served")
        return self._watching

    # Who is let in.

    def _page(self, handler: Handler, *, open_to_all: bool = False) -> Handler:
        async def guarded(request: Request) -> Response:
            if not host_is_ours(request.headers.get("host", ""), self._names, any_address=self._any_address):
                return self._problem(
                    request,
                    HTTPStatus.MISDIRECTED_REQUEST,
                    "This dashboard is not known by the name in the address.",
                    "Use its own address, or start it with `--allow-host NAME` and a token.",
                )
            session = self._sessions.of(request)
            is_new = session is None and not self._sessions.wants_token
            if is_new:
                session = self._sessions.new()
            request.state.session = session
            try:
                response = await self._answer(request, handler, open_to_all=open_to_all)
            except ClientDisconnect:
                return Response(status_code=HTTPStatus.BAD_REQUEST)  # nobody is there to read it
            except NoSuchMigration:
                response = self._problem(request, HTTPStatus.NOT_FOUND, "There is no such migration on this server.")
            except FerryError as error:
                response = self._problem(request, _status_for(error), error.message, error.hint)
            except HTTPException:
                raise
            except Exception as error:  # noqa: BLE001  it is logged, and whoever asked is told
                _log.exception("a page could not be made")
                fault = f"A fault of qferry: {type(error).__name__}."
                response = self._problem(request, HTTPStatus.INTERNAL_SERVER_ERROR, fault, "Please report it.")
            if is_new and session is not None:
                self._keep(response, session)
            return response

        return guarded

    async def _answer(self, request: Request, handler: Handler, *, open_to_all: bool) -> Response:
        session: str | None = request.state.session
        if request.method == "POST":
            if comes_from_elsewhere(request):
                return self._forged(request, "It was sent by a page of another site.")
            try:
                request.state.form = await read_form(request)
            except NotAForm:
                return self._problem(request, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "That is no form of this dashboard.")
        if session is None and not open_to_all:
            if request.method != "POST" and request.url.path != "/live":
                return RedirectResponse(f"/login?next={request.url.path}", HTTPStatus.SEE_OTHER)
            return self._problem(request, HTTPStatus.UNAUTHORIZED, "You are not signed in; nothing was changed.")
        if request.method == "POST" and not open_to_all:
            given = request.state.form.get("form_token")
            if session is None or not self._sessions.is_form_of(session, given):
                return self._forged(request, "It is not of this session: the dashboard may have been restarted.")
        return await handler(request)

    def _keep(self, response: Response, session: str) -> None:
        response.set_cookie(self._sessions.cookie, session, httponly=True, samesite="strict", path="/")

    async def _login(self, request: Request) -> Response:
        if not self._sessions.wants_token:
            return RedirectResponse("/", HTTPStatus.SEE_OTHER)
        if request.method != "POST":
            return self._html("login.html", request, next=request.query_params.get("next", "/"), problem="")
        form = request.state.form
        following = _local(form.get("next"))
        if not self._sessions.is_token(form.get("token")):
            await self._sessions.slow_down()
            problem = "That is not the token."
            return self._html("login.html", request, HTTPStatus.FORBIDDEN, next=following, problem=problem)
        response = RedirectResponse(following, HTTPStatus.SEE_OTHER)
        self._keep(response, self._sessions.new())
        return response

    async def _logout(self, request: Request) -> Response:
        if self._sessions.wants_token:  # otherwise everybody is given a new one at once
            self._sessions.end(request.state.session)
        response = RedirectResponse("/login", HTTPStatus.SEE_OTHER)
        response.delete_cookie(self._sessions.cookie, httponly=True, samesite="strict", path="/")
        return response

    # What is shown.

    async def _list(self, request: Request) -> Response:
        return self._html("list.html", request, topic=ALL, **views.listed(await self.watching.look(ALL)))

    async def _migration(self, request: Request) -> Response:
        migration_id = _id(request)
        shown = self._shown(await self.watching.look(migration_id))
        return self._html("migration.html", request, topic=migration_id, **shown)

    def _shown(self, look: Look) -> dict[str, Any]:
        migration_id = look.statuses[0].migration.id
        watching = self.watching
        return views.migration(
            look,
            watching.samples(migration_id),
            watching.rate(migration_id),
            self.works.latest(migration_id),
            read_only=self._read_only,
        )

    async def _history(self, request: Request) -> Response:
        migration_id = _id(request)
        before = _cursor(request.query_params.get("before"))
        m, page = await asyncio.gather(
            self.watching.record(migration_id),
            aside(
                commands.recent_history, self.watching.connection, migration_id, before=before, lines=views.LINES_FULL
            ),
        )
        return self._html("history.html", request, m=m, page=page, newest=before is None)

    async def _doctor(self, request: Request) -> Response:
        m = await self._find(request)
        examined = self._examined.get(m.id)
        if examined is None or examined.is_old:
            examined = self._examined[m.id] = Examined(
                asyncio.create_task(aside(commands.examination_of, self._connection, m.id))
            )
            examined.task.add_done_callback(examined.over)
        await asyncio.wait([examined.task], timeout=ANSWER_S)
        found = examined.task.result() if examined.task.done() else None
        return self._html("doctor.html", request, m=m, found=found)

    async def _live(self, request: Request) -> Response:
        topic = request.query_params.get("of", ALL)
        if topic != ALL:
            with contextlib.suppress(FerryError):  # who watches is told of that
                await self.watching.record(_checked(topic))
        if self.watching.viewers >= STREAMS_MAX:
            return self._problem(request, HTTPStatus.SERVICE_UNAVAILABLE, "Too many pages are open.", "Close some.")
        return StreamingResponse(self._events(topic, request.state.session), media_type="text/event-stream")

    async def _events(self, topic: str, session: str) -> AsyncIterator[str]:
        sent: dict[str, str] = {}
        yield "retry: 2000\n\n"
        async with contextlib.aclosing(self.watching.watch(topic)) as looks:
            async for look in looks:
                if not self._sessions.is_good(session):
                    return
                if look.error is not None:
                    message: dict[str, Any] = {"error": str(look.error)}
                else:
                    parts = self._parts_for_all(topic, look)
                    message = {"parts": {name: html for name, html in parts.items() if sent.get(name) != html}}
                    sent.update(parts)
                yield f"data: {orjson.dumps(message).decode()}\n\n"

    def _parts_for_all(self, topic: str, look: Look) -> dict[str, str]:
        """Make them once for all who watch."""
        of, parts = self._made.get(topic, (None, {}))
        if of is not look:
            parts = self._parts(topic, look)
            self._made[topic] = (look, parts)
        return parts

    def _parts(self, topic: str, look: Look) -> dict[str, str]:
        names, shown = (
            (views.LIST_PARTS, views.listed(look)) if topic == ALL else (views.MIGRATION_PARTS, self._shown(look))
        )
        return {name: self._templates.get_template(f"parts/{name}.html").render(shown) for name in names}

    # What is done.

    async def _action(self, request: Request) -> Response:
        action = ACTIONS.get(request.path_params["verb"])
        if action is None:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        m = await self._find(request)
        if not action.fits(m):
            problem = out_of_order(m.phase, f"qferry {action.verb}")
            return self._form(request, action, m, problem)
        if request.method != "POST":
            return self._form(request, action, m, None)
        form = request.state.form
        try:
            seen = _seen(form)
            seen.check(m)
            if action.typed and form.get("typed_name") != m.source:
                raise Refused(
                    f"`{form.get('typed_name', '')}` is not the name of the source, `{m.source}`; nothing was changed.",
                    hint="Type the name exactly.",
                )
            settings = action.settings(form)
            work = await self._begin(action, m, seen, settings)
        except FerryError as error:
            return self._form(request, action, m, error, form)
        if work is not None and work.error is not None:
            return self._form(request, action, await self._find(request), work.error, form)
        return RedirectResponse(f"/migrations/{m.id}", HTTPStatus.SEE_OTHER)

    async def _begin(self, action: Action, m: Migration, seen: Seen, settings: dict[str, Any]) -> Work | None:
        """Do it at once, or set it going and wait a little for its end."""
        if action.beside:
            await aside(action.carry_out, self._connection, m, seen, settings)
            return None

        def command(work: Work) -> Any:
            return action.carry_out(self._connection, m, seen, settings, work.heard)

        work = self.works.begin(m.id, action.verb, m.source, command, overtakes=action.overtakes)
        await aside(work.over.wait, ANSWER_S)
        return work

    def _form(
        self,
        request: Request,
        action: Action,
        m: Migration,
        problem: FerryError | None,
        typed: Mapping[str, Any] | None = None,
    ) -> Response:
        work = self.works.latest(m.id)
        wording = action.consequence
        shown = {
            "action": action,
            "m": m,
            "seen": Seen.of(m),
            "possible": action.fits(m),
            "running": work if work is not None and not work.over.is_set() else None,
            "problem": problem,
            "typed": typed or {},
            "question": _filled(wording.question, m),
            "follows": _filled(wording.follows, m),
            "for_good": _filled(wording.for_good, m),
        }
        return self._html("action.html", request, HTTPStatus.OK if problem is None else _status_for(problem), **shown)

    async def _stop(self, request: Request) -> Response:
        m = await self._find(request)
        work = self.works.latest(m.id)
        if work is not None:
            work.stop()
        return RedirectResponse(f"/migrations/{m.id}", HTTPStatus.SEE_OTHER)

    async def _find(self, request: Request) -> Migration:
        """Its record, which is read also while the target's server is dead: then the way back is needed most."""
        return await self.watching.record(_id(request))

    # How it is answered.

    def _html(self, template: str, request: Request, code: int = HTTPStatus.OK, **shown: Any) -> Response:
        session: str | None = getattr(request.state, "session", None)
        text = self._templates.get_template(template).render(
            form_token=self._sessions.form_token(session) if session else "",
            signed_in=session is not None and self._sessions.wants_token,
            **{"read_only": self._read_only, **shown},
        )
        return HTMLResponse(text, code)

    def _problem(self, request: Request, status: int, message: str, hint: str = "") -> Response:
        again = status == HTTPStatus.SERVICE_UNAVAILABLE and request.method != "POST"
        return self._html("problem.html", request, status, message=message, hint=hint, again=again)

    def _forged(self, request: Request, why: str) -> Response:
        hint = "Open the page again and send the form from there."
        return self._problem(request, HTTPStatus.FORBIDDEN, f"That form is refused; nothing was changed. {why}", hint)

    async def _http_problem(self, request: Request, error: HTTPException) -> Response:
        said = {
            HTTPStatus.NOT_FOUND: "There is no such page.",
            HTTPStatus.METHOD_NOT_ALLOWED: "Nothing is done by opening an address; nothing was changed.",
        }
        answer = self._problem(request, error.status_code, said.get(HTTPStatus(error.status_code), error.detail))
        answer.headers.update(error.headers or {})
        return answer


def _filled(text: str, m: Migration) -> Markup:
    return views.filled(text, m, percent="the chosen", days="the chosen number of")


def _status_for(error: FerryError) -> int:
    if isinstance(error, RemoteFailure):
        return HTTPStatus.SERVICE_UNAVAILABLE
    if isinstance(error, Refused | Conflict):
        return HTTPStatus.CONFLICT
    return HTTPStatus.UNPROCESSABLE_ENTITY if isinstance(error, Misuse) else HTTPStatus.INTERNAL_SERVER_ERROR


def _local(path: object) -> str:
    """Where to go after signing in; nowhere else than here."""
    return path if isinstance(path, str) and re.fullmatch(r"/[\w/.-]*", path) and not path.startswith("//") else "/"


def _id(request: Request) -> str:
    return _checked(request.path_params["id"])


def _checked(migration_id: str) -> str:
    try:
        return str(uuid.UUID(migration_id))
    except ValueError:
        raise HTTPException(HTTPStatus.NOT_FOUND) from None


def _cursor(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,15})-(\d{1,15})", text, re.ASCII)
    if found is None:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    return int(found[1]), int(found[2])


def _seen(form: dict[str, Any]) -> Seen:
    try:
        seen = Seen(str(form["migration"]), str(form["phase"]), int(form["read_percent"]))
        return replace(seen, stepped_back=form.get("stepped_back"))
    except (KeyError, ValueError):
        raise Refused("The form does not say what it was made for; nothing was changed.") from None
