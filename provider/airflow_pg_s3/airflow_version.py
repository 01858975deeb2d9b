"""What a version of Airflow has."""

from __future__ import annotations


def has_external_views(version: str) -> bool:
    """True if this version of Airflow has a place for the Backups page: from 3.1 on."""
    major, minor = version.split(".")[:2]
    return (int(major), int(minor)) >= (3, 1)
