"""The function that the runtime calls for each thread of a kernel."""

from __future__ import annotations

from typing import Optional, Tuple

from ..source.declarations import Function, Instantiation, Parameter
from .positions import POSITIONS


def _argument(parameter: Parameter) -> str:
    if parameter.kind in ("buffer", "threadgroup"):
        table = "buffers" if parameter.kind == "buffer" else "threadgroup_arguments"
        holder = "reference" if parameter.shape == "reference" else "pointer"
        return f"::metal::__{holder}_argument{{metal::__argument(c->{table}, {parameter.index})}}"
    return POSITIONS[parameter.kind]


def entry_point(kernel: Tuple[Function, Optional[Instantiation]]) -> str:
    function, instantiation = kernel
    name = f"::{function.qualified}" + (f"<{instantiation.arguments}>" if instantiation else "")
    arguments = ", ".join(_argument(p) for p in function.parameters)
    head = 'extern "C" void metal_entry(__private const ::metal::__context* c)'
    entry = f"{head} {{ {name}({arguments}); }}"
    return (
        f'\n# 1 "<entry point>"\n{head}; {in_scope(instantiation, entry)}\n'
        'extern "C" ulong metal_static_bytes(void) {\n'
        "  return (ulong)metal::__stop_metal_threadgroup - (ulong)metal::__start_metal_threadgroup;\n}\n"
    )


def in_scope(instantiation: Optional[Instantiation], text: str) -> str:
    """`text` in the namespaces where an instantiation stands, for its arguments are looked up from there."""
    names = instantiation.scope.split("::") if instantiation and instantiation.scope else []
    return "".join(f"namespace {name} {{ " for name in names) + text + " }" * len(names)
