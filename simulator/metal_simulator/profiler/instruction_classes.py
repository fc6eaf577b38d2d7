"""What each instruction of the optimised code costs a GPU: classes of instructions, and how many of each it is.

A class is counted once per SIMD group and execution. Vectors count once per element. Free are: conversions between half
and float, negation and absolute value (operand modifiers), constant offsets of addresses, moves, and 64-bit packing
around collectives (it is the simulator's own).

Where bfloat is emulated, an element is widened by one instruction and rounded by four. By least squares over 30 of this
project's kernels in bfloat and half, Mesa's compiler for M1 takes 1.0 and 4.2 (test_agx_registers.py).
"""

from __future__ import annotations

import functools
import re
from typing import Callable, Dict, List, Set, Tuple

from ..llvm_ir import ir
from ..llvm_ir.dataflow import CONTEXT, DEVICE, THREADGROUP, Dataflow
from ..toolchain.paths import INCLUDE

CLASSES = (
    "mma_half",  # 8x8x8 matrix products by the type of their inputs
    "mma_bfloat",
    "mma_mixed",  # one input float, the other 16 bits wide
    "mma_float",
    "matrix_unit",  # products of 16 x 32 x 16 by matmul2d, which the matrix unit of family 10 does beside the ALUs
    "simple",  # floating-point add, multiply, fma, compare, select, minimum; integer add, logic, compare, select
    "shift",
    "convert",  # integer <-> floating point
    "bfloat_convert",  # bfloat <-> float where bfloat is emulated
    "integer_multiply",
    "wide_add",  # 64-bit integer addition, address arithmetic in device memory included
    "exponential",  # exp2, log2
    "divide",
    "rsqrt",
    "shuffle",  # shuffle, broadcast, ballot
    "reduction",  # simd_sum and its like, prefix sums
    "barrier",
    "simdgroup_barrier",
    "atomic",
    "unknown",  # a function that the simulator has no price for
)
Cost = Tuple[Tuple[str, int], ...]

_SIMPLE = frozenset("fadd fsub fmul fcmp add sub and or xor icmp select".split())
_SHIFTS = frozenset(["shl", "lshr", "ashr"])
_LOW_WORD = str(2**32 - 1)
_FREE = frozenset(
    "phi br ret unreachable bitcast inttoptr ptrtoint addrspacecast freeze insertelement extractelement "
    "shufflevector trunc zext alloca load store fneg extractvalue insertvalue switch fence".split()
)
# Functions by what they are made of on the GPU; sums of the parts for those that are no instruction [inferred].
_FUNCTIONS: Dict[str, Cost] = {
    "exp2": (("exponential", 1),),
    "log2": (("exponential", 1),),
    "exp": (("simple", 1), ("exponential", 1)),
    "log": (("simple", 1), ("exponential", 1)),
    "exp10": (("simple", 1), ("exponential", 1)),
    "log10": (("simple", 1), ("exponential", 1)),
    "pow": (("simple", 1), ("exponential", 2)),
    "sqrt": (("simple", 1), ("rsqrt", 1)),
    "sin": (("simple", 4), ("exponential", 2)),
    "cos": (("simple", 4), ("exponential", 2)),
    "tanh": (("simple", 3), ("exponential", 1), ("divide", 1)),
    "fmod": (("simple", 3), ("divide", 1)),
    "fabs": (),
    "fma": (("simple", 1),),
    "fmuladd": (("simple", 1),),
    "copysign": (("simple", 1),),
    "abs": (("simple", 1),),
    "is.fpclass": (("simple", 2),),
    **dict.fromkeys("floor ceil trunc rint round roundeven nearbyint".split(), (("convert", 1),)),
    **dict.fromkeys("minnum maxnum smin smax umin umax minimum maximum fmin fmax".split(), (("simple", 1),)),
    **dict.fromkeys("fshl fshr ctpop ctlz cttz bswap bitreverse ldexp".split(), (("shift", 1),)),
    **dict.fromkeys("sadd.sat uadd.sat ssub.sat usub.sat".split(), (("simple", 2),)),
    **dict.fromkeys("assume lifetime.start lifetime.end memcpy memmove memset experimental".split(), ()),
}


@functools.lru_cache(maxsize=None)
def collectives() -> Tuple[str, ...]:
    """Names of the collective operations by number, from the header that lists them."""
    listed = re.findall(r"\bF\((QUAD##)?([A-Z]\w+), ", (INCLUDE / "metal_simulator" / "interface.h").read_text())
    lanes = [name for quad, name in listed if quad]
    return (*(name for quad, name in listed if not quad), *lanes, *(f"QUAD_{name}" for name in lanes))


@functools.lru_cache(maxsize=None)
def _unit_constants() -> Dict[str, int]:
    """What the header calls the flags of a product by the matrix unit."""
    text = (INCLUDE / "metal_simulator" / "interface.h").read_text()
    return {name: int(number) for name, number in re.findall(r"#define __METAL_UNIT_(\w+) (\d+)u?\b", text)}


