import gc
import importlib.util
import warnings
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "loader.py"


# webdataset leaves closing its files to the garbage collector
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore:Exception ignored in.*FileIO:pytest.PytestUnraisableExceptionWarning")
def test_the_benchmark_reports_its_promised_figures_and_their_ratios():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # of what webdataset imports
        spec = importlib.util.spec_from_file_location("loader_benchmark", SCRIPT)
        benchmark = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(benchmark)
        threads = torch.get_num_threads()
        result = benchmark.run(gaussians=(4, 8), megabytes=1, batch_size=64, epochs=1)
    gc.collect()  # here, so that no other test is blamed for them
    assert torch.get_num_threads() == threads
    small, large = result["measurements"]
    assert (small["gaussians"], small["sets"]) == (4, 14_336)
    assert large["gaussians"] == 8
    assert result["sets_per_second"] == small["memory"] > 0
    assert result["ratio_vs_webdataset"] == small["memory"] / small["webdataset_samples"]
    assert result["ratio_vs_webdataset_blocks"] == small["memory"] / small["webdataset_blocks"]
    assert small["memory"] > small["webdataset_samples"]
