"""What a DAG file pays for: its parsing imports no more of us than the arguments need."""

import subprocess
import sys

import pytest

PROGRAM = """
import importlib, sys
importlib.import_module(sys.argv[1])
print(*sys.modules)
"""


@pytest.mark.parametrize("operator", ["backup", "copy", "doctor", "list_backups", "prune", "restore", "verify"])
def test_parsing_imports_neither_the_hook_nor_amazons_provider(operator):
    module = f"airflow_pg_s3.operators.{operator}"
    done = subprocess.run([sys.executable, "-c", PROGRAM, module], capture_output=True, text=True)
    imported = set(done.stdout.split())
    assert module in imported, done.stderr
    assert imported.isdisjoint({"airflow_pg_s3.hooks.pg_s3", "airflow.providers.amazon.aws.hooks.s3"})
