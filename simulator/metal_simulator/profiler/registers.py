"""An estimate of the registers that a kernel needs, by GPU family.

Method: classical liveness over the optimised code. Every value that an instruction computes takes its size in 32-bit
registers per lane from its definition to its last use: half, bfloat, 16-bit integers and truth values half a register,
64-bit integers and device pointers two, threadgroup pointers one; hence an 8x8 fragment two in fp32, one in 16 bits.
The estimate is the largest sum over all program points. What takes registers, and what does not:

* Buffer addresses, launch constants and what is computed from those alone take none: they are uniform registers, filled
  before the threads start. What depends on the threadgroup's position or the SIMD group's index sits in every lane.
* Values that an instruction only renames or takes apart (casts, widened halves, vector elements, constant offsets of
  addresses) are their source's registers.
* A load takes a base and an index of 32 bits: the sum of the two is no value. An index of fewer bits is widened once,
  and every sum of it and a constant, unless that cannot wrap. Base, index and constant are one too many: base and index
  are added first, or, where several bases have the index, index and constant.
* Families 7 and 8 have no bfloat operands. What is rounded to bfloat stays in the 32 bits that it was rounded in, and
  is a float beside it once it is widened, unless a lane's registers would not hold both: then it is widened at each
  use.

There are two figures. `live` has nothing moved out of loops: integer arithmetic that is used in a loop only stands
there, as a compiler that saves registers has it. `hoisted` is the code as LLVM leaves it. Nothing here is fitted; how
far Mesa's compiler for M1 is from both, on this project's kernels, is in tests/kernels/test_agx_registers.py. Apple's
compiler may do otherwise.
"""

from __future__ import annotations

from typing import Dict, FrozenSet, Iterable, List, Mapping, NamedTuple, Sequence, Set, Tuple

from ..llvm_ir import ir
from ..llvm_ir.dataflow import THREADGROUP, Dataflow
from ..llvm_ir.layout import size_of

MOST = 128  # 32-bit registers that the instructions of families 7 and 8 can name
_RENAMES = frozenset("bitcast trunc zext sext inttoptr ptrtoint addrspacecast freeze fpext fneg extractelement".split())
_GATHERS = frozenset(["insertelement", "shufflevector"])
_ARITHMETIC = frozenset("add sub mul sdiv udiv srem urem shl lshr ashr and or xor icmp select sext zext trunc".split())
_MOVES = _ARITHMETIC | _RENAMES | _GATHERS | {"getelementptr"}  # is computed again rather than kept through a loop


class Registers(NamedTuple):
    """The largest number of 32-bit registers that a lane needs at once: live with nothing moved out of loops, hoisted
    with what LLVM moves out of them."""

    live: float
    hoisted: float


def estimate(flow: Dataflow, family: int) -> Registers:
    """What a kernel needs on a GPU family (7: M1; 8: M2; 9: M3, M4; 10: M5)."""
    orders = unhoisted(flow), flow.function.blocks
    return Registers(*(_most_live(flow, blocks, family) for blocks in orders))


def by_family(flow: Dataflow) -> Dict[str, Registers]:
    """The estimates by the first family that they hold for, as text: "7" and "9"."""
    native = estimate(flow, 9)
    uses_bfloat = any("bfloat" in i.text for b in flow.function.blocks for i in b.instructions)
    return {"7": estimate(flow, 7) if uses_bfloat else native, "9": native}


def of_family(needs: Mapping[str, Sequence[float]], family: int) -> Registers:
    """The estimates of `by_family` (JSON's lists in their place will do) that hold for a family."""
    return Registers(*needs["7" if family < 9 else "9"])


def private_bytes(flow: Dataflow) -> int:
    """Bytes of arrays that stayed in memory, per thread."""
    allocated = [i for b in flow.function.blocks for i in b.instructions if i.opcode == "alloca"]
    return sum(size_of(i.element_type(), flow.types) for i in allocated)


def _most_live(flow: Dataflow, blocks: List[ir.Block], family: int) -> float:
    if family >= 9:
        return _Liveness(flow, blocks).most()
    most = _Liveness(flow, blocks, "kept").most()
    return most if most <= MOST else max(MOST, _Liveness(flow, blocks, "at each use").most())


