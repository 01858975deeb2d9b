"""Throwaway S3 servers: moto, which runs anywhere and checks little, and Ceph's radosgw, a real one."""

from __future__ import annotations

import functools
import json
import secrets
import shutil
import signal
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import boto3
from botocore.config import Config

from testkit.sandbox import Sandbox, accepts_connections, environment_without, free_port

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

REGION = "us-east-1"


class S3Server:
    """The base class of the servers: a `with` block, an address, a pair of keys, and clients for them."""

    config_kwargs: Mapping[str, Any] = {
        "s3": {"addressing_style": "path"},
        "retries": {"mode": "standard", "total_max_attempts": 5},
        "max_pool_connections": 20,
    }

    def __init__(self, *, base_dir: Path | None = None) -> None:
        self.access_key = secrets.token_hex(10)
        self.secret_key = secrets.token_urlsafe(30)
        self._base_dir = base_dir

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            name = type(self).__name__.lower()
            sandbox = stack.enter_context(
                Sandbox(prefix=f"{name}-", base_dir=self._base_dir, stop_signal=signal.SIGKILL)
            )
            self._port = free_port()
            self._start(sandbox)
            self._undo = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def _start(self, sandbox: Sandbox) -> None:
        raise NotImplementedError

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def client(self, **config: Any) -> S3Client:
        """Create a boto3 client; `config` is added to the botocore settings that this server needs."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            region_name=REGION,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(**{**self.config_kwargs, **config}),
        )

    @functools.cached_property
    def _own_client(self) -> S3Client:
        return self.client()

    def airflow_connection(self, **extra: Any) -> str:
        """Return JSON for an AIRFLOW_CONN_* variable; `extra` is added to the connection's extras."""
        defaults = {
            "endpoint_url": self.endpoint_url,
            "region_name": REGION,
            "config_kwargs": dict(self.config_kwargs),
        }
        return json.dumps(
            {
                "conn_type": "aws",
                "login": self.access_key,
                "password": self.secret_key,
                "extra": {**defaults, **extra},
            }
        )

    def create_bucket(self, name: str, **options: Any) -> str:
        """Create a bucket, with options such as ObjectLockEnabledForBucket=True; return its name."""
        self._own_client.create_bucket(Bucket=name, **options)
        return name


