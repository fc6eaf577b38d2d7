"""torch's scaled_dot_product_attention, replaced where all of its callers end up: in torch's dispatcher.

A kernel for a device there sees the calls of every thread, of whoever imported the function before, of compiled graphs
and of torch's own modules, behind autocast and before autograd. torch's own is called by its name in the dispatcher, so
that nothing comes back here.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from typing import Dict, Iterable, Optional, Sequence, Set, Tuple

import torch

from .._ops import add_op_namespace_prefix
from . import sdpa
from .door import Undo, check_devices

OURS = "metal_flash_sdpa"
_MAX_EXPLAINED = 1000  # lines
_lock = threading.RLock()
_libraries: Dict[str, torch.library.Library] = {}  # by device
_active: Tuple["Replacement", ...] = ()
_tag = ""


class Replacement(Undo):
    """What `replace_sdpa` returns.

    calls: how many calls of torch's function this kernel computed ("metal_flash_sdpa"), and how many torch's own did,
        by reason ("torch: the dtype is torch.float64"). Of compiled code, calls that were traced.
    """

    def __init__(self, devices: Tuple[str, ...], explain: bool) -> None:
        super().__init__(lambda: _leave(self))
        self.devices, self.explain = devices, explain
        self.calls: Counter = Counter()
        self._explained: Set[str] = set()

    def tell(self, given: sdpa.Arguments, reason: Optional[str]) -> None:
        decision = OURS if reason is None else f"torch: {reason}"
        with self._lock:
            self.calls[decision] += 1
            if not self.explain or len(self._explained) >= _MAX_EXPLAINED:
                return
            shapes = ", ".join(str(list(tensor.shape)) for tensor in given[:3])
            line = f"scaled_dot_product_attention of {shapes}, {given.query.dtype}, {given.query.device}: {decision}"
            if line in self._explained:
                return
            self._explained.add(line)
        print(line, file=sys.stderr)


def replace_sdpa(devices: Iterable[str] = ("mps",), explain: bool = False) -> Replacement:
    """From now on, torch's scaled_dot_product_attention runs on this kernel where it can.

    It does so for every caller in the process: other threads, code that imported the function before, torch's modules,
    and compiled functions, which are compiled anew. What this kernel cannot do, torch's own does as before; what torch
    refuses raises torch's error.

    Args:
        devices: of the tensors that are taken, "mps" or "cpu" or both.
        explain: whether to say on stderr, once for each kind of call, who computes it, and why if torch's own does.

    Returns:
        What undoes it: by `undo()`, or at the end of a `with` block. Its `calls` counts who computed how many. Several
        may be in effect, and end in any order; torch's function is its own again when the last one ends.

    Raises:
        TypeError, ValueError: an argument of a wrong type; of a wrong value.
    """
    chosen = check_devices(devices)
    if not isinstance(explain, bool):
        raise TypeError(f"explain must be a bool, got {type(explain).__name__}")
    replacement = Replacement(chosen, explain)
    with _lock:
        _activate((*_active, replacement))
    return replacement


def _leave(replacement: Replacement) -> None:
    with _lock:
        _activate(tuple(other for other in _active if other is not replacement))


def _activate(replacements: Tuple[Replacement, ...]) -> None:
    global _active
    devices = {device for replacement in replacements for device in replacement.devices}
    _active = replacements
    changes = devices ^ set(_libraries)
    for device in changes:
        if device in devices:
            library = torch.library.Library("aten", "IMPL")
            for key in (device.upper(), f"Autograd{device.upper()}"):  # the first alone in inference mode
                library.impl("scaled_dot_product_attention", _kernel, key)
            _libraries[device] = library
        else:
            _libraries.pop(device)._destroy()
    if changes:
        sdpa.OPERATOR._dispatch_cache.clear()
        _forget_compiled(sorted(_libraries))


def _forget_compiled(devices: Sequence[str]) -> None:
    """What was compiled calls whatever was there when it was traced; so does what torch keeps on disk by the text of a
    function and this tag alone. torch.compiler.config sets it for one thread; the default is every thread's."""
    global _tag
    entry = torch.compiler.config._config["cache_key_tag"]  # type: ignore[attr-defined]
    field = "env_value_default" if isinstance(entry.env_value_default, str) else "default"
    tag = f"[{add_op_namespace_prefix('scaled_dot_product_attention')} {' '.join(devices)}]" if devices else ""
    setattr(entry, field, getattr(entry, field).replace(_tag, "") + tag)
    _tag = tag
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is not None:
        dynamo.reset()


def _kernel(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, *, scale=None, enable_gqa=False):
    given = sdpa.Arguments(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
    reason = sdpa.refusal(given)
    for replacement in _active:
        if query.device.type in replacement.devices:
            replacement.tell(given, reason)
    return sdpa.attention(given) if reason is None else sdpa.torchs_own(given)