class _Liveness:
    """blocks: the function's, or with their instructions in another order
    widening: of bfloat operands: "" where the GPU has them, else "kept" or "at each use"
    """

    def __init__(self, flow: Dataflow, blocks: List[ir.Block], widening: str = ""):
        self.flow, self.blocks, self.widening = flow, blocks, widening
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
        if self._is_widened_index(made) or (self.widening == "kept" and self._is_widening(made)):
            return frozenset([value]) if self.parts(made.operands[0]) else frozenset()
        if made.opcode == "getelementptr":
            return self._address_parts(made)
        if made.opcode in _RENAMES or (self.flow.is_offset(made) and self._is_free_offset(made)):
            return self.parts(made.operands[0])
        if made.opcode in _GATHERS:
            return self.parts(made.operands[0]) | self.parts(made.operands[1])
        if made.opcode in _ARITHMETIC and not any(map(self.parts, made.operands)):
            return frozenset()
        if made.opcode == "load" and self.flow.is_constant_address(made):
            return frozenset()
        twins = [self.flow.definitions.get(o) for o in made.operands] if made.opcode == "phi" else [None]
        if None not in twins and len({twin.text for twin in twins}) == 1 and twins[0].opcode in _ARITHMETIC:
            return frozenset().union(*map(self.parts, twins[0].operands))  # one sum, whichever way it came
        return frozenset([value])

    def _address_parts(self, made: ir.Instruction) -> FrozenSet[str]:
        base, indices = made.operands[0], [o for o in made.operands[1:] if ir.integer(o) is None]
        if not indices:
            return self.parts(base)
        index = self.flow.definitions.get(indices[0])
        if len(indices) == 1 and index is not None and self._is_widened_index(index):
            if self._constants_beside(indices[0]) and not self._is_shared(indices[0]):
                return frozenset([made.result])  # one sum, and constants beside it
            return self.parts(base) | self.parts(indices[0])
        if self.flow.address(made.result) != made.result:
            return self.parts(self.flow.address(made.result))
        return frozenset([made.result]) if any(map(self.parts, (base, *indices))) else frozenset()

    def _is_free_offset(self, made: ir.Instruction) -> bool:
        """Whether it may be added after the index is widened: when it cannot wrap."""
        users = self.flow.users[made.result]
        widened = ir.bits(made.type) < 32 and all(user.opcode in ("sext", "zext") for user in users)
        return self.flow.cannot_wrap(made) or not widened

    def _is_widened_index(self, made: ir.Instruction) -> bool:
        users = self.flow.users.get(made.result, ())
        indexes = bool(users) and all(user.opcode == "getelementptr" for user in users)
        source = self.flow.definitions.get(made.operands[0]) if made.opcode in ("sext", "zext") else None
        return indexes and source is not None and ir.bits(source.type) < 32

    def _is_widening(self, made: ir.Instruction) -> bool:
        source = self.flow.definitions.get(made.operands[0]) if made.opcode == "fpext" else None
        return source is not None and ir.element(source.type) == "bfloat"

    def _is_shared(self, index: str) -> bool:
        """Whether addresses with several bases have this index."""
        return len({user.operands[0] for user in self.flow.users[index]}) > 1

    def _constants_beside(self, index: str) -> int:
        """How many constants are added to addresses in device memory that have this index."""
        addresses = [user.result for user in self.flow.users[index] if self.flow.origin(user.result) != THREADGROUP]
        further = [user for address in addresses for user in self.flow.users.get(address, ())]
        sums = [u.operands[1:] for u in further if u.opcode == "getelementptr"]
        return len({operands for operands in sums if None not in map(ir.integer, operands)})

    def size(self, value: str) -> float:
        """In 32-bit registers."""
        made = self.flow.definitions[value]
        if made.opcode == "alloca" or made.type in ("", "void") or value not in self.flow.users:
            return 0
        if made.type == "ptr" or self.flow.origin(value) == THREADGROUP:
            return 1 if self.flow.origin(value) == THREADGROUP else 2
        if self._is_widened_index(made):
            return 1 + self._constants_beside(value) * self._is_shared(value)
        if self.widening and (self._is_widening(made) or (made.opcode == "fptrunc" and made.type == "bfloat")):
            return 1
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

    def most(self) -> float:
        """The largest number of live registers."""
        steps = {b.label: [self._step(i) for i in b.instructions] for b in self.blocks}
        live_out = self._live_out(steps)
        best = 0.0
        for block in self.blocks:
            live, weight = live_out[block.label], self.weigh(live_out[block.label])
            for defined, used in reversed(steps[block.label]):
                best = max(best, weight + self.weigh(defined & ~live))
                after = (live & ~defined) | used
                weight += self.weigh(after & ~live) - self.weigh(live & ~after)
                live = after
            best = max(best, weight)
        return best

    def _step(self, instruction: ir.Instruction) -> Tuple[int, int]:
        """Registers that an instruction defines and uses; renaming uses none by itself."""
        name = instruction.result
        defined = 1 << self.index[name] if name in self.index else 0
        renames = name and not defined and self.parts(name) != {name}
        if instruction.opcode == "phi" or renames:
            return defined, 0
        return defined, self.mask(instruction.operands)

    def _live_out(self, steps) -> Dict[str, int]:
        uses, defines, along = {}, {}, {}
        for block in self.blocks:
            used = defined = 0
            for new, old in steps[block.label]:
                used |= old & ~defined
                defined |= new
            uses[block.label], defines[block.label] = used, defined
            for source, values in _incoming(block).items():
                along[source, block.label] = self.mask(values)
        live_in = {b.label: 0 for b in self.blocks}
        live_out = dict(live_in)
        changed = True
        while changed:
            changed = False
            for block in reversed(self.blocks):
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


