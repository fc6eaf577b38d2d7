"""Write docs/reference.md from the public functions' docstrings: make build && python tools/document.py

The table of what runs where is not written by hand either: each of its marks is a call that was made, on the CPU
implementation and up to the launch of the Metal kernels, with and without a backward.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import textwrap
from pathlib import Path

import kernels
import torch

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "reference.md"

HEAD = """\
# Reference

Written by `tools/document.py` from the functions' docstrings; a test compares. Each mark in the table is a call that
was made: on the CPU implementation, and up to the launch of the Metal kernels, without running them. How far the
kernels' results are proved is in [proofs.md](proofs.md). What is not implemented raises `NotImplementedError`, a
gradient when the backward is asked for.

## Limits

| | |
|---|---|
| functions | those of flash-attn 2, with its names, shapes and defaults; `flash_attention_varlen` writes to a given \
output |
| helpers | `unpad_input`, `pad_input`, `index_first_axis`; `merge_attention_states` joins results for different keys |
| dtypes | float32, float16, bfloat16; sums and softmax in float32 |
| head_dim | 1 to 512, the values' may differ; 513 to 576 with values of up to 512; gradients on Metal up to 256; the \
common ones have kernels of their own (`planning/tiles.py`; above 256 these are 512, and 576 with values of 512), any \
other runs in the next larger |
| heads | any number of query heads that is a multiple of the key/value heads |
| masks | none, causal, window to the left and right (0 or more keys, or -1 for all; less is an error); always aligned \
at the last query and the last key, but as torch's `scaled_dot_product_attention`: there causal is aligned at the \
first ones |
| scores | softcap; ALiBi, by head or by sequence and head; attention sinks; `attn_bias`, a bias or a boolean mask of \
every score, with any axis shared |
| keys | dense, packed, or in pages (`block_table`); `seqused_k` shortens those of each sequence; a cache grows in \
place, with rotary embedding |
| few queries, many keys | the keys are divided among threadgroups, and a second small kernel joins the parts |
| layout | any strides with contiguous rows, without a copy; empty sequences, more queries than keys |
| second output | log-sum-exp, with `return_attn_probs=True` |

Wrong `cu_seqlens`, `seqused_k` or `block_table` may give a wrong answer; they never reach memory outside the tensors. A
call that writes, to `out` or caches, counts as an in-place operation, and refuses tensors that share memory.

## What runs where

