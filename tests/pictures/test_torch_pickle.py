"""The reader of torch's old format: equal tensors, and no code."""

from __future__ import annotations

import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch

from rung.bases import torch_pickle
from rung.errors import ArtefactError


def test_tensors_are_those_that_torch_wrote_whatever_their_strides(tmp_path):
    base = torch.randn(4, 3, 5)
    told = OrderedDict(
        plain=base, turned=base.permute(2, 0, 1), part=base[1:, :, ::2], counts=torch.arange(7),
        half=base.half(), empty=torch.empty(0, 3), one=torch.tensor(2.5),
    )  # fmt: skip
    torch.save(told, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    found = torch_pickle.read(tmp_path / "x.pth")
    assert list(found) == list(told)
    for name, tensor in told.items():
        assert np.array_equal(found[name], tensor.numpy()) and found[name].flags.c_contiguous


class Evil:
    def __reduce__(self):
        return print, ("code ran",)


@pytest.mark.parametrize("content", [{"a": Evil()}, {"a": 1}, [torch.ones(2)], {"a": torch.float32}])
def test_anything_but_tensors_is_refused_and_no_code_runs(content, tmp_path, capsys):
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(ArtefactError):
        torch_pickle.read(tmp_path / "x.pth")
    assert "code ran" not in capsys.readouterr().out


def test_every_cut_of_a_file_is_refused(tmp_path):
    torch.save(OrderedDict(a=torch.arange(5.0)), tmp_path / "x", _use_new_zipfile_serialization=False)
    data = (tmp_path / "x").read_bytes()
    for end in range(0, len(data), 7):
        (tmp_path / "cut").write_bytes(data[:end])
        with pytest.raises(ArtefactError):
            torch_pickle.read(tmp_path / "cut")


def test_another_format_is_refused(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "zip.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"a": 1}))
    for name in ("zip.pth", "plain.pth"):
        with pytest.raises(ArtefactError, match="cannot be read as weights"):
            torch_pickle.read(tmp_path / name)
