"""What no machine here runs in full: the accelerator's command, on the CPU; the plan and the README's table."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import skvae
from skvae import VAETransformer

BENCHMARKS = Path(skvae.__file__).parents[1] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return lambda name: SimpleNamespace(**runpy.run_path(str(BENCHMARKS / f"{name}.py")))


def test_the_accelerators_command_measures_every_part(script, capsys):
    gpu = script("gpu")
    costs = gpu.main(["--device", "cpu", "--quick"])
    assert [name.split(",")[0] for name in costs] == ["epoch"] * 3 + ["detectors", "VAETransformerCV"]
    for name, found in costs.items():
        cost = found["cpu"]
        assert (cost.floor is None) == (not name.startswith("epoch"))
        assert cost.seconds > 0
        assert cost.peak is None
    lines = [line.split("cpu")[0].strip() for line in capsys.readouterr().out.splitlines()]
    assert set(costs) < set(lines)


def test_what_would_begin_too_late_is_left_out_and_said(script, capsys):
    assert script("gpu").main(["--device", "cpu", "--quick", "--minutes", "0"]) == {}
    assert capsys.readouterr().out.count("left out, as 0 minutes are over") == 5


def test_the_accelerators_verdicts_are_its_predictions(script):
    gpu = script("gpu")
    fast = {"cpu": gpu.Cost(1.0), "cuda": gpu.Cost(0.01, floor=0.0005, peak=10**9)}
    assert [line[-3:] for line in gpu.verdicts({"epoch, 784-500-20, batch 128": fast}, "cuda")] == ["yes"] * 3
    assert [line[-2:] for line in gpu.verdicts({"detectors, 2 tables": fast}, "cuda")] == ["NO", "es"]
    assert not list(gpu.verdicts({"detectors, 2 tables": fast}, "cpu"))


def test_the_floor_counts_the_products_of_a_step(script):
    layers = script("gpu").Layers.of(7, 5, 2)
    vae = VAETransformer(2, hidden_layer_sizes=5, max_iter=1, random_state=0).fit(
        np.random.default_rng(0).random((30, 7))
    )
    weights = [p.numel() for p in vae.module_.parameters() if p.dim() == 2]
    assert layers.parameters() == sum(weights)
    # Forward, by the weights and by the inputs: three products a layer, two where the input is the data.
    seen, behind, decoder = 7 * 5 + 7 * 4, 5 * 4, 2 * 5 + 5 * 7 + 2 * 7
    assert layers.operations(n_draws=3) == 2 * (2 * seen + 3 * behind + 3 * 3 * decoder)


def test_the_plan_is_what_the_measured_tables_give(script):
    """Whoever writes these anew runs benchmarks/plan.py --docs, too."""
    plan = script("plan")
    assert plan.main([]) == [list(row.values()) for row in plan.table(plan.PLAN, "plan")]


def test_the_plan_waits_for_sums_in_a_ring(script):
    plan = script("plan")
    measured = [{"bytes": "4,000", "us, quartile": "300"}, {"bytes": "4,004,000", "us, quartile": "4300"}]
    sums = plan.sums_of(measured)
    assert sums.seconds(1, 1000) == 0
    assert sums.seconds(2, 1000) == pytest.approx(300e-6)
    assert sums.seconds(2, 1_001_000) == pytest.approx(4300e-6)
    assert sums.seconds(3, 10**6) == pytest.approx(2 * 296e-6 + 4 / 3 * 4000e-6)
    epoch = plan.Pass("epoch", "30-64-2", 1e-6, 1000)
    assert epoch.hours(3_600_000, 2, 1000, sums) == pytest.approx(1e-3 * (0.5 + 0.3))
    assert plan.Pass("transform", "30-64-2", 1e-6).hours(3_600_000, 4, 1000, sums) == pytest.approx(0.25e-3)


def test_the_readme_shows_what_the_measured_tables_say(script):
    shown = (BENCHMARKS.parent / "README.md").read_text()
    found = script("readme").table((BENCHMARKS.parent / "docs" / "benchmarks.md").read_text())
    assert f"<!-- measured table: python benchmarks/readme.py -->\n{found}\n<!-- end -->" in shown
    assert found.count("**") > 10