class Moto(S3Server):
    """moto_server: starts in a second, stores in memory, accepts any keys; a ranged GET reads the whole object."""

    def _start(self, sandbox: Sandbox) -> None:
        argv = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self._port)]
        sandbox.start("moto", argv, env=environment_without("AWS_", "MOTO_"))
        sandbox.wait_until_ready("moto", lambda: accepts_connections(self._port))

    def user(self, name: str, policy: str) -> S3Server:
        """Create a user; return the server with its keys. After `check_rights`, the IAM policy is enforced."""
        iam = boto3.client(
            "iam",
            endpoint_url=self.endpoint_url,
            region_name=REGION,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
        )
        iam.create_user(UserName=name)
        iam.put_user_policy(UserName=name, PolicyName="policy", PolicyDocument=policy)
        made = iam.create_access_key(UserName=name)["AccessKey"]
        seen = S3Server()
        seen.access_key, seen.secret_key = made["AccessKeyId"], made["SecretAccessKey"]
        seen._port = self._port
        return seen

    def give_out_archived_after(self, looks: int | None) -> None:
        """Make archived objects readable this many requests after RestoreObject; None for at once."""
        transition = {"progression": "immediate"} if looks is None else {"progression": "manual", "times": looks}
        request = urllib.request.Request(
            f"{self.endpoint_url}/moto-api/state-manager/set-transition",
            data=json.dumps({"model_name": "s3::keyrestore", "transition": transition}).encode(),
            headers={"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request).close()

    def check_rights(self) -> None:
        """From now on, enforce the users' policies, and refuse everybody else."""
        request = urllib.request.Request(
            f"{self.endpoint_url}/moto-api/reset-auth", data=b"0", headers={"Content-Type": "text/plain"}
        )
        urllib.request.urlopen(request).close()


CEPH_CONF = """\
[global]
fsid = {fsid}
mon host = {monitor}
public addr = 127.0.0.1
cluster addr = 127.0.0.1
keyring = {home}/keyring
run dir = {home}/run
admin socket = {home}/run/$name.asok
log file = {home}/$name.log
mon data = {home}/mon.$id
osd data = {home}/osd.$id
auth allow insecure global id reclaim = false
mon allow pool size one = true
mon max pg per osd = 1000
mon osd full ratio = 0.95
mon data avail crit = 1
mon data avail warn = 2
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = 8589934592
[client.rgw.a]
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw data = {home}/rgw
rgw thread pool size = 64
rgw crypt require ssl = false
rgw enable usage log = false
rgw gc obj min wait = 5
rgw gc processor period = 10
rgw gc processor max time = 10
"""
CEPH_KEYS: Mapping[str, Mapping[str, str]] = {
    "mon.": {"mon": "allow *"},
    "client.admin": {"mon": "allow *", "osd": "allow *", "mgr": "allow *"},
    "osd.0": {"mon": "allow profile osd", "osd": "allow *"},
    "client.rgw.a": {"mon": "allow rw", "osd": "allow rwx"},
}


class Ceph(S3Server):
    """One monitor, one in-memory OSD and radosgw, from Debian's packages (Ceph 16, an older S3 dialect).

    It checks credentials, obeys IfNoneMatch on PutObject but ignores it on CompleteMultipartUpload, and does not
    know flexible checksums. Objects are in memory, up to 8 GiB.
    """

    PROGRAMS = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
    config_kwargs: Mapping[str, Any] = {
        **S3Server.config_kwargs,
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
    }

    @classmethod
    def available(cls) -> str | None:
        """Return why it cannot be started here; None if it can."""
        missing = [program for program in cls.PROGRAMS if shutil.which(program) is None]
        if not missing:
            return None
        return f"not found: {', '.join(missing)} (Debian packages ceph-mon, ceph-osd, radosgw)"

    def _start(self, sandbox: Sandbox) -> None:
        reason = self.available()
        if reason is not None:
            raise LookupError(reason)
        self.home = sandbox.path
        # The tools are the system's Python programs, and must not inherit this virtualenv's settings.
        self._env = environment_without("CEPH_", "PYTHON") | {"CEPH_CONF": f"{self.home}/ceph.conf"}
        fsid = str(uuid.uuid4())
        monitor = f"[v2:127.0.0.1:{free_port()},v1:127.0.0.1:{free_port()}]"
        settings = CEPH_CONF.format(fsid=fsid, home=self.home, monitor=monitor, port=self._port)
        Path(self._env["CEPH_CONF"]).write_text(settings)
        for folder in ("run", "osd.0", "rgw"):
            (self.home / folder).mkdir()
        self._start_monitor(sandbox, fsid=fsid, address=monitor)
        self._start_storage(sandbox)
        sandbox.start("radosgw", ["radosgw", "-f", "-n", "client.rgw.a"], env=self._env)
        sandbox.wait_until_ready("radosgw", lambda: accepts_connections(self._port))
        self._create_user("lab", self)

    def _start_monitor(self, sandbox: Sandbox, *, fsid: str, address: str) -> None:
        keyring, monmap = f"{self.home}/keyring", f"{self.home}/monmap"
        self._run("ceph-authtool", "--create-keyring", keyring)
        for name, capabilities in CEPH_KEYS.items():
            granted = [word for subject, what in capabilities.items() for word in ("--cap", subject, what)]
            self._run("ceph-authtool", keyring, "--gen-key", "-n", name, *granted)
        self._run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", address, monmap)
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", keyring)
        sandbox.start("mon", ["ceph-mon", "-f", "-i", "a"], env=self._env)

    def _start_storage(self, sandbox: Sandbox) -> None:
        osd_id = str(uuid.uuid4())
        self._run("ceph", "osd", "new", osd_id)
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd_id)
        sandbox.start("osd", ["ceph-osd", "-f", "-i", "0"], env=self._env)

    def user(self, name: str) -> S3Server:
        """Create a user, in policies ``arn:aws:iam:::user/<name>``; return the server with its keys."""
        seen = S3Server()
        seen.config_kwargs = self.config_kwargs
        seen._port = self._port
        self._create_user(name, seen)
        return seen

    def _create_user(self, name: str, keys: S3Server) -> None:
        pair = f"--access-key={keys.access_key}", f"--secret-key={keys.secret_key}"
        self._run("radosgw-admin", "user", "create", f"--uid={name}", f"--display-name={name}", *pair)

    def _run(self, *argv: str) -> None:
        done = subprocess.run(argv, capture_output=True, text=True, env=self._env, cwd=self.home, timeout=300)
        if done.returncode:
            raise RuntimeError(f"{argv[0]} ended with status {done.returncode}:\n{done.stderr[-2000:]}")
