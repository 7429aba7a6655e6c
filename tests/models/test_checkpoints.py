"""Checkpoints are read without running code, whatever wraps them, and fill the network that they fit."""

from __future__ import annotations

import collections
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import Tensor, nn

from fmtool.errors import FmtoolWarning, ModelError
from fmtool.models.checkpoints import load_weights, outputs_of, read_weights
from fmtool.models.registry import ARCHITECTURES

CPU = torch.device("cpu")


def _resnet8(outputs: int = 10) -> nn.Module:
    torch.manual_seed(0)
    return ARCHITECTURES["resnet8"].build(1, outputs)


def test_published_checkpoint_fills_resnet20(shared_data: Path) -> None:
    path = str(shared_data / "resnet20-12fca82f.th")
    raw = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    assert all(name.startswith("module.") for name in raw)
    weights, network = read_weights(path), ARCHITECTURES["resnet20"].build(3, 10)
    assert weights.keys() == raw.keys()
    load_weights(network, weights, path)
    assert sum(parameter.numel() for parameter in network.parameters()) == 269_722  # as A.2 has it: 0.27 million
    assert all(
        torch.equal(tensor, raw[f"module.{name}"])
        for name, tensor in network.state_dict().items()
        if f"module.{name}" in weights
    )


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".th", ".safetensors"])
@pytest.mark.parametrize("nested", ["", "state_dict", "model", "model_state_dict"])
def test_state_dicts_are_found_where_people_put_them(suffix: str, nested: str, tmp_path: Path) -> None:
    weights = dict(_resnet8().state_dict())
    path = tmp_path / f"checkpoint{suffix}"
    if suffix == ".safetensors":
        save_file(weights, path)
    else:
        found: Any = OrderedDict((f"module.{name}" if nested else name, tensor) for name, tensor in weights.items())
        if nested:
            found = {"epoch": 3, "best": 0.5, "args": [1, "two", None], nested: found}
        torch.save(found, path)
    read = {name.removeprefix("module."): tensor for name, tensor in read_weights(str(path)).items()}
    assert read.keys() == weights.keys() and all(torch.equal(read[name], weights[name]) for name in weights)


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [1, 2], 7, {"state_dict": {}}, {"a": torch.ones(1), "b": 2}])
def test_pickle_without_a_state_dict_is_told(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "checkpoint.pth")
    with pytest.raises(ModelError, match=r"checkpoint.pth: holds no state dict, expected parameter names with tensors"):
        read_weights(str(tmp_path / "checkpoint.pth"))


def test_weights_that_do_not_fit_are_named() -> None:
    weights = dict(_resnet8().state_dict())
    weights["linear.weight"] = torch.zeros(7, 32)
    del weights["conv1.weight"], weights["bn1.bias"]
    for number in range(4):
        weights[f"strange{number}"] = torch.zeros(1)
    with pytest.raises(ModelError) as caught:
        load_weights(_resnet8(), weights, "FILE")
    assert str(caught.value) == (
        "FILE: the weights don't fit the architecture: missing conv1.weight, bn1.bias; "
        "unexpected strange0, strange1, strange2, ...; shape linear.weight [7, 32] for [10, 32]"
    )


def test_counters_that_nothing_reads_may_be_missing() -> None:
    weights = {name: tensor for name, tensor in _resnet8(5).state_dict().items() if "num_batches" not in name}
    network = _resnet8(5)
    nn.init.zeros_(network.linear.weight)  # type: ignore[arg-type]
    load_weights(network, weights, "FILE")
    assert torch.equal(network.linear.weight, weights["linear.weight"])  # type: ignore[arg-type]


