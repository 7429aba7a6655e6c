"""What a file of each kind must hold: tensors with their dtypes and axes, and fields of the header."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from forged import HEADERS

import fmtool
from fmtool.artifacts.format import Artifact
from fmtool.artifacts.schema import FIELDS, TENSORS
from fmtool.errors import ArtifactError

DTYPES = {"F32": torch.float32, "I64": torch.int64, "BOOL": torch.bool}


@pytest.mark.parametrize("kind", [kind for kind in TENSORS if TENSORS[kind]])
def test_tensor_of_another_dtype_or_shape_or_a_missing_one_is_refused(kind: str, tmp_path: Path) -> None:
    good = {
        name: torch.zeros([2 for _ in axes], dtype=DTYPES[dtype])  # 2 columns of an image are 2 of its half spectrum
        for name, (dtype, *axes) in ((name, text.split()) for name, text in TENSORS[kind].items())
    }
    artifact, path = Artifact(kind, HEADERS[kind], good), str(tmp_path / "file")
    fmtool.write(artifact, path)
    fmtool.read(path)
    for name, tensor in good.items():
        for wrong in (tensor.to(torch.float64), tensor[..., None], torch.cat([tensor, tensor])):
            fmtool.write(dataclasses.replace(artifact, tensors={**good, name: wrong}), path)
            with pytest.raises(ArtifactError, match=r"tensor \w+ is .* expected"):
                fmtool.read(path)
        fmtool.write(dataclasses.replace(artifact, tensors={key: good[key] for key in good if key != name}), path)
        with pytest.raises(ArtifactError, match=f"a file of kind {kind} needs {name}"):
            fmtool.read(path)
    for field in FIELDS[kind]:
        header = {key: value for key, value in HEADERS[kind].items() if key != field}
        fmtool.write(dataclasses.replace(artifact, header=header), path)
        with pytest.raises(ArtifactError, match=f"a file of kind {kind} needs {field}"):
            fmtool.read(path)
        for wrong in ([[]], {"": [1]}, 10**400):
            fmtool.write(dataclasses.replace(artifact, header={**header, field: wrong}), path)
            with pytest.raises(ArtifactError, match=f"its {kind} header is damaged \\({field}\\)"):
                fmtool.read(path)


@pytest.mark.parametrize("more", [{"clean_drop": []}, {"worst": []}, {"rows": []}, {"columns": ["none", "none"]}])
def test_a_defences_table_is_as_wide_and_high_as_its_headings(more: dict[str, object], tmp_path: Path) -> None:
    rows = {name: torch.zeros(1, dtype=torch.int64) for name in TENSORS["defense"]}
    fmtool.write(Artifact("defense", {**HEADERS["defense"], **more}, rows), str(tmp_path / "file"))
    with pytest.raises(ArtifactError, match=r"its defense header is damaged \(matrix\)"):
        fmtool.read(str(tmp_path / "file"))


@pytest.mark.parametrize("names", [["svcca", "svcca"], ["SVCCA"], ["n null"], [""], [3]])
def test_a_statistic_has_a_name_that_tensors_and_headings_can_bear(names: list[object], tmp_path: Path) -> None:
    """A name that this version doesn't know is none of it: the record is what is checked."""
    header = HEADERS["correlation"]
    (record,) = header["statistics"]
    fmtool.write(
        Artifact("correlation", {**header, "statistics": [{**record, "name": "newer"}]}, {}), str(tmp_path / "a")
    )
    assert fmtool.read(str(tmp_path / "a")).header["statistics"][0]["name"] == "newer"
    damaged = {**header, "statistics": [{**record, "name": name} for name in names]}
    fmtool.write(Artifact("correlation", damaged, {}), str(tmp_path / "b"))
    with pytest.raises(ArtifactError, match=r"its correlation header is damaged \(statistics\)"):
        fmtool.read(str(tmp_path / "b"))