"""


def document(kernel) -> str:
    """The text of docs/reference.md."""
    definition = fenced(docstring(kernel.interface).partition("\n\n")[2].strip())
    parts = [HEAD + table(kernel), "## What is computed\n\n" + definition, "## Functions"]
    parts += [f"### {name}\n\n{function_text(getattr(kernel, name))}" for name in kernel.__all__]
    return "\n\n".join(parts) + "\n"


def docstring(of) -> str:
    """Without its indentation. Raises ValueError if there is none."""
    text = inspect.getdoc(of)
    if text is None:
        raise ValueError(f"{of.__name__} has no docstring")
    return text


def function_text(function) -> str:
    """Signature and docstring as Markdown."""
    parameters = inspect.signature(function).parameters.values()
    texts = [str(parameter.replace(annotation=inspect.Parameter.empty)).replace("'", '"') for parameter in parameters]
    keyword_only = [parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in parameters]
    if any(keyword_only):
        texts.insert(keyword_only.index(True), "*")
    lines = "".join(f"\n    {text}," for text in texts) + "\n" * bool(texts)
    return f"```python\ndef {function.__name__}({lines}): ...\n```\n\n{markdown(docstring(function))}"


def fenced(text: str) -> str:
    """Indented blocks in fences."""
    return re.sub(
        r"(?:^    .*\n)+", lambda block: f"```text\n{textwrap.dedent(block[0])}```\n", text, flags=re.MULTILINE
    )


def markdown(docstring: str) -> str:
    """Sections become paragraphs, and what they list becomes a list."""
    lines, listing = [], False
    for line in docstring.splitlines():
        if section := re.fullmatch(r"(Args|Returns|Raises):", line):
            lines += [f"**{section[1]}**", ""]
            listing = True
        elif listing and (entry := re.fullmatch(r"    (\w[\w, ]*): (.*)", line)):
            lines.append(f"* `{entry[1]}`: {entry[2]}")
        else:
            lines.append(re.sub("^    (?:    )?", "  " if listing and line.startswith("        ") else "", line))
    return "\n".join(lines)


def table(kernel) -> str:
    """What works on which device, by trying."""
    rows = ["| | CPU | CPU, gradients | Metal | Metal, gradients |", "|---|---|---|---|---|"]
    for name, call in features(kernel).items():
        marks = [
            "yes" if works(kernel, call, backward, metal) else "no"
            for metal in (False, True)
            for backward in (False, True)
        ]
        rows.append(f"| {name} | {' | '.join(marks)} |")
    return "\n".join(rows)


def works(kernel, call, backward: bool, metal: bool) -> bool:
    with kernel.launchers.use_launcher(lambda plan, tensors: None) if metal else contextlib.nullcontext():
        try:
            with torch.set_grad_enabled(backward):
                result = call()
            if backward:
                result.sum().backward()
        except NotImplementedError:
            return False
    return True


def features(kernel) -> dict:
    """By name: a call without arguments that returns one tensor, which depends on tensors that require grad."""
    lengths = torch.tensor([0, 5, 16], dtype=torch.int32)
    table = torch.tensor([[0, 1], [2, 1]], dtype=torch.int32)
    used = torch.tensor([3, 7], dtype=torch.int32)
    ones, bias = torch.ones(4), torch.zeros(2, 1, 5, 16)

    def leaf(*shape):
        return torch.zeros(shape, requires_grad=True)

    def dense(value_dim=64, dtype=torch.float32, **arguments):
        query, key, value = leaf(2, 5, 4, 64), leaf(2, 16, 2, 64), leaf(2, 16, 2, value_dim)
        return kernel.flash_attn_func(query.to(dtype), key.to(dtype), value.to(dtype), **arguments)

    def packed(key=(16, 2, 64), frozen=False, **arguments):
        key, value = (leaf(*key).requires_grad_(not frozen) for _ in "kv")
        return kernel.flash_attn_varlen_func(leaf(16, 4, 64), key, value, lengths, lengths, 11, 11, **arguments)

    def into_out():
        out = torch.empty(16, 4, 64)
        kernel.flash_attention_varlen(out, leaf(16, 4, 64), leaf(16, 2, 64), leaf(16, 2, 64), lengths, lengths, 11, 11)
        return out

    def merged():
        parts = [dense(return_attn_probs=True) for _ in range(2)]
        return kernel.merge_attention_states([part[0] for part in parts], [part[1] for part in parts])[0]

    def cached(**arguments):
        cache, new = torch.zeros(2, 16, 2, 64), torch.zeros(2, 1, 2, 64)
        return kernel.flash_attn_with_kvcache(
            leaf(2, 1, 4, 64), cache, cache.clone(), new, new, cache_seqlens=used, **arguments
        )

    def paged_cache():
        cache, new = torch.zeros(3, 16, 2, 64), torch.zeros(2, 1, 2, 64)
        return kernel.flash_attn_with_kvcache(
            leaf(2, 1, 4, 64), cache, cache.clone(), new, new, cache_seqlens=used, block_table=table
        )

    def replaced():
        return kernel.scaled_dot_product_attention(leaf(2, 4, 5, 64), leaf(2, 4, 16, 64), leaf(2, 4, 16, 64))

    angles = torch.zeros(16, 8)
    rows = {"cache_batch_idx": torch.tensor([1, 0]), "cache_leftpad": torch.tensor([1, 0])}
    return {
        "`flash_attn_func`, also with other numbers of key/value heads": dense,
        "`flash_attn_varlen_func`": packed,
        "`flash_attention_varlen`": into_out,
        "`flash_attn_qkvpacked_func`, `flash_attn_kvpacked_func`": lambda: kernel.flash_attn_qkvpacked_func(
            leaf(2, 5, 3, 4, 64)
        ),
        "`flash_attn_varlen_qkvpacked_func`, `flash_attn_varlen_kvpacked_func`": lambda: (
            kernel.flash_attn_varlen_qkvpacked_func(leaf(16, 3, 4, 64), lengths, 11)
        ),
        "`flash_attn_with_kvcache`, appending": cached,
        "- rotary embedding": lambda: cached(rotary_cos=angles, rotary_sin=angles),
        "- `cache_batch_idx`, `cache_leftpad`": lambda: cached(**rows),
        "- pages": paged_cache,
        "`merge_attention_states`": merged,
        "`scaled_dot_product_attention`": replaced,
        "float16, bfloat16": lambda: dense(dtype=torch.float16) + dense(dtype=torch.bfloat16),
        "value head_dim of its own": lambda: dense(value_dim=40),
        "head_dim above 256, also of the values alone": lambda: dense(value_dim=512),
        "causal": lambda: dense(causal=True),
        "`window_size`": lambda: dense(window_size=(3, 2)),
        "`softcap`": lambda: dense(softcap=5.0),
        "`alibi_slopes` (no gradient of their own)": lambda: dense(alibi_slopes=ones),
        "`s_aux`, `learnable_sink`": lambda: dense(s_aux=leaf(4)),
        "`attn_bias`, bool or floating": lambda: dense(attn_bias=bias > 0) + dense(attn_bias=bias),
        "- its own gradient": lambda: dense(attn_bias=bias.clone().requires_grad_()),
        "`seqused_k`": lambda: packed(seqused_k=used),
        "`block_table`": lambda: packed((3, 16, 2, 64), block_table=table),
        "- the gradient of the query alone": lambda: packed((3, 16, 2, 64), frozen=True, block_table=table),
        "the log-sum-exp": lambda: dense(return_attn_probs=True)[1],
        "`dropout_p` above 0": lambda: dense(dropout_p=0.5),
    }


def main() -> None:
    DOCUMENT.parent.mkdir(exist_ok=True)
    DOCUMENT.write_text(document(kernels.get_local_kernel(ROOT / "build")), encoding="ascii")
    print(DOCUMENT)


if __name__ == "__main__":
    main()
