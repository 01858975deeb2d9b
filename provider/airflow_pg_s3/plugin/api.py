"""The routes of the Backups page: the page itself, and what it asks for. All only read.

Whoever may read Airflow's assets may see the page, as a repository is one, and its backups are the events of it.
What the page changes, a restore or a verification, it asks of Airflow's own API, with the rights of who clicks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.base_auth_manager import COOKIE_NAME_JWT_TOKEN
from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.api_fastapi.core_api.security import resolve_user_from_token
from airflow.providers.common.compat.sdk import redact
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse
from pydantic import AwareDatetime

from airflow_pg_s3.core.errors import PgS3Error
from airflow_pg_s3.plugin import overview
from airflow_pg_s3.plugin.answers import Answers, StillWaiting

STATIC = Path(__file__).with_name("static")
FILES = {
    "": "text/html",
    "page.css": "text/css",
    "page.js": "text/javascript",
    "actions.js": "text/javascript",
    "airflow.js": "text/javascript",
    "plot.js": "text/javascript",
    "text.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
"""The page's files and their types; the first is index.html."""
HEADERS = {
    # Names, labels and errors come from elsewhere: whatever they hold, nothing of it can run.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
# Airflow's first 3.1 keeps the token where only scripts see it, so that a page cannot be asked for with it. The
# files hold nothing secret.
_COOKIE_HAS_TOKEN = find_spec("airflow.api_fastapi.auth.middlewares") is not None


async def user_of(request: Request) -> BaseUser:
    """Return the user whose token comes with a request, in a header or a cookie; 401 if there is none."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    bearer = token if scheme.lower() == "bearer" else None
    return await resolve_user_from_token(bearer or request.cookies.get(COOKIE_NAME_JWT_TOKEN))


def may_see(user: Annotated[BaseUser, Depends(user_of)]) -> None:
    """Answer 403 to users who may not read assets."""
    if not get_auth_manager().is_authorized_asset(method="GET", user=user):
        raise HTTPException(403, "You may not see backups: Airflow lets you read no assets.")


answers = Answers()
files = APIRouter(dependencies=[Depends(may_see)] if _COOKIE_HAS_TOKEN else [])
data = APIRouter(prefix="/api", dependencies=[Depends(may_see)])
Name = Annotated[str, Query(min_length=1, max_length=1000)]
BackupId = Annotated[str, Query(pattern=r"^[0-9]{8}T[0-9]{6}Z-[0-9a-f]{6}$")]


def _add_file(name: str, media_type: str) -> None:
    @files.get(f"/{name}", name=name or "index.html")
    async def file() -> FileResponse:
        return FileResponse(STATIC / (name or "index.html"), media_type=media_type)


for _name, _media_type in FILES.items():
    _add_file(_name, _media_type)


@data.get("/repositories")
def repositories() -> list[overview.RepositorySummary]:
    """List the named repositories; S3 is not asked."""
    return overview.repositories()


@data.get("/databases")
async def databases(repository: Name) -> dict[str, Any]:
    """Look at the newest backups of each database."""
    return await _asked(overview.databases, repository)


@data.get("/backups")
async def backups(repository: Name, database: Name, before: AwareDatetime | None = None) -> dict[str, Any]:
    """List backups, newest first, in parts."""
    return await _asked(overview.backups, repository, database, before)


@data.get("/history")
async def history(repository: Name, database: Name) -> dict[str, Any]:
    """List what the plots show."""
    before: datetime | None = None
    return await _asked(overview.backups, repository, database, before, overview.POINTS)


@data.get("/backup")
async def backup(repository: Name, database: Name, backup_id: BackupId) -> dict[str, Any]:
    """Show one backup."""
    return await _asked(overview.backup, repository, database, backup_id)


@data.get("/manifest")
async def manifest(repository: Name, database: Name, backup_id: BackupId) -> Response:
    """Give out a manifest as it is stored."""
    stored, _ = await answers.get(overview.manifest, repository, database, backup_id)
    return Response(stored, media_type="application/json")


async def _asked(ask: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    answer, age_seconds = await answers.get(ask, *arguments)
    return {"age_seconds": round(age_seconds, 1), "answer": answer}


def explain(request: Request, error: Exception) -> JSONResponse:
    """Turn an error into the sentence that the page shows."""
    status = 502
    if isinstance(error, overview.NotFound):
        status = 404
    elif isinstance(error, StillWaiting):
        status = 504
    return JSONResponse({"detail": redact(str(error))}, status)


def ask_to_log_in(request: Request, error: Exception) -> Response:
    """Let a browser that opens the page without a login go to Airflow's, which leads back; refuse all else."""
    if "text/html" not in request.headers.get("Accept", ""):
        return JSONResponse({"detail": "Not authenticated"}, 401)
    return RedirectResponse(f"../api/v2/auth/login?{urlencode({'next': str(request.url)})}")


async def add_headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Send with each answer what the browser may do with it."""
    response = await call_next(request)
    response.headers.update(HEADERS)
    return response


app = FastAPI(title="PostgreSQL backups", docs_url=None, redoc_url=None, openapi_url=None)
app.middleware("http")(add_headers)
app.add_exception_handler(PgS3Error, explain)
app.add_exception_handler(401, ask_to_log_in)
app.include_router(files)
app.include_router(data)