def test_number_of_outputs_is_told_by_the_last_layer() -> None:
    assert outputs_of(_resnet8(7).state_dict(), _resnet8()) == 7
    assert outputs_of({}, _resnet8()) is None
    no_linear = nn.Sequential(nn.Conv2d(3, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert outputs_of(no_linear.state_dict(), no_linear) == 5
    assert outputs_of({}, nn.Flatten()) is None


def _put(prefix: str, weights: Any) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in weights.items()}


WRAPPED: dict[str, Any] = {
    "torch.compile": lambda w: _put("_orig_mod.", w),
    "DDP of a compiled network": lambda w: _put("module._orig_mod.", w),
    "compiled DDP": lambda w: _put("_orig_mod.module.", w),
    "Lightning": lambda w: {"state_dict": _put("model.", w), "epoch": 1, "hyper_parameters": {"lr": 0.1}},
    "Lightning, net": lambda w: {"state_dict": _put("net.", w)},
    "network within model": lambda w: {"state_dict": _put("model.network.", w)},
    "pytorch-cifar": lambda w: {"net": _put("module.", w), "acc": 91.6, "epoch": 199},
    "EMA": lambda w: {"model_ema": w},
    "ema": lambda w: {"ema": {"module": _put("module.", w)}},
    "params": lambda w: {"params": w},
    "SWA": lambda w: {"n_averaged": torch.tensor(7), **_put("module.", w)},
    "the one nested": lambda w: {"epoch": 1, "resnet": w, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}},
    "NumPy's number": lambda w: {"state_dict": w, "best_acc": np.float64(91.6), "top5": np.float32(0.5), "n": np.int64(3)},
    "arrays": lambda w: {name: tensor.numpy() for name, tensor in w.items()},
    "array beside": lambda w: {"model": w, "losses": np.arange(6.0).reshape(2, 3), "names": np.array(["a", "b"])},
    "defaultdict": lambda w: {"model": w, "optimizer": collections.defaultdict(dict, {"a": {}})},
    "dtypes and devices": lambda w: {"model": w, "dtype": torch.float32, "device": torch.device("cuda:1"), "n": torch.Size([3])},
}  # fmt: skip


@pytest.mark.parametrize("suffix", [".pth", ".pth.tar", ".ckpt", "", ".safetensors.pt"])
@pytest.mark.parametrize("name", WRAPPED)
def test_wrappers_of_training_loops_are_opened(name: str, suffix: str, tmp_path: Path) -> None:
    weights, path = _resnet8(7).state_dict(), tmp_path / f"weights{suffix}"
    torch.save(WRAPPED[name](weights), path)
    network = ARCHITECTURES["resnet8"].build(1, 7)
    state = read_weights(str(path))
    assert outputs_of(state, ARCHITECTURES["resnet8"].build(1, 10)) == 7
    load_weights(network, state, str(path))
    assert all(torch.equal(tensor, weights[key]) for key, tensor in network.state_dict().items())


def test_a_network_that_is_parallel_itself_keeps_its_prefix() -> None:
    network, own = nn.DataParallel(_resnet8(7)), _resnet8(7).state_dict()
    for weights in (_put("module.", own), _put("module.module.", own)):
        load_weights(network, weights, "FILE")
        assert all(torch.equal(tensor, own[key[7:]]) for key, tensor in network.state_dict().items())
    with pytest.raises(ModelError, match=r"missing module\.conv1\.weight"):
        load_weights(network, own, "FILE")


def test_of_tied_weights_a_file_may_hold_one(tmp_path: Path) -> None:
    """As those of safetensors' own `save_model` do."""

    def tied(seed: int) -> nn.Sequential:
        torch.manual_seed(seed)
        norm = nn.BatchNorm1d(4)
        network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), norm, norm)
        network[1].weight = network[0].weight
        norm.running_mean = torch.rand(4)
        return network

    given, found = tied(0), tied(1)
    save_model(given, str(tmp_path / "tied.safetensors"))
    weights = read_weights(str(tmp_path / "tied.safetensors"))
    assert len(weights) == 3 + 5
    load_weights(found, weights, "FILE")
    assert all(torch.equal(values, given.state_dict()[name]) for name, values in found.state_dict().items())
    with pytest.raises(ModelError, match=r"missing 1\.bias$"):
        load_weights(tied(2), {name: values for name, values in weights.items() if name != "1.bias"}, "FILE")


def test_complex_weights_of_a_real_network_are_refused() -> None:
    """Their imaginary part would be dropped."""
    weights = _resnet8().state_dict()
    weights["linear.weight"] = weights["linear.weight"] * 1j
    with pytest.raises(ModelError, match=r"^FILE: linear\.weight is complex, expected real numbers"):
        load_weights(_resnet8(), weights, "FILE")


def test_weights_beside_the_network_are_counted() -> None:
    weights = {**_put("model.", _resnet8().state_dict()), "loss.weight": torch.ones(10), "teacher.a": torch.ones(1)}
    with pytest.warns(
        FmtoolWarning,
        match=rf"^FILE: 2 of {len(_resnet8().state_dict()) - 5} tensors don't belong to the network .*: loss.weight, teacher.a$",
    ):
        load_weights(_resnet8(), weights, "FILE")


