"""The pages of the site that are not in docs/: those at the top of the repository, and a reference."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from airflow_pg_s3.core.repository.manifest import Manifest
from airflow_pg_s3.core.repository.verification_record import Evidence
from airflow_pg_s3.get_provider_info import get_provider_info

ROOT = Path(__file__).parents[1]
AT_THE_TOP = ("README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE")
LIST_ITEM = re.compile(r" {0,3}([-*]|\d+\.) +")
FENCE = re.compile(r" *```")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Give every file the path that it has in the repository, and add those that are not in docs/."""
    found = [
        File.generated(config, f"docs/{file.src_uri}", abs_src_path=file.abs_src_path)
        if file.src_dir == config.docs_dir
        else file
        for file in files
    ]
    found += [File.generated(config, name, abs_src_path=str(ROOT / name)) for name in AT_THE_TOP]
    found += [File.generated(config, f"docs/reference/{name}", content=text) for name, text in reference()]
    return Files(found)


def on_page_markdown(markdown: str, **_: object) -> str:
    """Indent lists as Python-Markdown wants them: by four spaces, where code hosts take two or three."""
    lines, columns, in_fence, is_paragraph = [""], [], False, False
    for line in markdown.splitlines():
        indent = len(line) - len(line.lstrip())
        while line and not in_fence and columns and indent < columns[-1]:
            columns.pop()
        rest = line[columns[-1] :] if columns else line
        item = None if in_fence else LIST_ITEM.match(rest)
        if item and is_paragraph:
            lines.append("")
        is_paragraph = bool(rest) and not item and (is_paragraph or not lines[-1])
        lines.append("    " * len(columns) + rest if rest else "")
        if item:
            columns.append((columns[-1] if columns else 0) + len(item[0]))
        in_fence ^= bool(FENCE.match(rest))
    return "\n".join(lines)


def reference() -> Iterator[tuple[str, str]]:
    """Return the pages that are made from the code, each with its name."""
    info = get_provider_info()
    kinds = [entry for kind in ("operators", "sensors", "hooks") for entry in info.get(kind, [])]
    modules = [module for kind in kinds for module in kind["python-modules"]]
    classes = [f"::: {module}.{name}" for module in modules for name in public_classes(module)]
    yield "python.md", "\n\n".join(["# Operators, sensors, hooks", *classes])
    yield "configuration.md", "\n".join(configuration(info["config"]))
    page = ["# JSON Schema", "", "Of what lies on S3; [format.md](../format.md) says what each field means."]
    for model in (Manifest, Evidence):
        name, schema = f"{model.__name__.lower()}.schema.json", json.dumps(model.model_json_schema(), indent=2)
        yield name, schema
        page += ["", f"## {model.__name__}", "", f"[{name}]({name})", "", "```json", schema, "```"]
    yield "schema.md", "\n".join(page)


def public_classes(module: str) -> list[str]:
    """Return the names of the classes that a module of ours defines for users, without importing Airflow."""
    tree = ast.parse((ROOT / "provider" / f"{module.replace('.', '/')}.py").read_text())
    return [node.name for node in tree.body if isinstance(node, ast.ClassDef) and node.name.startswith("PgS3")]


def configuration(sections: dict) -> Iterator[str]:
    """Return the lines of the page about the options of airflow.cfg."""
    yield "# Configuration"
    for section, content in sections.items():
        yield from ("", f"## [{section}]", "", content["description"])
        for name, option in content["options"].items():
            variable = f"AIRFLOW__{section}__{name}".upper()
            yield from ("", f"### {name}", "", option["description"], "")
            yield f"Type `{option['type']}`, default `{option['default']!r}`. In the environment: `{variable}`."
            if option.get("example"):
                yield from ("", "```ini", f"[{section}]", f"{name} = {option['example']}", "```")
