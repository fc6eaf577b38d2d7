"""Where values of a function come from: which memory a pointer points into, and which floats are widened halves."""

from __future__ import annotations

from typing import Dict, Optional, Tuple

from . import ir
from .layout import offset_of, size_of

# What a pointer or address derives from. CONTEXT is the simulator's own argument block.
DEVICE, THREADGROUP, PRIVATE, CONTEXT, UNKNOWN = "device", "threadgroup", "private", "context", "unknown"
# Tables in the context of the runtime that are the same for all lanes. The first 12 bytes of the shape are the
# threadgroup's position.
OFFSETS = {"buffers": 0, "threadgroup_arguments": 8, "shape": 16}
_TABLES = {offset: name for name, offset in OFFSETS.items()}
_POSITION_BYTES = 12
_THROUGH = frozenset(["inttoptr", "ptrtoint", "bitcast", "addrspacecast", "freeze", "getelementptr", "add", "sub"])


class Dataflow:
    """definitions and users of a function's values, and what follows from them; module: where the function is from."""

    def __init__(self, function: ir.Function, module: ir.Module):
        self.function, self.types, self._lines = function, module.types, module.lines
        self.inside = frozenset(f.name for f in module.functions)
        self.definitions = function.definitions()
        self.users = function.users()
        self._origins: Dict[str, str] = {}
        self._narrow: Dict[str, Optional[str]] = {}
        self._addresses = self._find_addresses()

    def used_once(self, value: str) -> bool:
        return len(self.users.get(value, ())) == 1

    def _find_addresses(self) -> Dict[str, str]:
        """By each variable address: the first one of its block that differs from it by a constant only."""
        found: Dict[str, str] = {}
        terms: Dict[str, Tuple[str, ...]] = {}
        for block in self.function.blocks:
            first: Dict[Tuple[str, ...], str] = {}
            for instruction in block.instructions:
                if instruction.opcode != "getelementptr":
                    continue
                base, kind = instruction.operands[0], instruction.element_type()
                indices = (o for o in instruction.operands[1:] if ir.integer(o) is None)
                variable = [f"{kind} {self._without_offset(o)}" for o in indices]
                terms[instruction.result] = tuple(sorted([*terms.get(base, (base,)), *variable]))
                if variable:
                    found[instruction.result] = first.setdefault(terms[instruction.result], instruction.result)
        return found

    def _without_offset(self, index: str) -> str:
        """The value that an index is a constant away from."""
        made = self.definitions.get(index)
        while made is not None and (made.opcode in ("sext", "zext") or self.is_offset(made)):
            index = made.operands[0]
            made = self.definitions.get(index)
        return index

    def is_offset(self, instruction: ir.Instruction) -> bool:
        """Whether it adds a constant to an index of addresses, which is free: addresses have constant offsets."""
        if instruction.opcode != "add" or ir.integer(instruction.operands[1]) is None:
            return False
        users = self.users.get(instruction.result, ())
        extended = [
            user for made in users if made.opcode in ("sext", "zext") for user in self.users.get(made.result, ())
        ]
        wanted = [made for made in users if made.opcode not in ("sext", "zext")] + extended
        return bool(wanted) and all(made.opcode == "getelementptr" for made in wanted)

    def cannot_wrap(self, instruction: ir.Instruction) -> bool:
        """Whether the program says that a sum does not overflow."""
        return any(word in self._lines[instruction.line] for word in (" nsw ", " nuw "))

    def step(self, address: ir.Instruction) -> int:
        """Bytes that an index of 1 adds to an address."""
        return size_of(address.element_type(), self.types)

    def constant_offset(self, pointer: str) -> Tuple[str, int]:
        """What names the address that a pointer is a constant number of bytes from, and the number."""
        offset = 0
        while True:
            made = self.definitions.get(pointer)
            if made is None or made.opcode != "getelementptr":
                return pointer, offset
            pointer, offset = made.operands[0], offset + offset_of(made, self.types)
            indices = [o if ir.integer(o) is None else "" for o in made.operands[1:]]
            if any(indices):
                return f"{pointer} {made.element_type()} {' '.join(indices).rstrip()}", offset

    def address(self, value: str) -> str:
        """The address that the GPU computes for this variable address; the two differ by a constant offset."""
        return self._addresses.get(value, value)

    def origin(self, value: str) -> str:
        """The memory that an address points into."""
        if value not in self._origins:
            self._origins[value] = UNKNOWN  # ends cycles
            self._origins[value] = self._find_origin(value)
        return self._origins[value]

    def _find_origin(self, value: str) -> str:
        made = self.definitions.get(value)
        if made is None:
            entry = self.function.name == "metal_entry" and value in self.function.arguments
            return CONTEXT if entry else UNKNOWN
        if made.opcode == "alloca":
            return PRIVATE
        if made.callee == "metal_threadgroup_memory":
            return THREADGROUP
        if made.opcode == "load":
            return self._loaded(made)
        operands: Tuple[str, ...] = ()
        if made.opcode == "getelementptr":
            operands = made.operands[:1]
        elif made.opcode in _THROUGH or made.opcode == "phi":
            operands = made.operands
        elif made.opcode == "select":
            operands = made.operands[1:]
        return next((o for o in map(self.origin, operands) if o != UNKNOWN), UNKNOWN)

    def _loaded(self, load: ir.Instruction) -> str:
        """A pointer that was loaded: an entry of one of the context's tables, or somebody's own."""
        table = self.table(load.operands[0])
        if self.origin(load.operands[0]) == CONTEXT and table is None:
            return CONTEXT
        return {"buffers": DEVICE, "threadgroup_arguments": THREADGROUP}.get(table or "", UNKNOWN)

    def table(self, address: str) -> Optional[str]:
        """The context's table that this address lies in, None if it is none of them."""
        made = self.definitions.get(address)
        while made is not None and made.opcode in _THROUGH:
            made = self.definitions.get(made.operands[0])
        if made is None or made.opcode != "load":
            return None
        return _TABLES.get(self._context_offset(made.operands[0]))

    def _context_offset(self, address: str) -> Optional[int]:
        """Bytes from the start of the context; None for another address."""
        root, offset = self.constant_offset(address)
        return offset if root in self.function.arguments else None

    def is_argument(self, value: str) -> bool:
        """Whether the value is a buffer's address or a loaded constant of the launch: the GPU keeps those in registers
        of their own. A threadgroup's position and a SIMD group's index are no such constants."""
        made = self.definitions.get(value)
        if made is None or made.opcode != "load":
            return False
        table = self.table(made.operands[0])
        if table == "shape":
            return self._table_offset(made.operands[0]) >= _POSITION_BYTES
        return table is not None or self._context_offset(made.operands[0]) in _TABLES

    def _table_offset(self, address: str) -> int:
        """Bytes from the start of the table that this address lies in."""
        made, offset = self.definitions[address], 0
        while made.opcode in _THROUGH:
            offset += offset_of(made, self.types) if made.opcode == "getelementptr" else 0
            made = self.definitions[made.operands[0]]
        return offset

    def is_constant_address(self, load: ir.Instruction) -> bool:
        """Whether a load reads at a constant offset from the start of a buffer."""
        if self.table(load.operands[0]) == "shape":
            return False
        address = self.definitions.get(load.operands[0])
        while address is not None and address.opcode in _THROUGH:
            if any(ir.integer(o) is None for o in address.operands[1:]):
                return False
            address = self.definitions.get(address.operands[0])
        return address is not None and self.is_argument(address.result)

    def narrow(self, value: str) -> Optional[str]:
        """half or bfloat if the value is made of widened values of that type only, "zero" for zeros, else None."""
        if value not in self._narrow:
            self._narrow[value] = "zero"  # ends cycles
            self._narrow[value] = self._find_narrow(value)
        return self._narrow[value]

    def _find_narrow(self, value: str) -> Optional[str]:
        made = self.definitions.get(value)
        if made is None:
            return "zero" if value in ("0.000000e+00", "zeroinitializer", "poison", "undef") else None
        if made.opcode == "fpext":
            source = self.definitions.get(made.operands[0])
            scalar = ir.element(source.type) if source else ""
            return scalar if scalar in ("half", "bfloat") else None
        parts = {"bitcast": made.operands[:1], "insertelement": made.operands[:2], "phi": made.operands}
        parts.update(shufflevector=made.operands[:2], select=made.operands[1:], freeze=made.operands)
        if made.opcode not in parts:
            return None
        kinds = set(map(self.narrow, parts[made.opcode])) - {"zero"}
        return kinds.pop() if len(kinds) == 1 else (None if kinds else "zero")
