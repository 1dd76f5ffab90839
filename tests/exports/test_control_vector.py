"""Control vectors: what a GGUF reader finds in the file, and what no reader would heed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rung import methods
from rung.bases.loaded import LoadedBase
from rung.exports import get
from rung.exports.base import Source
from rung.exports.proof import prove
from rung.forward.adapter import Adapter
from rung.forward.bank import Bank
from rung.forward.steer import SteerOp, last_modules
from rung.types import BaseInfo
from tests.models import tiny_adapter, tiny_model
from tests.tokens import tiny_tokenizer


def source_of(folder: Path, layers: list[int], adapter: Adapter | None = None) -> Source:
    model = tiny_model()
    bank = Bank(model)
    modules = last_modules(bank)
    vectors = torch.randn(3, bank.width, generator=torch.Generator().manual_seed(0))
    adapter = adapter or Adapter(linear={modules[n]: SteerOp(vectors[n], 0.5) for n in layers})
    folder.mkdir()
    (folder / "README.md").write_text("calm", encoding="utf-8")
    base = LoadedBase(BaseInfo("tiny", "tiny", str(folder), "0"), model, tiny_tokenizer())
    return Source(
        folder=folder, about={"name": "calm"}, base=base, bank=bank, method=methods.get("steering"),
        adapter=adapter,
    )  # fmt: skip


def test_the_file_holds_each_layers_vector_times_its_strength(tmp_path):
    import gguf

    source, export = source_of(tmp_path / "model", [1]), get("control_vector")
    made = tmp_path / "made"
    made.mkdir()
    assert export.misfit(source) is None
    export.write(source, made, "float32")
    reader = gguf.GGUFReader(made / "control_vector.gguf")
    assert [t.name for t in reader.tensors] == ["direction.1"]
    (op,) = source.adapter.linear.values()
    found = torch.tensor(reader.tensors[0].data)
    torch.testing.assert_close(found, 0.5 * op.vector)
    assert found.dtype == torch.float32 and found.dim() == 1
    assert reader.fields["general.architecture"].contents() == "controlvector"
    assert prove(source, export, export.logits(source, made, "float32"), "float32").difference < 1e-5


@pytest.mark.parametrize(("layers", "said"), [([0, 1], "layer 0"), ([1, 2], "behind the last")])
def test_layers_that_llama_cpp_drops_are_refused(tmp_path, layers, said):
    assert said in get("control_vector").misfit(source_of(tmp_path / "model", layers))


def test_other_adapters_are_refused_in_one_line(tmp_path):
    adapter = tiny_adapter(Bank(tiny_model()), "lora")
    reason = get("control_vector").misfit(source_of(tmp_path / "model", [], adapter))
    assert "more than a direction" in reason and "\n" not in reason
