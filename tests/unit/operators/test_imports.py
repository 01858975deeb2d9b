"""What a DAG file pays for: its parsing imports no more of us than the arguments need."""

import subprocess
import sys

OPERATORS = ["backup", "copy", "doctor", "list_backups", "prune", "restore", "verify"]
# Airflow's part, which takes most of the time, is imported once.
PROGRAM = """
import importlib, os, sys
import airflow.sdk
for module in sys.argv[1:]:
    if os.fork() == 0:
        importlib.import_module(module)
        print(module, *sys.modules, flush=True)
        os._exit(0)
    os.wait()
"""


def test_parsing_imports_neither_the_hook_nor_amazons_provider():
    modules = [f"airflow_pg_s3.operators.{name}" for name in OPERATORS]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *modules], capture_output=True, text=True)
    imported = {words[0]: set(words) for words in map(str.split, done.stdout.splitlines())}
    assert list(imported) == modules, done.stderr
    for found in imported.values():
        assert found.isdisjoint({"airflow_pg_s3.hooks.pg_s3", "airflow.providers.amazon.aws.hooks.s3"})
