"""An estimate of the registers that a kernel needs.

Method: classical liveness over the optimised code. Every value that an instruction computes takes its size in 32-bit
registers per lane from its definition to its last use: half, bfloat, 16-bit integers and truth values half a register,
64-bit integers and device pointers two, threadgroup pointers one; hence an 8x8 fragment two in fp32, one in 16 bits.
Values that an instruction only renames or takes apart (casts, widened halves, vector elements, constant offsets of
addresses) are their source's registers. Buffer addresses, launch constants, threadgroup positions and what is computed
from those alone take none: the GPU keeps them apart, once for all lanes. The estimate is the largest sum over all
program points. LLVM orders the code, not Apple's compiler, which may recompute or reorder: take it as a guide, not as
what a pipeline reports.
"""

from __future__ import annotations

from typing import Dict, FrozenSet, List, NamedTuple, Tuple

from ..llvm_ir import ir
from ..llvm_ir.dataflow import THREADGROUP, Dataflow

_RENAMES = frozenset("bitcast trunc zext sext inttoptr ptrtoint addrspacecast freeze fpext fneg extractelement".split())
_GATHERS = frozenset(["insertelement", "shufflevector"])
_ARITHMETIC = frozenset("add sub mul sdiv udiv srem urem shl lshr ashr and or xor icmp select sext zext trunc".split())


class Registers(NamedTuple):
    """live: the largest number of 32-bit registers that a lane needs at once; block: where, in the optimised code;
    private_bytes: arrays that stayed in memory, per thread."""

    live: float
    block: str
    private_bytes: int


def estimate(flow: Dataflow) -> Registers:
    live, block = _Liveness(flow).worst()
    allocated = [i for b in flow.function.blocks for i in b.instructions if i.opcode == "alloca"]
    private = sum(ir.size_of(i.element_type(), flow.types) for i in allocated)
    return Registers(live, block, private)


class _Liveness:
    def __init__(self, flow: Dataflow):
        self.flow = flow
        self._parts: Dict[str, FrozenSet[str]] = {}
        names = [n for n in flow.definitions if self.parts(n) == {n} and self.size(n)]
        self.index = {name: i for i, name in enumerate(names)}
        self.sizes = [self.size(name) for name in names]

    def parts(self, value: str) -> FrozenSet[str]:
        """The values whose registers hold this one."""
        if value not in self._parts:
            self._parts[value] = frozenset([value])  # ends cycles
            self._parts[value] = self._find_parts(value)
        return self._parts[value]

    def _find_parts(self, value: str) -> FrozenSet[str]:
        made = self.flow.definitions.get(value)
        if made is None or self.flow.is_argument(value):
            return frozenset()
        if made.opcode in _RENAMES or self.flow.is_offset(made):
            return self.parts(made.operands[0])
        if made.opcode == "getelementptr" and all(ir.integer(o) is not None for o in made.operands[1:]):
            return self.parts(made.operands[0])
        if self.flow.address(value) != value:
            return self.parts(self.flow.address(value))
        if made.opcode in _GATHERS:
            return self.parts(made.operands[0]) | self.parts(made.operands[1])
        if made.opcode in _ARITHMETIC and not any(map(self.parts, made.operands)):
            return frozenset()
        if made.opcode == "load" and self.flow.is_constant_address(made):
            return frozenset()
        return frozenset([value])

    def size(self, value: str) -> float:
        """In 32-bit registers."""
        made = self.flow.definitions[value]
        if made.opcode == "alloca" or made.type in ("", "void") or value not in self.flow.users:
            return 0
        if made.type == "ptr" or self.flow.origin(value) == THREADGROUP:
            return 1 if self.flow.origin(value) == THREADGROUP else 2
        bits = ir.bits(made.type)
        if self.flow.narrow(value) in ("half", "bfloat"):
            bits //= 2
        users = self.flow.users.get(value, ())
        if bits == 64 and made.type == "i64" and users and all(u.opcode == "trunc" for u in users):
            bits = 32
        return max(bits, 16 * ir.count(made.type)) / 32

    def mask(self, values) -> int:
        total = 0
        for value in values:
            for part in self.parts(value):
                if part in self.index:
                    total |= 1 << self.index[part]
        return total

    def weigh(self, live: int) -> float:
        total = 0.0
        while live:
            lowest = live & -live
            total += self.sizes[lowest.bit_length() - 1]
            live ^= lowest
        return total

    def worst(self) -> Tuple[float, str]:
        """The largest number of live registers, and the block that has it."""
        blocks = self.flow.function.blocks
        steps = {b.label: [self._step(i) for i in b.instructions] for b in blocks}
        live_out = self._live_out(blocks, steps)
        best, where = 0.0, blocks[0].label
        for block in blocks:
            live, weight = live_out[block.label], self.weigh(live_out[block.label])
            for defined, used in reversed(steps[block.label]):
                peak = weight + self.weigh(defined & ~live)
                if peak > best:
                    best, where = peak, block.label
                after = (live & ~defined) | used
                weight += self.weigh(after & ~live) - self.weigh(live & ~after)
                live = after
            if weight > best:
                best, where = weight, block.label
        return best, where.lstrip("%")

    def _step(self, instruction: ir.Instruction) -> Tuple[int, int]:
        """Registers that an instruction defines and uses; renaming uses none by itself."""
        name = instruction.result
        defined = 1 << self.index[name] if name in self.index else 0
        renames = name and not defined and self.parts(name) != {name}
        if instruction.opcode == "phi" or renames:
            return defined, 0
        return defined, self.mask(instruction.operands)

    def _live_out(self, blocks: List[ir.Block], steps) -> Dict[str, int]:
        uses, defines, along = {}, {}, {}
        for block in blocks:
            used = defined = 0
            for new, old in steps[block.label]:
                used |= old & ~defined
                defined |= new
            uses[block.label], defines[block.label] = used, defined
            for source, values in _incoming(block).items():
                along[source, block.label] = self.mask(values)
        live_in = {b.label: 0 for b in blocks}
        live_out = dict(live_in)
        changed = True
        while changed:
            changed = False
            for block in reversed(blocks):
                out = 0
                for successor in block.successors:
                    out |= live_in.get(successor, 0) | along.get((block.label, successor), 0)
                live_out[block.label] = out
                into = uses[block.label] | (out & ~defines[block.label])
                if into != live_in[block.label]:
                    live_in[block.label], changed = into, True
        return live_out


def _incoming(block: ir.Block) -> Dict[str, List[str]]:
    """Values that the block's phis take, by the block that they come from."""
    found: Dict[str, List[str]] = {}
    for instruction in block.instructions:
        if instruction.opcode == "phi":
            for value, label in zip(instruction.operands, instruction.labels()):
                found.setdefault(label, []).append(value)
    return found