def test_several_state_dicts_are_told(tmp_path: Path) -> None:
    one, other = (
        _resnet8().state_dict(),
        _put("", {name: tensor + 1 for name, tensor in _resnet8().state_dict().items()}),
    )
    torch.save({"model_ema": other, "state_dict": one}, tmp_path / "both.pth")
    with pytest.warns(FmtoolWarning, match="uses state_dict, ignores model_ema"):
        assert torch.equal(read_weights(str(tmp_path / "both.pth"))["conv1.weight"], one["conv1.weight"])
    torch.save(
        {"model": one, "best": other, "optimizer": {"state": {0: {"m": one["conv1.weight"]}}}}, tmp_path / "best.pth"
    )
    with pytest.warns(FmtoolWarning, match="uses model, ignores best$"):
        assert torch.equal(read_weights(str(tmp_path / "best.pth"))["conv1.weight"], one["conv1.weight"])
    torch.save({"generator": one, "critic": other}, tmp_path / "gan.pth")
    with pytest.raises(ModelError, match=r"holds several state dicts \(generator, critic\)"):
        read_weights(str(tmp_path / "gan.pth"))


def test_names_are_compared_after_the_networks_own_hooks(tmp_path: Path) -> None:
    """Old names of torchvision's ViT and DenseNet; MNASNet, whose hook asks for a version that safetensors doesn't hold."""
    import torchvision

    torch.manual_seed(0)
    vit = torchvision.models.VisionTransformer(32, 16, 1, 2, 8, 16, num_classes=5)
    dense = torchvision.models.DenseNet(4, (1, 2), 8, num_classes=5)
    small = torchvision.models.MNASNet(0.1, num_classes=5)
    old = {
        vit: {re.sub(r"mlp\.([03])\.", lambda m: f"mlp.linear_{1 + int(m[1]) // 3}.", k): v for k, v in vit.state_dict().items()},
        dense: {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", k): v for k, v in dense.state_dict().items()},
        small: dict(small.state_dict()),
    }  # fmt: skip
    for network, shared in old.items():
        weights = {name: tensor.clone() for name, tensor in shared.items()}
        assert network is small or weights.keys() != network.state_dict().keys()
        expected = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        for parameter in network.parameters():
            nn.init.zeros_(parameter)
        load_weights(network, _put("module.", weights), "FILE")
        assert all(torch.equal(tensor, expected[name]) for name, tensor in network.state_dict().items())


def test_sparse_and_truncated_checkpoints_are_named(tmp_path: Path) -> None:
    weights = _resnet8().state_dict()
    torch.save({**weights, "linear.weight": weights["linear.weight"].to_sparse()}, tmp_path / "sparse.pth")
    with pytest.raises(ModelError, match=r"linear\.weight is sparse"):
        read_weights(str(tmp_path / "sparse.pth"))
    torch.save(weights, tmp_path / "whole.pth")
    (tmp_path / "short.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:5000])
    with pytest.raises(ModelError, match="not a checkpoint: truncated"):
        read_weights(str(tmp_path / "short.pth"))


class _Squared(nn.Module):
    """Keeps a value that is derived from a weight, as merged or reparametrised weights are."""

    def __init__(self, hooked: bool) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(2))
        self.square = torch.zeros(2)
        if hooked:
            self.register_load_state_dict_post_hook(lambda module, keys: module.derive())

    def derive(self) -> None:
        self.square = self.scale.detach() ** 2


class _Overriding(_Squared):
    def load_state_dict(self, *arguments: Any, **options: Any) -> Any:
        found = super().load_state_dict(*arguments, **options)
        self.derive()
        return found


@pytest.mark.parametrize("make", [lambda: _Squared(True), lambda: _Overriding(False)], ids=["hook", "override"])
def test_what_a_network_derives_from_its_weights_is_derived(make: Any) -> None:
    network = make()
    load_weights(network, {"module.scale": torch.tensor([2.0, 3.0])}, "FILE")
    assert network.square.tolist() == [4, 9]


def test_a_network_that_can_not_load_is_told() -> None:
    network = _Squared(False)
    network.register_load_state_dict_post_hook(lambda module, keys: 1 / 0)  # type: ignore[arg-type,return-value]
    with pytest.raises(ModelError, match=r"^FILE: the network's own load_state_dict fails: division by zero$"):
        load_weights(network, {"scale": torch.ones(2)}, "FILE")


def test_a_network_without_weights_is_loaded_from_none() -> None:
    load_weights(nn.Sequential(nn.Flatten()), {}, "none.pth")
    with pytest.raises(ModelError, match=r"none\.pth: the weights don't fit the architecture"):
        load_weights(nn.Linear(2, 2), {}, "none.pth")
