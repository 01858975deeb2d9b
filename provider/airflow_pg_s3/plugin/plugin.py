"""The plugin, as Airflow loads it in every process: nothing is imported that shows no page."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from airflow import __version__ as airflow_version
from airflow.providers.common.compat.sdk import AirflowPlugin

from airflow_pg_s3.airflow_version import has_external_views

URL_PREFIX = "/pg-s3"
_Message = MutableMapping[str, Any]


class LazyApp:
    """An ASGI app that imports the real one with its first request."""

    async def __call__(
        self,
        scope: _Message,
        receive: Callable[[], Awaitable[_Message]],
        send: Callable[[_Message], Awaitable[None]],
    ) -> None:
        """Answer one request."""
        # boto3 takes a second to import: other requests need not wait for that.
        api = await asyncio.to_thread(importlib.import_module, "airflow_pg_s3.plugin.api")
        await api.app(scope, receive, send)


class BackupsPlugin(AirflowPlugin):
    """The Backups page."""

    name = "pg_s3_backups"
    if has_external_views(airflow_version):
        fastapi_apps = [{"name": "PostgreSQL backups", "app": LazyApp(), "url_prefix": URL_PREFIX}]
        # Relative addresses, as Airflow may live below a path of its server.
        external_views = [
            {
                "name": "Backups",
                "href": f"{URL_PREFIX.lstrip('/')}/",
                "url_route": "pg-s3-backups",
                "destination": "nav",
                "nav_top_level": True,
            }
        ]
