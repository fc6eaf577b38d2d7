"""The check before the first use of the matrix unit, and what follows from it.

Levels: simulation, with every layout of operands that the simulator knows.
"""

from __future__ import annotations

import contextlib
import importlib
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import embed
import pytest
import recorded
import torch
from simulated_launcher import SimulatedLauncher

CPU = torch.device("cpu")
REASONS = {
    "apple10": "",
    "older": "another layout of left, left transposed, right, right transposed, destination",
    "invented": "another layout of left, left transposed, right, right transposed, destination",
    "old_target": "wrong products of half",  # they are where their coordinates do not say
}


@pytest.fixture
def unit_check(metal_kernel, monkeypatch):
    """The module, on what it takes for an M5 with macOS 26.2, whose run-time launcher is simulated."""
    module = importlib.import_module(f"{metal_kernel.__name__}.launching.unit_check")
    monkeypatch.delenv(module.VARIABLE, raising=False)
    monkeypatch.setattr("platform.mac_ver", lambda: ("26.2", ("", "", ""), "arm64"))
    monkeypatch.setattr(module, "_of_this_gpu", lambda: module.why_not(SimulatedLauncher(), CPU))
    module._verdict.cache_clear()
    yield module
    module._verdict.cache_clear()


def test_the_text_in_the_package_is_that_of_the_kernels():
    assert embed.MODULE.read_text() == embed.embedded(), "make build writes it"


@pytest.mark.parametrize("layout", REASONS)
def test_only_the_assumed_layout_passes(unit_check, layout):
    reason = unit_check.why_not(SimulatedLauncher(matrix_unit=layout), CPU)
    assert reason.startswith(REASONS[layout]) and (not reason) == (layout == "apple10")


def test_the_caller_s_defaults_do_not_matter(unit_check):
    """The first call may come under a default device, a default dtype or autocast."""
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"), torch.autocast("cpu", torch.bfloat16):
            assert unit_check.why_not(SimulatedLauncher(), CPU) == ""
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("layout", ["older", "invented", "old_target"])
def test_products_alone_would_find_it(unit_check, layout, monkeypatch):
    """Were coordinates told as assumed, and elements elsewhere."""
    launcher = SimulatedLauncher(matrix_unit=layout)

    def launch(plan, given):
        launcher(plan, given)
        given["places"].copy_(unit_check.assumed_places())

    assert "wrong products of half" in unit_check.why_not(launch, CPU)


@pytest.mark.parametrize("operand", [0, 1, 2, 3, 4])
def test_each_operand_is_looked_at(unit_check, operand):
    def launch(plan, given):
        SimulatedLauncher()(plan, given)
        given["places"][operand, 31, 3] += 1

    name = ("left", "left transposed", "right", "right transposed", "destination")[operand]
    assert unit_check.why_not(launch, CPU) == f"another layout of {name}"


@pytest.mark.parametrize("row", [0, 8, 15])
@pytest.mark.parametrize(
    ("product", "name"),
    [
        (0, "half"),
        (4, "bfloat transposed"),
        (7, "float by half transposed"),
        (2, "half with left transposed"),
        (11, "float by bfloat with left transposed"),
    ],
)
def test_each_row_of_each_product_is_looked_at(unit_check, product, name, row):
    """The known failure leaves the first 8 rows right."""

    def launch(plan, given):
        SimulatedLauncher()(plan, given)
        given["products"].view(12, 16, 32)[product, row, 31] += 1

    assert unit_check.why_not(launch, CPU) == f"wrong products of {name}"


def test_capacities(unit_check):
    def launch(plan, given):
        SimulatedLauncher()(plan, given)
        given["capacities"][0] = 16

    assert "lanes have [16, 8, 16, 16, 16] elements" in unit_check.why_not(launch, CPU)


@pytest.mark.parametrize("broken", [torch.float16, torch.bfloat16], ids=str)
def test_an_attention_is_compared(unit_check, broken):
    """What layouts and products do not show."""

    def launch(plan, given):
        SimulatedLauncher()(plan, given)
        if "unit" in plan.source and "output" in given and given["output"].dtype == broken:
            given["output"][0, 69, 1, 63] += 0.1

    assert unit_check.why_not(launch, CPU).startswith(f"attention in {broken} differs by 0.")


