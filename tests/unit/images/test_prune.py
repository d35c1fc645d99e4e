# SPDX-License-Identifier: Apache-2.0
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support import inside

from fedclave.workspace.images import prune, tree

TRAINED = """
import sys
if len(sys.argv) > 1:
    sys.path[:] = [sys.argv[1], *(path for path in sys.path if "site-packages" not in path)]
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(7)
model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
model.append(nn.LazyLinear(3))
data = TensorDataset(torch.randn(32, 1, 8, 8), torch.arange(32) % 3)
model(data.tensors[0])
optimizer = torch.optim.Adam(model.parameters())
for x, y in DataLoader(data, 8, shuffle=True):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
print(torch.__file__)
print(sum(value.double().sum() for value in model.state_dict().values()).item().hex())
"""


@pytest.mark.parametrize(
    "path",
    [
        "torch/bin/protoc-3.13.0.0",
        "torch/bin/test_api",
        "torch/bin/upgrader_models/test_versioned_div_tensor_v2.ptl",
        "torch/include/ATen/ATen.h",
        "torch/lib/libtorchbind_test.so",
        "torch/lib/libprotobuf.a",
        "torch/share/cmake/Caffe2/Caffe2Config.cmake",
        "torch/test/test_api",
        "torch/_C/__init__.pyi",
        "numpy/_core/tests/test_umath.py",
        "scipy/conftest.py",
        "setuptools/cli-64.exe",
    ],
)
def test_what_no_run_needs_is_left_out_and_counted(path: str) -> None:
    kept = "site-packages/kit/__init__.py"
    files = {f"site-packages/{path}": tree.of_bytes(b"abc"), kept: tree.of_bytes(b"x")}
    pruned = prune.packages(files)
    assert list(pruned.files) == [kept]
    assert (pruned.before.files, pruned.before.bytes) == (2, 4)
    assert (pruned.after.files, pruned.after.bytes) == (1, 1)


@pytest.mark.parametrize(
    "path",
    [
        "torch/bin/torch_shm_manager",  # without it torch refuses to be imported
        "torch/testing/_comparison.py",  # torch.autograd imports it
        "torch/lib/libtorch_cpu.so",
        "torch/lib/libgomp.so.1",
        "kit/bin/tool",
        "kit/testing/__init__.py",
        "kit/latest/__init__.py",
        "kit/share/data.json",
    ],
)
def test_what_a_run_may_need_is_kept(path: str) -> None:
    files = {f"site-packages/{path}": tree.of_bytes(b"")}
    assert prune.packages(files).files.keys() == files.keys()


def test_torch_trains_to_the_same_bits_without_what_is_left_out(tmp_path: Path) -> None:
    for path, source in inside.installed(["torch", "numpy"]).items():
        target = tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source)
    assert not (tmp_path / "torch/include").exists()
    pruned, whole = trained(str(tmp_path)), trained()
    assert Path(pruned[0]).is_relative_to(tmp_path) and not Path(whole[0]).is_relative_to(tmp_path)
    assert pruned[1] == whole[1]


def trained(*packages: str) -> list[str]:
    """Where torch was imported from, and the sum of the weights of a small training."""
    command = [sys.executable, "-I", "-B", "-c", TRAINED, *packages]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()