def unhoisted(flow: Dataflow) -> List[ir.Block]:
    """The function's blocks, with integer arithmetic and renaming that is only used deeper in loops before its first
    use there: LLVM moves all of it out that it can."""
    blocks = flow.function.blocks
    dominators = _dominators(blocks)
    depth = _loop_depths(blocks, dominators)
    home = {i.line: b.label for b in blocks for i in b.instructions}
    order = {b.label: list(b.instructions) for b in blocks}
    for block in sorted(blocks, key=lambda b: len(dominators[b.label]), reverse=True):  # uses before definitions
        for made in reversed(block.instructions):
            users = flow.users.get(made.result, ())
            if made.opcode not in _MOVES or not users:
                continue
            common = set.intersection(*(set(dominators[label]) for label in _places(made.result, users, home)))
            target = max(common, key=lambda label: len(dominators[label]))
            if depth[target] > depth[block.label]:
                order[block.label].remove(made)
                lines = {user.line for user in users if user.opcode != "phi"}
                first = next((n for n, i in enumerate(order[target]) if i.line in lines), len(order[target]) - 1)
                order[target].insert(first, made)
                home[made.line] = target
    return [block._replace(instructions=order[block.label]) for block in blocks]


def _places(value: str, users: Iterable[ir.Instruction], home: Mapping[int, str]) -> Set[str]:
    """Blocks where the value is used: for a phi, where it comes from."""
    found = set()
    for user in users:
        if user.opcode == "phi":
            found |= {label for operand, label in zip(user.operands, user.labels()) if operand == value}
        else:
            found.add(home[user.line])
    return found


def _dominators(blocks: List[ir.Block]) -> Dict[str, FrozenSet[str]]:
    """By block: the blocks that every way to it goes through, itself included."""
    labels = frozenset(b.label for b in blocks)
    into = _predecessors(blocks)
    found = {b.label: labels for b in blocks}
    found[blocks[0].label] = frozenset([blocks[0].label])
    changed = True
    while changed:
        changed = False
        for block in blocks[1:]:
            before = labels.intersection(*(found[label] for label in into[block.label])) | {block.label}
            changed, found[block.label] = changed or before != found[block.label], before
    return found


def _loop_depths(blocks: List[ir.Block], dominators: Mapping[str, FrozenSet[str]]) -> Dict[str, int]:
    """By block: how many loops it is in."""
    into, bodies = _predecessors(blocks), {}
    for block in blocks:
        for header in block.successors:
            if header in dominators[block.label]:
                body, rest = bodies.setdefault(header, {header}), [block.label]
                while rest:
                    label = rest.pop()
                    if label not in body:
                        body.add(label)
                        rest += into[label]
    return {b.label: sum(b.label in body for body in bodies.values()) for b in blocks}


def _predecessors(blocks: List[ir.Block]) -> Dict[str, List[str]]:
    found: Dict[str, List[str]] = {b.label: [] for b in blocks}
    for block in blocks:
        for successor in block.successors:
            found[successor].append(block.label)
    return found