def test_a_right_one_is_used(metal_kernel, unit_check, monkeypatch):
    """Asked once; plans of 16-bit types then use the unit."""
    monkeypatch.setattr(torch.backends.mps, "get_name", lambda: "Apple M5")
    monkeypatch.setattr(torch.backends.mps, "get_core_count", lambda: 10)
    asked = []
    ask = unit_check._of_this_gpu
    monkeypatch.setattr(unit_check, "_of_this_gpu", lambda: asked.append(1) or ask())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            metal_kernel.launchers._preferred.cache_clear()
            target = metal_kernel.launchers.metal()
    metal_kernel.launchers._preferred.cache_clear()
    assert target.device == metal_kernel.device.Device(10, 10, matrix_unit=True) and len(asked) == 1
    assert unit_check.verdict(10) == (True, "layouts, products and an attention are right")
    assert sources(metal_kernel, target.device) == [
        "attention_forward_unit.metal",
        "attention_backward_terms.metal",
        *["attention_backward_unit.metal"] * 2,
    ]


def test_threads_that_ask_at_once_wait_for_one_check(unit_check, monkeypatch):
    asked, several = [], threading.Barrier(2)

    def ask():
        asked.append(1)
        with contextlib.suppress(threading.BrokenBarrierError):
            several.wait(0.2)  # for a second one, which must not come
        return ""

    monkeypatch.setattr(unit_check, "_of_this_gpu", ask)
    with ThreadPoolExecutor(4) as pool:
        assert all(verdict.is_usable for verdict in pool.map(unit_check.verdict, [10] * 4))
    assert len(asked) == 1


def sources(kernel, device):
    """Of a call and of its gradients."""
    plans = recorded.Plans()
    query = torch.randn(1, 40, 2, 64).half().requires_grad_()
    with kernel.launchers.use_launcher(plans, device):
        kernel.flash_attn_func(query, query, query).sum().backward()
    return [plan.source for plan, _ in plans.seen]


@pytest.mark.parametrize("layout", ["older", "invented", "old_target"])
def test_a_wrong_one_costs_one_warning(metal_kernel, unit_check, monkeypatch, layout):
    monkeypatch.setattr(torch.backends.mps, "get_name", lambda: "Apple M5")
    monkeypatch.setattr(torch.backends.mps, "get_core_count", lambda: 10)
    monkeypatch.setenv("METAL_SIMULATOR_MATRIX_UNIT", layout)
    with pytest.warns(
        UserWarning, match=f"without this GPU's matrix unit.*: {REASONS[layout]}.*[Rr]eport it"
    ) as caught:
        for _ in range(2):
            metal_kernel.launchers._preferred.cache_clear()
            target = metal_kernel.launchers.metal()
    metal_kernel.launchers._preferred.cache_clear()
    assert len(caught) == 1 and not target.device.matrix_unit
    assert not any("unit" in source for source in sources(metal_kernel, target.device))


def test_what_does_not_compile_costs_one_warning(unit_check, monkeypatch):
    def refuse():
        raise RuntimeError("on macOS 26.2, the Metal compiler refuses unit_check: no such\n header")

    monkeypatch.setattr(unit_check, "_of_this_gpu", refuse)
    with pytest.warns(UserWarning, match="the Metal compiler refuses unit_check: no such header"):
        assert not unit_check.verdict(10).is_usable


@pytest.mark.parametrize(
    ("family", "version", "variable", "reason"),
    [
        (9, "26.2", None, "a GPU of family 9 has none"),
        (10, "26.1.1", None, "macOS 26.1, it takes 26.2"),
        (10, "16.1", None, "macOS 26.1, it takes 26.2"),  # as a Python that was built before 26 is told
        (10, "15.6", None, "macOS 15.6"),
        (10, "", None, "macOS of unknown version"),
        (10, "26.2", "0", "METAL_FLASH_SDPA_MATRIX_UNIT is 0"),
    ],
)
def test_where_there_is_nothing_to_check(unit_check, monkeypatch, family, version, variable, reason):
    monkeypatch.setattr("platform.mac_ver", lambda: (version, ("", "", ""), "arm64"))
    monkeypatch.setattr(unit_check, "_of_this_gpu", lambda: pytest.fail("nothing may run"))
    if variable:
        monkeypatch.setenv(unit_check.VARIABLE, variable)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        verdict = unit_check.verdict(family)
    assert not verdict.is_usable and reason in verdict.reason


@pytest.mark.parametrize("version", ["26.2", "26.2.1", "16.2", "26.10", "27", "27.0"])
def test_systems_that_are_new_enough(unit_check, monkeypatch, version):
    monkeypatch.setattr("platform.mac_ver", lambda: (version, ("", "", ""), "arm64"))
    monkeypatch.setattr(unit_check, "_of_this_gpu", lambda: "")
    assert unit_check.verdict(10).is_usable