class Classifier:
    """Costs of one function's instructions."""

    def __init__(self, flow: Dataflow):
        self.flow = flow
        self._absorbed = self._find_absorbed()

    def _find_absorbed(self) -> Set[str]:
        """Results that cost nothing because the instruction that uses them does their work: a product in a sum, a
        comparison in a selection, a square root under a division, a mask on a shift's amount or on the upper word."""
        found: Set[str] = set()
        for block in self.flow.function.blocks:
            here = {i.result: i for i in block.instructions if i.result}
            for instruction in block.instructions:
                wanted = {"fadd": "fmul", "fsub": "fmul", "select": "cmp"}.get(instruction.opcode)
                for operand in instruction.operands[: 1 if wanted == "cmp" else 2]:
                    made = here.get(operand)
                    if wanted and made and made.opcode.endswith(wanted) and self.flow.used_once(operand):
                        found.add(operand)
                        break
                if self._is_rsqrt(instruction) or self._masks_shift(instruction):
                    found.add(instruction.operands[1])
                if instruction.opcode == "and" and instruction.operands[1] == _LOW_WORD:
                    found.add(instruction.result)
        return found

    def _masks_shift(self, instruction: ir.Instruction) -> bool:
        """A shift whose amount is taken modulo the width, as shifts of a GPU do by themselves."""
        amount = self.flow.definitions.get(instruction.operands[1]) if instruction.opcode in _SHIFTS else None
        masked = amount is not None and amount.opcode == "and" and self.flow.used_once(amount.result)
        return masked and amount.operands[1] == str(ir.bits(instruction.type) // ir.count(instruction.type) - 1)

    def _is_rsqrt(self, instruction: ir.Instruction) -> bool:
        if instruction.opcode != "fdiv" or not instruction.operands[0].startswith("1.0"):
            return False
        root = self.flow.definitions.get(instruction.operands[1])
        return root is not None and ".sqrt." in root.callee and self.flow.used_once(root.result)

    def cost(self, instruction: ir.Instruction) -> Cost:
        if instruction.result in self._absorbed or instruction.opcode in _FREE:
            return ()
        lanes = ir.count(instruction.type)
        special: Callable = getattr(self, "_" + instruction.opcode, None)
        if special:
            return special(instruction, lanes)
        if instruction.opcode in _SIMPLE:
            return (("simple", lanes * (2 if self._width(instruction) == 64 else 1)),)
        if instruction.opcode in _SHIFTS:
            packing = self._width(instruction) == 64 and instruction.operands[1] == "32"
            return () if packing else (("shift", lanes * (2 if self._width(instruction) == 64 else 1)),)
        if instruction.opcode in ("sitofp", "uitofp", "fptosi", "fptoui"):
            return (("convert", lanes),)
        return (("unknown", 1),)

    def _width(self, instruction: ir.Instruction) -> int:
        """Bits of an element: of what is compared, else of the result. Threadgroup addresses have 32 on a GPU."""
        if self.flow.origin(instruction.result or "") in (THREADGROUP, CONTEXT):
            return 32
        kind = instruction.type
        if instruction.opcode in ("icmp", "fcmp"):
            kind = re.match(r"\w+ \w+ (<[^>]*>|\w+)", instruction.text).group(1)
            return 32 if kind == "ptr" else ir.bits(kind) // ir.count(kind)
        return ir.bits(kind) // ir.count(kind)

    def _add(self, instruction: ir.Instruction, lanes: int) -> Cost:
        if instruction.opcode == "add" and self.flow.is_offset(instruction):
            return ()
        if self.flow.origin(instruction.result) in (THREADGROUP, CONTEXT):
            return () if any(o.startswith("sub (") for o in instruction.operands) else (("simple", lanes),)
        return (("wide_add" if self._width(instruction) == 64 else "simple", lanes),)

    _sub = _add

    def _getelementptr(self, instruction: ir.Instruction, lanes: int) -> Cost:
        indices = [o for o in instruction.operands[1:] if ir.integer(o) is None]
        origin = self.flow.origin(instruction.result)
        if not indices or origin == CONTEXT or self.flow.address(instruction.result) != instruction.result:
            return ()
        name = "wide_add" if origin == DEVICE or origin == "unknown" else "simple"
        size = self.flow.step(instruction)
        scaled = () if size & (size - 1) == 0 else (("integer_multiply", len(indices)),)
        return ((name, len(indices)), *scaled)

    def _mul(self, instruction: ir.Instruction, lanes: int) -> Cost:
        wide = self._width(instruction) == 64 and not all(map(self._is_extended, instruction.operands))
        return (("integer_multiply", lanes * (3 if wide else 1)),)

    def _is_extended(self, value: str) -> bool:
        made = self.flow.definitions.get(value)
        number = ir.integer(value)
        return (made is not None and made.opcode in ("sext", "zext")) or (number is not None and abs(number) < 2**31)

    def _sext(self, instruction: ir.Instruction, lanes: int) -> Cost:
        """Free where it extends an index or a factor, or a truth value."""
        users = self.flow.users.get(instruction.result, ())
        index = all(u.opcode in ("getelementptr", "mul") for u in users)
        return () if index else (("simple", lanes),)

    def _fptrunc(self, instruction: ir.Instruction, lanes: int) -> Cost:
        return (("bfloat_convert", 4 * lanes),) if ir.element(instruction.type) == "bfloat" else ()

    def _fpext(self, instruction: ir.Instruction, lanes: int) -> Cost:
        return (("bfloat_convert", lanes),) if self.flow.narrow(instruction.result) == "bfloat" else ()

    def _fdiv(self, instruction: ir.Instruction, lanes: int) -> Cost:
        return (("rsqrt" if self._is_rsqrt(instruction) else "divide", lanes),)

    def _frem(self, instruction: ir.Instruction, lanes: int) -> Cost:
        return (("simple", 3 * lanes), ("divide", lanes))

    def _division(self, instruction: ir.Instruction, lanes: int) -> Cost:
        """Integer division: shifts for powers of two, a high product for constants, else by reciprocal [inferred]."""
        divisor, remainder = ir.integer(instruction.operands[1]), instruction.opcode.endswith("rem")
        words = lanes * (4 if self._width(instruction) == 64 else 1)
        if divisor and divisor & (divisor - 1) == 0:
            return (("simple", (3 if remainder else 2) * words), ("shift", (1 if remainder else 2) * words))
        if divisor:
            multiply = ("integer_multiply", (2 if remainder else 1) * words)
            return (("simple", (3 if remainder else 2) * words), ("shift", words), multiply)
        return (("simple", 6 * words), ("convert", 2 * words), ("integer_multiply", 3 * words), ("divide", words))

    _sdiv = _udiv = _srem = _urem = _division

    def _call(self, instruction: ir.Instruction, lanes: int) -> Cost:
        name = instruction.callee
        if name == "metal_multiply_accumulate":
            return ((self._product(instruction), 1),)
        if name == "metal_matrix_unit":
            return self._unit_product(*map(ir.integer, instruction.operands[:2]))
        if name == "metal_reduce_rows":
            return (("reduction", (ir.integer(instruction.operands[0]) & 255) // 8),)
        if name == "metal_collective":
            return self._collective(instruction)
        if name == "metal_threadgroup_barrier":
            return (("barrier", 1),)
        if name.startswith("metal_atomic"):
            return (("atomic", 1),)
        if name.startswith("metal_") or name in self.flow.inside or " asm " in instruction.text:
            return ()  # the only assembly is none, see __bits_of in construct.h
        return self._function(name, lanes)

    def _function(self, name: str, lanes: int) -> Cost:
        match = re.match(r"llvm\.([a-z]\w*(?:\.(?:sat|start|end|fpclass))?)|(\w+?)f?$", name)
        plain = (match.group(1) or match.group(2)) if match else name
        parts = _FUNCTIONS.get(plain)
        return (("unknown", lanes),) if parts is None else tuple((part, n * lanes) for part, n in parts)

    def _product(self, instruction: ir.Instruction) -> str:
        """Class of a matrix product, by the type that its inputs had before the simulator widened them."""
        kinds = [k for k in map(self.flow.narrow, instruction.operands[:2]) if k != "zero"]
        if None not in kinds:
            return "mma_bfloat" if "bfloat" in kinds else "mma_half"
        return "mma_mixed" if any(kinds) else "mma_float"

    def _unit_product(self, shape: int, flags: int) -> Cost:
        """fp32 that must not be cut is multiplied on the ALUs."""
        known = _unit_constants()
        types = [flags >> known[f"{side}_TYPE"] & 3 for side in ("LEFT", "RIGHT")]
        products = (shape & 255) * (shape >> 8 & 255) * (shape >> 16 & 255) // (16 * 32 * 16)
        if known["FLOAT"] in types and not flags & known["RELAXED"]:
            return (("mma_float", 16 * products),)
        return (("matrix_unit", products),)

    def _collective(self, instruction: ir.Instruction) -> Cost:
        number = ir.integer(instruction.operands[0])
        name = collectives()[number & 0xFF] if number is not None else ""
        if name == "SIMD_BARRIER":
            return (("simdgroup_barrier", 1),)
        if name == "MATRIX_STORE":  # a rendezvous of the simulator's: the stores themselves are counted
            return ()
        if name.startswith("QUAD") and any(word in name for word in ("SUM", "PRODUCT", "IMUM", "AND", "OR")):
            return (("simple", 2), ("shuffle", 2))
        if "PREFIX" in name or name in ("SUM", "PRODUCT", "MINIMUM", "MAXIMUM", "AND", "OR", "XOR"):
            return (("reduction", 1),)
        value = self.flow.definitions.get(instruction.operands[1])
        wide = "BALLOT" not in name and value is not None and value.opcode not in ("zext", "sext")
        return (("shuffle", 2 if wide else 1),)


def block_costs(flow: Dataflow) -> List[Dict[str, int]]:
    """Cost of each block of a function, one execution by one SIMD group."""
    classifier = Classifier(flow)
    costs = []
    for block in flow.function.blocks:
        total: Dict[str, int] = {}
        for instruction in block.instructions:
            for name, number in classifier.cost(instruction):
                total[name] = total.get(name, 0) + number
        costs.append(total)
    return costs
