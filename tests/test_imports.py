"""The rooms of the package: imports go only downward, and what is imported when."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "consistent_calc"

#: From the lowest to the highest; a module imports from its own room and from lower ones only.
ROOMS = (
    "errors",
    "settings",
    "units",
    "files",
    "elements",
    "lattice",
    "jit",
    "simd",
    "molgraph",
    "validity",
    "structures",
    "neighbors",
    "forces",
    "diffusion",
    "nn",
    "model",
    "checkpoint",
    "ensemble",
    "hessian",
    "calculator",
    "model_hessian",
    "relaxation",
    "losses",
    "checks",
    "agreement",
    "rdkit_readers",
    "conformers",
    "data",
    "labelling",
    "train",
    "finetuning",
    "console",
    "structure_files",
    "training_commands",
    "conformer_commands",
    "cli",
)
CHEMISTRY = {"ase", "rdkit", "pymatgen"}


def module_name(path):
    parts = ("consistent_calc", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def room(name):
    return name.split(".")[1]


def imports(path, *, at_runtime):
    """Names of imported modules: all of them, or those that are imported when the module is."""
    nodes = [ast.parse(path.read_text())]
    while nodes:
        node = nodes.pop()
        if at_runtime and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if at_runtime and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            nodes += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            # `from package import module` imports the module.
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else str(node.module)
        else:
            nodes += ast.iter_child_nodes(node)


def reachable(name):
    """Every outside package that is imported along with a module of ours."""
    seen, waiting, outside = set(), [name], set()
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        if current in MODULES:
            # Importing a.b.c imports a and a.b first.
            parent = current.rpartition(".")[0]
            waiting += [*imports(MODULES[current], at_runtime=True), *([parent] if parent else [])]
        else:
            outside.add(current.split(".")[0])
    return outside


@pytest.mark.parametrize("name", [name for name in MODULES if name != "consistent_calc"])
def test_imports_go_downward(name):
    assert room(name) in ROOMS, f"{name} belongs to no room; give it a place in the order"
    for imported in imports(MODULES[name], at_runtime=False):
        if imported.startswith("consistent_calc."):
            assert ROOMS.index(room(imported)) <= ROOMS.index(room(name)), f"{name} imports {imported}"


@pytest.mark.parametrize(
    "name",
    [
        *(m for m in MODULES if m.startswith(("consistent_calc.train", "consistent_calc.losses"))),
        "consistent_calc.data.store",
        "consistent_calc.data.dataset",
        "consistent_calc.data.batching",
        "consistent_calc.structures",
        "consistent_calc.model",
        "consistent_calc.checkpoint",
        "consistent_calc.relaxation",
    ],
)
def test_training_and_the_model_need_no_chemistry_package(name):
    assert name in MODULES
    assert not reachable(name) & CHEMISTRY


def test_the_search_finds_what_is_imported():
    assert reachable("consistent_calc.calculator") >= {"ase", "torch", "e3nn", "safetensors"}


def test_importing_the_package_is_light():
    code = (
        "import sys, consistent_calc; dir(consistent_calc); "
        "print([m for m in ('torch', 'ase', 'rdkit', 'pymatgen', 'numpy', 'e3nn') if m in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True, timeout=60
    )
    assert run.stdout.strip() == "[]"


def test_public_names_resolve():
    import consistent_calc

    for name in consistent_calc.__all__:
        assert getattr(consistent_calc, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        _ = consistent_calc.nothing
