"""`import flash_attn`: this kernel under the names of flash-attn 2, for model files that were written for CUDA."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import threading
from types import ModuleType
from typing import Dict, List

from . import flash_attn_interface, flash_attn_padding, flash_attn_rotary
from .door import Undo

VERSION = "2.8.3"
_NAME = "flash_attn"
_FUNCTIONS = (
    "flash_attn_func",
    "flash_attn_kvpacked_func",
    "flash_attn_qkvpacked_func",
    "flash_attn_varlen_func",
    "flash_attn_varlen_kvpacked_func",
    "flash_attn_varlen_qkvpacked_func",
    "flash_attn_with_kvcache",
)
_PRIVATE = tuple(
    f"{prefix}_flash_attn_{varlen}{direction}"
    for prefix in ("", "_wrapped")
    for varlen in ("", "varlen_")
    for direction in ("forward", "backward")
)
_PADDING = (
    "index_first_axis",
    "index_first_axis_residual",
    "index_put_first_axis",
    "pad_input",
    "unpad_input",
    "unpad_input_for_concatenated_sequences",
)
_ROTARY = ("apply_rotary_emb", "apply_rotary_emb_func")
_CONTENTS = {
    _NAME: (flash_attn_interface, _FUNCTIONS),
    f"{_NAME}.flash_attn_interface": (flash_attn_interface, _FUNCTIONS + _PRIVATE),
    f"{_NAME}.bert_padding": (flash_attn_padding, _PADDING),
    f"{_NAME}.layers": (None, ()),
    f"{_NAME}.layers.rotary": (flash_attn_rotary, _ROTARY),
}
_lock = threading.Lock()
_installed: Dict[str, ModuleType] = {}
_users: List[Undo] = []


def install_flash_attn() -> Undo:
    """Makes `import flash_attn` find this kernel, as flash-attn 2.8.3, for the rest of the process.

    The modules are flash_attn, flash_attn.flash_attn_interface, flash_attn.bert_padding, flash_attn.layers and
    flash_attn.layers.rotary (apply_rotary_emb), with flash-attn 2's positional order, defaults and results. Importing
    any other module of flash_attn raises ModuleNotFoundError. Libraries that ask for the installed distribution
    flash-attn, as transformers and diffusers do, still find none; they take this kernel by its name on the hub.

    Returns:
        What takes the modules away again: its `undo()`, or the end of a `with` block. Modules that were imported
        before keep their functions. Of several calls the last undo counts.

    Raises:
        RuntimeError: there is another flash_attn, installed or imported.
    """
    with _lock:
        if not _installed:
            _refuse_another()
            _installed.update(_modules())
            sys.modules.update(_installed)
            sys.meta_path.insert(0, _FINDER)
        undo = Undo(lambda: _leave(undo))
        _users.append(undo)
        return undo


def _leave(user: Undo) -> None:
    with _lock:
        _users.remove(user)
        if _users:
            return
        sys.meta_path.remove(_FINDER)
        for name, module in _installed.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
        _installed.clear()


def _refuse_another() -> None:
    if _NAME in sys.modules:
        other = getattr(sys.modules[_NAME], "__file__", None) or "a module without a file"
    else:
        spec = importlib.util.find_spec(_NAME)
        if spec is None:
            return
        other = spec.origin or "a folder on sys.path"
    raise RuntimeError(
        f"install_flash_attn does not hide another flash_attn, and there is {other}: uninstall it, or call this "
        "kernel's functions by its own name"
    )


def _modules() -> Dict[str, ModuleType]:
    modules: Dict[str, ModuleType] = {}
    for name, (source, names) in _CONTENTS.items():
        is_package = any(other.startswith(f"{name}.") for other in _CONTENTS)
        module = ModuleType(name, f"{name} of flash-attn {VERSION}, by {__package__}.")
        module.__spec__ = importlib.machinery.ModuleSpec(name, None, origin=__file__, is_package=is_package)
        module.__file__, module.__loader__ = __file__, None
        module.__package__ = name if is_package else name.rpartition(".")[0]
        if is_package:
            module.__path__ = []
        for attribute in names:
            setattr(module, attribute, getattr(source, attribute))
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(modules[parent], child, module)
        modules[name] = module
    vars(modules[_NAME])["__version__"] = VERSION
    return modules


class _Finder:
    """Says what there is when another module is imported. Who only asks for one with `find_spec` is told None."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        caller = sys._getframe(1).f_back  # behind the loop over the finders
        if name.startswith(f"{_NAME}.") and caller is not None and caller.f_code.co_name == "_find_and_load_unlocked":
            raise ModuleNotFoundError(
                f"No module named {name!r}: this is metal-flash-sdpa in the place of flash-attn {VERSION}, which has "
                f"{', '.join(_CONTENTS)}",
                name=name,
            )
        return None


_FINDER = _Finder()
