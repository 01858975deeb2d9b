"""What `make docs` makes of the documents: lists as on code hosts, and a reference of all that users call."""

import importlib.util
from pathlib import Path

import markdown
import pytest

from airflow_pg_s3.get_provider_info import get_provider_info

SPEC = importlib.util.spec_from_file_location("pages", Path(__file__).parents[2] / "website/pages.py")
pages = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(pages)


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("- a\n  - b", "<ul><li>a<ul><li>b</li></ul></li></ul>"),
        ("1. a\n\n   b\n2. c", "<ol><li><p>a</p><p>b</p></li><li><p>c</p></li></ol>"),
        ("text\n- a", "<p>text</p><ul><li>a</li></ul>"),
        ("- a\n\n      code", "<ul><li>a<pre><code>code</code></pre></li></ul>"),
        ("- a\n\ntext\n\n    - code", "<ul><li>a</li></ul><p>text</p><pre><code>- code</code></pre>"),
        ("```\n- a\n  - b\n```", "<pre><code>- a\n  - b</code></pre>"),
    ],
)
def test_lists_are_those_of_code_hosts(text, html):
    made = markdown.markdown(pages.on_page_markdown(text), extensions=["fenced_code"])
    assert made.replace("\n", "") == html.replace("\n", "")


def test_the_reference_has_every_operator_sensor_and_option():
    made = dict(pages.reference())
    info = get_provider_info()
    modules = [module for kind in ("operators", "sensors") for module in info[kind][0]["python-modules"]]
    assert [module for module in modules if f"::: {module}.PgS3" not in made["python.md"]] == []
    options = info["config"]["pg_s3"]["options"]
    assert [name for name in options if f"### {name}\n" not in made["configuration.md"]] == []
