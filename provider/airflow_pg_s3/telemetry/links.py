"""The buttons of a task that lead to its backup: on the Backups page, and in Amazon's S3 console."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlencode

from airflow import __version__ as airflow_version
from airflow.providers.amazon.aws.links.base_aws import BaseAwsLink
from airflow.providers.common.compat.sdk import BaseOperatorLink, conf

from airflow_pg_s3.airflow_version import has_external_views
from airflow_pg_s3.core.s3.requests import parse_uri

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


class S3ConsoleLink(BaseOperatorLink):
    """Leads to the manifest of the backup that the task has made, restored or verified."""

    name = "Backup on Amazon S3"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the address that the operator has left when it ran; empty if the store is not Amazon's."""
        return str(getattr(operator, "console_url", ""))


class BackupsPageLink(BaseOperatorLink):
    """Leads to the same backup on the Backups page."""

    name = "Backup on its page"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the address that the operator has left when it ran; empty if the page does not show it."""
        return str(getattr(operator, "page_url", ""))


def backup_links(version: str) -> tuple[BaseOperatorLink, ...]:
    """Return the buttons of tasks that make, restore or verify a backup, in this version of Airflow."""
    return (BackupsPageLink(), S3ConsoleLink()) if has_external_views(version) else (S3ConsoleLink(),)


BACKUP_LINKS = backup_links(airflow_version)
"""The same, in the installed version."""


def console_url(client: S3Client, uri: str) -> str:
    """Return the address of an object in Amazon's console; empty if the client's store is another one."""
    domain = BaseAwsLink.get_aws_domain(client.meta.partition)
    if domain is None or ".amazonaws.com" not in client.meta.endpoint_url:
        return ""
    bucket, key = parse_uri(uri, parameter="backup")
    query = urlencode({"region": client.meta.region_name, "prefix": key})
    return f"https://console.{domain}/s3/object/{bucket}?{query}"


def page_url(repository: str, uri: str) -> str:
    """Return the address of a backup on the Backups page.

    :param repository: name in the option ``[pg_s3] repositories``.
    :param uri: of the backup's manifest.
    """
    _, folder, file = uri.rsplit("/", 2)
    names = (repository, unquote(folder), file.removesuffix(".json"))
    base = conf.get("api", "base_url", fallback="").rstrip("/")
    return f"{base}/pg-s3/#{'/'.join(quote(name, safe='') for name in names)}"
