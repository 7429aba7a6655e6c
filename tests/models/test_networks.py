"""Networks by name or factory, and their last layer."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import fmtool
from fmtool.errors import ModelError
from fmtool.models.networks import (
    build_network,
    call_factory,
    dtypes_of,
    last_layer,
    load_torchvision,
    replace_head,
    torchvision_arguments,
)


def test_network_without_a_linear_layer_has_no_head_to_replace() -> None:
    with pytest.raises(ModelError, match="no linear layer and no convolution"):
        last_layer(nn.Sequential(nn.ReLU(), nn.Flatten()))
    convolutions = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3, stride=2, padding=1, bias=False), nn.Flatten())
    assert replace_head(convolutions, 7) == "1"
    assert convolutions(torch.rand(1, 1, 8, 8)).shape == (1, 7 * 3 * 3) and convolutions[1].bias is None
    inner = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    assert replace_head(nn.Sequential(inner), 5) == "0.0" and inner[0].out_features == 5


def test_a_new_head_has_the_old_ones_dtype_and_learns_its_inputs_as_that_does() -> None:
    double = nn.Sequential(nn.Linear(4, 3).double())
    replace_head(double, 5)
    assert double(torch.rand(2, 4, dtype=torch.float64)).shape == (2, 5)
    for lazy, images in ((nn.LazyLinear(3), torch.rand(2, 4)), (nn.LazyConv2d(3, 2), torch.rand(2, 4, 2, 2))):
        network = nn.Sequential(lazy)
        replace_head(network, 5)
        assert network(images).shape[:2] == (2, 5)


def test_own_and_torchvisions_networks_have_the_outputs_asked_for() -> None:
    for name, channels in (("resnet8", 2), ("squeezenet1_1", 3)):
        _, last = last_layer(build_network(name, channels, 7))
        assert (last.out_features if isinstance(last, nn.Linear) else last.out_channels) == 7
    with pytest.raises(ModelError, match=r"unknown architecture 'resnet2O' \(did you mean 'resnet20'\?\)"):
        build_network("resnet2O", 3, 7)
    with pytest.raises(ModelError, match=r"^vit_b_16 can't be built with image_size=33: "):
        build_network("vit_b_16", 3, 7, {"image_size": 33})


def test_arguments_follow_from_weights_and_image_size() -> None:
    shape, weights = (3, 64, 64), {"AuxLogits.fc.weight": torch.zeros(1)}
    assert torchvision_arguments("resnet18", shape, None, own=False) == {}
    assert torchvision_arguments("vit_b_16", shape, None, own=False) == {"image_size": 64}
    assert torchvision_arguments("maxvit_t", shape, None, own=False) == {"input_size": [64, 64]}
    for given, own, auxiliary in ((weights, True, True), ({}, False, False), (None, False, False)):
        found = torchvision_arguments("inception_v3", shape, given, own=own)
        assert found == {"transform_input": own, "aux_logits": auxiliary, "init_weights": given is None}
    with pytest.raises(ModelError, match=r"^--input-shape 3,64,32: vit_b_16 takes square images$"):
        torchvision_arguments("vit_b_16", (3, 64, 32), None, own=False)


def test_a_torchvision_for_another_torch_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(ModelError, match=r"^torchvision can't be imported \(.*\): it needs the torch it was built for"):
        load_torchvision()


FACTORY = """
import torch
from torch import nn
def make(width=1):
    return nn.Linear(width, 2)
def scripted():
    return nn.Sequential(nn.Flatten(), torch.jit.trace(nn.Linear(1, 2), torch.ones(1, 1)))
def exported():
    return torch.export.export(nn.Linear(1, 2), (torch.ones(1, 1),)).module()
def text():
    return 'x'
class OnGpu(nn.Linear):
    def cpu(self):
        self.moved = True
        return super().cpu()
def on_gpu():
    return OnGpu(1, 2)
"""


def test_factories_are_called_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "factory_of_networks.py").write_text(FACTORY)
    before = list(sys.path)
    network = call_factory("factory_of_networks:make", {"width": 5})
    assert isinstance(network, nn.Linear) and network.in_features == 5
    assert sys.path == [*before, str(tmp_path)]
    assert call_factory("factory_of_networks:on_gpu", {}).moved
    for name, arguments, message in (
        ("factory_of_networks:make", {"depth": 1}, "unexpected keyword argument 'depth'"),
        ("factory_of_networks:none", {}, "no attribute 'none'"),
        ("no_such_module:make", {}, "No module named 'no_such_module'"),
    ):
        with pytest.raises(ModelError, match=f"^factory {name}: .*{message}"):
            call_factory(name, arguments)
    with pytest.raises(
        ModelError, match=r"^factory factory_of_networks:text returned str, expected a torch\.nn\.Module$"
    ):
        call_factory("factory_of_networks:text", {})
    assert sys.path == [*before, str(tmp_path)]


@pytest.mark.parametrize(
    "code", ["import sys\nsys.exit(0)", "import argparse\nargparse.ArgumentParser().parse_args(['x'])"]
)
def test_a_script_in_place_of_a_module_is_refused(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than that it ends the command, without a file and with exit code 0."""
    monkeypatch.chdir(tmp_path)
    name = f"script_{len(code)}"
    (tmp_path / f"{name}.py").write_text(code)
    with pytest.raises(
        ModelError, match=f"^factory {name}:make: its code ends the process: .* if __name__ == '__main__'$"
    ):
        call_factory(f"{name}:make", {})


def test_a_forward_may_import_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "twice_of_late.py").write_text("def twice(x):\n    return 2 * x\n")
    (tmp_path / "imports_late.py").write_text(
        "import torch\n\n\nclass Late(torch.nn.Module):\n    def forward(self, x):\n"
        "        from twice_of_late import twice\n        return twice(x)\n"
    )
    assert torch.equal(call_factory("imports_late:Late", {})(torch.ones(2)), torch.full((2,), 2.0))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("scripted", "1 is TorchScript: expected the Python module with its weights loaded"),
        ("exported", r"Calling .*\(\) is not"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_what_torch_has_frozen_is_refused(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "factory_of_frozen.py").write_text(FACTORY)
    with pytest.raises(ModelError, match=f"^factory factory_of_frozen:{name}: {message}"):
        call_factory(f"factory_of_frozen:{name}", {})


def test_number_types_are_those_of_parameters_and_buffers() -> None:
    network = nn.Sequential(nn.Linear(2, 2).half(), nn.BatchNorm1d(2))  # which also counts batches, in int64
    assert dtypes_of(network) == {torch.float16, torch.float32}


@pytest.mark.parametrize("kind", ["quantised", "traced"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_networks_that_a_model_file_cannot_hold_are_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    made = {
        "quantised": "torch.ao.quantization.quantize_dynamic(n, {torch.nn.Linear}, dtype=torch.qint8)",
        "traced": "torch.jit.trace(n, torch.rand(2, 1, 8, 8))",
    }[kind]
    text = f"import torch\nn = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()\nmake = lambda: {made}\n"
    (tmp_path / f"net_{kind}.py").write_text(text)
    with pytest.raises(
        ModelError, match="can't hold .* quantised" if kind == "quantised" else "expected a torch.nn.Module"
    ):
        fmtool.import_model(f"net_{kind}:make", input_shape=(1, 8, 8))
