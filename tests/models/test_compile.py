"""torch.compile takes a model with the kernel as one graph, and new lengths compile nothing anew."""

from __future__ import annotations

from types import ModuleType

import torch

from .situations import ready_inputs
from .table import difference
from .zoo import LAYERS, MODELS, create

ROUNDING = 2**-7  # of bfloat16. In float32, transformers warns from inside the graph, which breaks it.


def test_packed_sequences_of_any_length(loaded: ModuleType) -> None:
    graphs = []

    def backend(module: torch.fx.GraphModule, _inputs):
        graphs.append(module.graph)
        return module.forward

    model = create(MODELS["Gemma2"], MODELS["Gemma2"].repository).bfloat16()
    compiled = torch.compile(model, fullgraph=True, backend=backend)

    def check(*lengths: int) -> None:
        inputs = {**ready_inputs(lengths), "use_cache": False}
        assert difference(compiled(**inputs).logits, model(**inputs).logits) <= ROUNDING

    with torch.inference_mode():
        check(9, 12)
        check(21, 4, 13)  # dynamic from here on
        with torch.compiler.set_stance("fail_on_recompile"):
            check(2, 3, 30)
            check(1, 40, 7)
    assert len(graphs) == 2
    for graph in graphs:
        names = [str(node.target) for node in graph.nodes]
        assert names.count(f"{loaded.__name__}.attention_forward.default") == LAYERS
