"""Optimised code that counts: calls of runtime/counters.c in its text, and what each of its blocks costs.

The kernel is compiled as a GPU would run it: everything inlined, and nothing vectorised, because a lane is one element
wide. Then every block counts its executions and every memory instruction logs its address.
"""

from __future__ import annotations

import re
from typing import Dict, List, NamedTuple, Tuple

from ..errors import CompileError
from ..llvm_ir import ir
from ..llvm_ir.dataflow import CONTEXT, UNKNOWN, Dataflow
from . import registers
from .instruction_classes import CLASSES, block_costs

WIDEST = 16  # bytes that one memory instruction of a lane moves at most
FLAGS = [
    "-ftrivial-auto-var-init=uninitialized",  # what the simulator sets, a GPU does not
    "-fno-vectorize",
    "-fno-slp-vectorize",
    "-mllvm",
    "-inline-threshold=100000",
    "-mllvm",
    "-indvars-widen-indvars=false",  # loop counters stay as wide as they were written
    "-mllvm",
    "-unroll-runtime=false",  # only loops of a known length are unrolled
]


class Access(NamedTuple):
    """A memory instruction: before which line it is logged, its address, bytes per lane."""

    line: int
    pointer: str  # with its type
    bytes: int
    write: bool


class _Run(NamedTuple):
    """Neighbouring accesses that may go on: at offset bytes from root."""

    write: bool
    space: str
    root: str
    offset: int


def counted(text: str) -> Tuple[str, dict]:
    """Optimised LLVM IR, edited to count, and what its counts mean: weights (cost of each block by class), sites
    ([bytes, write] of each memory instruction), registers, registers_by_family (registers.py), private_bytes,
    instructions. Raises CompileError if it cannot be counted."""
    try:
        module = ir.read(text)
    except ValueError as error:
        raise CompileError(f"cannot count the kernel's instructions: {error}") from None
    functions = _reached(module)
    flows = [Dataflow(f, module) for f in functions]
    accesses = [access for flow in flows for access in memory_accesses(flow)]
    costs = [cost for flow in flows for cost in block_costs(flow)]
    needs = max(map(registers.by_family, flows), key=lambda need: need["7"][0])
    meaning = {
        "weights": [[cost.get(name, 0) for name in CLASSES] for cost in costs],
        "sites": [[a.bytes, a.write] for a in accesses],
        "registers": needs["9"][0],
        "registers_by_family": needs,
        "private_bytes": max(map(registers.private_bytes, flows)),
        "instructions": len(accesses) + sum(sum(cost.values()) for cost in costs),
    }
    return _instrumented(module, functions, accesses), meaning


def _reached(module: ir.Module) -> List[ir.Function]:
    """The kernel's entry point and the functions that were not inlined into it."""
    by_name = {f.name: f for f in module.functions}
    names = ["metal_entry"]
    for name in names:
        callees = (i.callee for b in by_name[name].blocks for i in b.instructions if i.opcode == "call")
        names += [c for c in dict.fromkeys(callees) if c in by_name and c not in names]
    return [by_name[name] for name in names]


def _instrumented(module: ir.Module, functions: List[ir.Function], accesses: List[Access]) -> str:
    before: Dict[int, List[str]] = {}
    for number, access in enumerate(accesses):
        text = f"  call void @metal_log_access(ptr %metal.{number}, i32 {number})"
        cast = "inttoptr i64" if access.pointer.startswith("i64") else "getelementptr i8, ptr"
        value, tail = access.pointer.split(" ", 1)[1], " to ptr" if cast.startswith("int") else ", i64 0"
        before.setdefault(access.line, []).append(f"  %metal.{number} = {cast} {value}{tail}\n{text}")
    number = 0
    for function in functions:
        for block in function.blocks:
            start = next(i.line for i in block.instructions if i.opcode != "phi")
            lines = [] if block is not function.blocks[0] else ["  %metal.blocks = call ptr @metal_block_counters()"]
            before[start] = lines + [_count(number)] + before.get(start, [])
            number += 1
    text = []
    for index, line in enumerate(module.lines):
        text += before.get(index, ())
        # Counting makes functions write to memory that did not before.
        text.append(re.sub(r" memory\([^)]*\)", "", line) if line.startswith("attributes #") else line)
    text += ["declare ptr @metal_block_counters()", "declare void @metal_log_access(ptr, i32)", ""]
    return "\n".join(text)


def _count(number: int) -> str:
    place, old, new = (f"%metal.{what}.{number}" for what in ("place", "old", "new"))
    return (
        f"  {place} = getelementptr i32, ptr %metal.blocks, i64 {number}\n  {old} = load i32, ptr {place}\n"
        f"  {new} = add i32 {old}, 1\n  store i32 {new}, ptr {place}"
    )


def memory_accesses(flow: Dataflow) -> List[Access]:
    """Memory instructions as a GPU would issue them: neighbouring elements that are read or written together are one
    access of up to 16 bytes."""
    found: List[Access] = []
    for block in flow.function.blocks:
        open_accesses: Dict[_Run, int] = {}  # index in found
        for instruction in block.instructions:
            if instruction.opcode in ("load", "store"):
                _add(flow, instruction, open_accesses, found)
            elif instruction.opcode == "call":
                if not instruction.callee.startswith("llvm."):
                    open_accesses.clear()
                found += _of_call(instruction)
    return found


def _add(flow: Dataflow, instruction: ir.Instruction, open_accesses, found: List[Access]) -> None:
    write = instruction.opcode == "store"
    pointer = instruction.operands[1 if write else 0]
    if flow.origin(pointer) == CONTEXT:
        return
    size = (ir.bits(instruction.type) + 7) // 8
    root, offset = flow.constant_offset(pointer)
    space = flow.origin(pointer)
    index = open_accesses.pop(_Run(write, space, root, offset), None)
    # A write and a read of the same memory keep their order; memories do not overlap.
    for other in [r for r in open_accesses if r.write != write and (r.space == space or UNKNOWN in (r.space, space))]:
        del open_accesses[other]
    if index is not None and found[index].bytes + size <= WIDEST:
        found[index] = found[index]._replace(bytes=found[index].bytes + size)
    else:
        index = len(found)
        found.append(Access(instruction.line, f"ptr {pointer}", size, write))
    open_accesses[_Run(write, space, root, offset + size)] = index


def _of_call(call: ir.Instruction) -> List[Access]:
    """Accesses of a function of the runtime or of a block copy."""
    if call.callee.startswith("metal_atomic"):
        size = {"ulong": 8, "bool": 1}.get(call.callee.rsplit("_", 1)[-1], 4)
        return [Access(call.line, f"i64 {call.operands[0]}", size, write) for write in (False, True)]
    if call.callee.startswith(("llvm.memcpy", "llvm.memmove", "llvm.memset")):
        size = ir.integer(call.operands[2])
        places = [(call.operands[0], True)] + [(call.operands[1], False)] * ("memset" not in call.callee)
        return [Access(call.line, f"ptr {place.split()[-1]}", size, write) for place, write in places if size]
    return []
