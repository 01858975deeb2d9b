"""What the core's unit tests share: an S3 server within this process, and a client program in the test's hands."""

import logging
import threading
import uuid

import boto3
import pytest
from botocore.config import Config
from hypothesis import settings
from moto.server import ThreadedMotoServer

from airflow_pg_s3.core.postgres.client_versions import ClientTools

settings.register_profile("unit", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("unit")


@pytest.fixture(scope="session")
def s3_url():
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield "http://127.0.0.1:{1}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture(scope="session")
def new_s3_client(s3_url):
    """Make a client; `config` adds to or replaces botocore settings. One attempt, so that a fault is seen."""

    def make(endpoint_url=s3_url, **config):
        defaults = {
            "s3": {"addressing_style": "path"},
            "retries": {"mode": "standard", "total_max_attempts": 1},
            "max_pool_connections": 20,
        }
        return boto3.client(
            "s3",
            endpoint_url=endpoint_url,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(**defaults | config),
        )

    return make


@pytest.fixture(scope="session")
def s3_client(new_s3_client):
    return new_s3_client()


@pytest.fixture
def bucket(s3_client):
    name = f"unit-{uuid.uuid4().hex[:12]}"
    s3_client.create_bucket(Bucket=name)
    return name


@pytest.fixture
def cancel():
    return threading.Event()


@pytest.fixture
def keys_of(s3_client):
    """Bucket → the keys in it, sorted."""

    def keys(bucket, prefix=""):
        pages = s3_client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return sorted(entry["Key"] for page in pages for entry in page.get("Contents", []))

    return keys


@pytest.fixture
def fake_program(tmp_path_factory):
    """Make `pg_dump` and `pg_restore` of shell commands in a folder of their own."""

    def make(commands, *, version="16.14", programs=("pg_dump", "pg_restore"), folder=None):
        folder = folder or tmp_path_factory.mktemp("bin")
        for program in programs:
            path = folder / program
            path.write_text(f"#!/bin/sh\n{commands}\n")
            path.chmod(0o755)
        return ClientTools(major=int(version.split(".")[0]), version=version, folder=folder)

    return make
