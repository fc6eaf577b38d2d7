"""What a back end needs of a Library is public, and the one for NVIDIA GPUs uses nothing else."""

import ast
from pathlib import Path

import metal_simulator
import pytest
from metal_simulator import CompileError, Library

BACK_END = Path(metal_simulator.__file__).parent / "nvidia"
KERNELS = """constant bool fast [[function_constant(0)]];
template <typename T> kernel void f(device T* x) { x[0] = fast ? 1 : 2; }
template [[host_name("f_half")]] kernel void f<half>(device half*);
kernel void g(device float* x) { x[0] = 1; }
"""


def test_text_and_declarations(written):
    library = written(KERNELS)
    function, instantiation = library.function("f_half")
    assert function.name == "f" and instantiation.arguments == "half"
    assert library.function("g")[1] is None
    assert [constant.name for constant in library.declarations.constants] == ["fast"]
    assert tuple(library.declarations.kernels()) == library.kernels and set(library.kernels) == {"f_half", "g"}
    first = library.declarations.tokens[function.start]
    assert library.text[first.start : first.end] == first.text == "template"
    with pytest.raises(CompileError, match="no kernel 'f_hlaf' in .*; did you mean f_half"):
        library.function("f_hlaf")


def test_digest_is_of_the_contents(tmp_path):
    for folder, value in (("one", 1), ("two", 1), ("three", 3)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "value.h").write_text(f"#define VALUE {value}\n")
        (tmp_path / folder / "k.metal").write_text('#include "value.h"\n')
    one, two, three = (Library(tmp_path / folder / "k.metal").digest for folder in ("one", "two", "three"))
    assert one == two != three


@pytest.mark.parametrize("path", sorted(BACK_END.glob("*.py")), ids=lambda path: path.stem)
def test_nothing_private_is_used(path):
    own = {"self", "cls"}
    tree = ast.parse(path.read_text())
    used = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr.startswith("_")]
    named = {"_replace", "_asdict", "_fields"}  # of every named tuple
    foreign = [node for node in used if not (isinstance(node.value, ast.Name) and node.value.id in own)]
    assert [ast.unparse(node) for node in foreign if node.attr not in named and not node.attr.startswith("__")] == []
    imported = [name.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for name in node.names]
    assert [name for name in imported if name.startswith("_")] == []
