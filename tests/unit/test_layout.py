"""Habits of the project that a reader relies on: small files, one-way imports, runnable configs."""

from __future__ import annotations

import ast
import shlex
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("insideout", "pipelines", "tune")
SOURCES = sorted(
    path for folder in (*PACKAGES, "benchmarks", "tests") for path in (ROOT / folder).rglob("*.py") if path.is_file()
)
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def imported(path: Path) -> set[str]:
    """The top-level packages that a module imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_has_at_most_500_lines(path):
    assert len(path.read_text().splitlines()) <= 500


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if not p.is_relative_to(ROOT / "tests")], ids=lambda p: str(p.relative_to(ROOT))
)
def test_a_module_says_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text())), "a module begins with a docstring"


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [("insideout", {"ray", "pipelines", "tune"}), ("pipelines", {"tune"})],
)
def test_imports_go_one_way(package, forbidden):
    paths = [p for p in SOURCES if p.is_relative_to(ROOT / package)]
    assert paths
    wrong = {str(p.relative_to(ROOT)): sorted(imported(p) & forbidden) for p in paths if imported(p) & forbidden}
    assert not wrong


def test_python_3_11_can_read_every_module():
    for path in SOURCES:
        tree = ast.parse(path.read_text(), feature_version=(3, 11))
        new = {
            f"{node.module}.{alias.name}"
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        } & {"typing.override", "itertools.batched", "typing.TypeAliasType", "warnings.deprecated"}
        assert not new, f"{path}: {new} are newer than Python 3.11"


@pytest.mark.parametrize("path", [*CONFIGS, ROOT / "cluster.yaml"], ids=lambda p: p.name)
def test_a_config_begins_with_the_command_that_runs_it(path):
    first, _, rest = path.read_text().partition("\n")
    assert first.startswith("# ")
    command = shlex.split(first.removeprefix("# "))
    assert command[0] in {"insideout", "ray", "make", "python", "kubectl"}
    assert str(path.relative_to(ROOT)) in command, "the command names the file itself"
    assert isinstance(yaml.safe_load(rest), dict)


def test_the_constraints_pin_every_dependency_once():
    from packaging.requirements import Requirement

    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    names = [pin.name.lower() for pin in pins]
    assert len(set(names)) == len(names)
    assert all([s.operator for s in pin.specifier] == ["=="] and not pin.url for pin in pins)
    from importlib.metadata import requires

    declared = [Requirement(line) for line in requires("insideout") or []]
    ours = {r.name.lower() for r in declared if not r.marker or "faces" not in str(r.marker)}
    assert ours <= set(names), "constraints.txt lacks a dependency of pyproject.toml"
    for requirement in declared:
        for pin in pins:
            if pin.name.lower() == requirement.name.lower():
                version = next(iter(pin.specifier)).version
                assert version in requirement.specifier, f"{pin} is outside of {requirement}"
