"""A compiled decoding step gives what torch's passes give, and nothing needs it."""

from __future__ import annotations

import shutil
import threading
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.bases import quantize as quantizing
from rung.bases.quantized import Int4
from rung.forward.adapter import Adapter
from rung.forward.bank import Bank
from rung.forward.compiled import compiler, integers
from rung.forward.compiled.decoder import MAX_ROWS, CompiledDecoder, LastTokens
from rung.forward.lora import LoraOp
from rung.forward.slots import Slots
from rung.forward.steer import SteerOp
from tests.engine.world import asked, engine_of, text, tiny_llama
from tests.models import tiny_adapter, tiny_model

WITHIN = 1e-4  # of the largest number
CODED_WITHIN = 0.02  # where inputs are coded: one that lies between two codes may fall to either
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
compiles = pytest.mark.skipif(compiler.compiler() is None, reason="no C++ compiler is installed")


def compiled_of(bank: Bank) -> CompiledDecoder:
    integers.attach(bank, min_numbers=0)
    found = CompiledDecoder.of(bank, bank.adapters, min_numbers=0)
    assert found is not None
    return found


def model_of(family: str, shape: dict, seed: int):
    import transformers

    config = {"llama": transformers.LlamaConfig, "qwen2": transformers.Qwen2Config}[family]
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(
        config(vocab_size=97, num_hidden_layers=2, max_position_embeddings=128, **shape)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    return model.eval()


def random_adapter(bank: Bank, draw: torch.Generator, rank: int, steered: bool) -> Adapter:
    """LoRA of a rank on some projections, and a steering vector on others."""
    linear = {}
    for layer in bank.layer_names:
        for name, module in bank.modules.items():
            if not name.startswith(f"{layer}.") or name.rpartition(".")[2] not in LINEAR:
                continue
            if steered and name.endswith("down_proj"):
                linear[name] = SteerOp(torch.randn(module.out_features, generator=draw), 0.7)
            elif torch.rand((), generator=draw) < 0.6:
                a = torch.randn(rank, module.in_features, generator=draw) * 0.2
                linear[name] = LoraOp(
                    a, torch.randn(module.out_features, rank, generator=draw) * 0.2, 1.5
                )
    return Adapter(linear=linear)


def step_of(bank: Bank, slots: list[int], draw: torch.Generator):
    """A decode plan over random keys and values of lanes of different lengths, and what enters."""
    from rung.engine.decode import DecodePlan
    from rung.engine.kv_cache import KVCache, LayerShape
    from rung.forward import cache_shapes

    shapes = [LayerShape(*s) for s in cache_shapes.attended(bank)]
    cache = KVCache(shapes, bank.dtype, bank.device, len(slots), 1 << 30)
    cache.resize(len(slots), 40)
    for tensor in (*cache.k, *cache.v):
        tensor.normal_(generator=draw)
    cache.lengths[:] = torch.randint(0, 39, (len(slots),), generator=draw).numpy()
    plan = DecodePlan(cache, Slots(slots))
    return plan, torch.randn(len(slots), bank.width, generator=draw)


def both(bank: Bank, compiled: CompiledDecoder, slots: list[int], seed: int) -> None:
    """Compare the states that leave, and the keys and values that stay, of a step by both ways."""
    found = []
    for way in (compiled, bank.inference or bank.layers):
        plan, entering = step_of(bank, slots, torch.Generator().manual_seed(seed))
        with torch.inference_mode():
            hidden = way.run(entering, plan.positions, plan)
        found.append((hidden, *plan.cache.k, *plan.cache.v))
    within = CODED_WITHIN if compiled.coded else WITHIN
    for ours, own in zip(*found, strict=True):
        assert float((ours - own).abs().max()) <= within * max(1.0, float(own.abs().max()))


@compiles
@settings(max_examples=15, deadline=None)
@given(
    family=st.sampled_from(["llama", "qwen2"]),
    heads=st.sampled_from([(1, 1), (4, 4), (6, 2), (3, 1)]),
    head_width=st.sampled_from([2, 6, 8, 16, 40, 64, 80]),
    width=st.sampled_from([12, 36, 60, 96]),
    inner=st.sampled_from([5, 24, 70]),
    kind=st.sampled_from(["none", "int8", "int4"]),
    rows=st.integers(1, 40),
    seed=st.integers(0, 1000),
)
def test_a_step_is_that_of_torch(family, heads, head_width, width, inner, kind, rows, seed):
    shape = {
        "hidden_size": width, "intermediate_size": inner, "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1], "head_dim": head_width,
    }  # fmt: skip
    model = model_of(family, shape, seed)
    if kind != "none":
        quantizing.quantize(model, kind, "float32", "cpu")
    bank, draw = Bank(model), torch.Generator().manual_seed(seed)
    ranks = [(1, False), (8, True), (19, False)]
    slots = [-1, *(bank.add(random_adapter(bank, draw, *rank)) for rank in ranks)]
    compiled = compiled_of(bank)
    chosen = [slots[i] for i in torch.randint(0, 4, (rows,), generator=draw).tolist()]
    both(bank, compiled, chosen, seed)
    hidden = torch.randn(rows, width, generator=draw)
    with torch.inference_mode():
        logits, own = compiled.logits(hidden), bank.own_head().logits(hidden)
    assert logits is not None and torch.allclose(logits, own, rtol=1e-4, atol=1e-4)
    with torch.no_grad():  # where inputs are not coded
        assert (compiled.logits(hidden) is None) == (kind != "none")


@compiles
@pytest.mark.parametrize("kind", ["none", "int8", "int4"])
def test_tokens_of_one_lane_in_a_step_are_those_of_a_step_each(kind):
    """To the bit, in two lanes of different lengths, with and without an adapter."""
    model = tiny_llama()
    if kind != "none":
        quantizing.quantize(model, kind, "float32", "cpu")
    bank, draw = Bank(model), torch.Generator().manual_seed(0)
    compiled = compiled_of(bank)
    slots, counts = [-1, bank.add(random_adapter(bank, draw, 5, True))], (7, 4)
    found = []
    for at_once in (True, False):
        plan, _ = step_of(bank, slots, torch.Generator().manual_seed(1))
        cache, begin = plan.cache, [3, 17]
        entering = torch.randn(2, 7, bank.width, generator=torch.Generator().manual_seed(2))
        each = [(lane, i) for lane, count in enumerate(counts) for i in range(count)]
        left = torch.zeros_like(entering)
        for step in [each] if at_once else [[one] for one in each]:
            lanes = torch.tensor([lane for lane, _ in step])
            places = torch.tensor([begin[lane] + i for lane, i in step])
            one = LastTokens(cache, lanes, Slots([slots[lane] for lane, _ in step]))
            rows = torch.stack([entering[lane, i] for lane, i in step])
            with torch.inference_mode():
                hidden = compiled.run(rows, places, one)
            for row, (lane, i) in zip(hidden, step, strict=True):
                left[lane, i] = row
        found.append([left, *cache.k, *cache.v])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def counted(compiled: CompiledDecoder, monkeypatch) -> list[int]:
    """How many rows each of its steps has from here on."""
    own, rows = compiled.run, []

    def run(entering, *args, **settings):
        rows.append(len(entering))
        return own(entering, *args, **settings)

    monkeypatch.setattr(compiled, "run", run)
    return rows


@compiles
@pytest.mark.parametrize("kind", ["none", "int8", "int4"])
def test_answers_are_those_of_torch(kind, monkeypatch):
    names = ("base", "lora", "prefix_tuning", "prompt_tuning")
    requests = [asked(n, text(i, 4 + 5 * i), temperature=1.0, seed=i) for i, n in enumerate(names * 2)]
    answers = []
    for compiled in (True, False):
        model = tiny_llama()
        if kind != "none":
            quantizing.quantize(model, kind, "float32", "cpu")
        engine = engine_of(model, names[1:])
        integers.attach(engine.bank, min_numbers=0)
        engine.bank.compiled = compiled_of(engine.bank) if compiled else None
        ways = counted(engine.bank.compiled, monkeypatch) if compiled else []
        answers.append(engine.generate(requests))
        assert bool(ways) == compiled
    assert answers[0] == answers[1]


@compiles
@pytest.mark.parametrize("kind", ["full", "last_layers", "ia3"])
def test_other_adapters_go_through_torch(kind):
    bank = Bank(tiny_llama())
    slot, compiled = bank.add(tiny_adapter(bank, kind)), compiled_of(bank)
    draw = torch.Generator().manual_seed(0)
    assert not compiled.suits(step_of(bank, [-1, slot], draw)[0])
    assert compiled.suits(step_of(bank, [-1, -1], draw)[0])
    assert not compiled.suits(step_of(bank, [-1] * (MAX_ROWS + 1), draw)[0])


@compiles
def test_an_adapter_in_training_is_never_arranged():
    bank = Bank(tiny_llama())
    adapter = tiny_adapter(bank, "lora")
    slot, compiled = bank.add(adapter), compiled_of(bank)
    step = step_of(bank, [slot], torch.Generator().manual_seed(0))[0]
    assert compiled.suits(step)
    compiled.changes.clear()
    adapter.trainable()
    assert not compiled.suits(step)


@compiles
def test_only_bases_built_like_llama():
    assert CompiledDecoder.of(Bank(tiny_model("gpt2")), {}, min_numbers=0) is None
    assert CompiledDecoder.of(Bank(tiny_model("qwen3")), {}, min_numbers=0) is None
    assert CompiledDecoder.of(Bank(tiny_llama()), {}) is None  # not worth compiling for
    assert CompiledDecoder.of(Bank(tiny_llama().bfloat16()), {}, min_numbers=0) is None


@compiles
def test_avx2_alone_gives_the_same(monkeypatch):
    monkeypatch.setenv(compiler.CAPABILITY, "avx2")
    bank = Bank(tiny_llama())
    both(bank, compiled_of(bank), [-1] * 5, 3)


@pytest.mark.parametrize(
    ("variable", "value"), [("RUNG_COMPILED", "0"), ("CXX", "no-such-compiler"), ("CXX", "false")]
)
def test_nothing_needs_a_compiler(variable, value, monkeypatch):
    requests = [asked("lora", text(1, 9)), asked("base", text(2, 20))]
    expected = engine_of(tiny_llama(), ("lora",)).generate(requests)
    monkeypatch.setenv(variable, value)
    engine = engine_of(tiny_llama(), ("lora",))
    assert compiler.library() is None
    assert CompiledDecoder.of(engine.bank, {}, min_numbers=0) is None
    engine.arrange()
    assert engine.generate(requests) == expected


@pytest.mark.skipif(not (shutil.which("gcc") and shutil.which("g++")), reason="no gcc is installed")
def test_a_driver_that_leaves_out_the_library_of_cpp_will_do(monkeypatch, rung_home):
    monkeypatch.setenv("CXX", "gcc")
    compiler._library.cache_clear()
    bank = Bank(tiny_llama())
    both(bank, compiled_of(bank), [-1] * 5, 3)
    compiler._library.cache_clear()


@compiles
def test_it_is_compiled_once(monkeypatch):
    compiler._library.cache_clear()
    assert compiler.library() is not None
    compiler._library.cache_clear()
    monkeypatch.setattr(compiler, "_compile", lambda *_: pytest.fail("compiled again"))
    assert compiler.library() is not None


@compiles
def test_who_asks_while_it_is_compiled_waits_for_it(monkeypatch, tmp_path):
    monkeypatch.setenv("RUNG_HOME", str(tmp_path))
    compiler._library.cache_clear()
    whole, calls, under_way = compiler._compile, [], threading.Event()

    def slow(*given):
        calls.append(given)
        under_way.set()
        time.sleep(0.2)
        whole(*given)

    monkeypatch.setattr(compiler, "_compile", slow)
    compiler.begin()
    assert under_way.wait(20)
    assert compiler.library() is not None and len(calls) == 1
    compiler._library.cache_clear()


def test_int4_recovers_what_had_sixteen_steps():
    draw = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 16, (6, 64), generator=draw).float()
    codes[:, [0, 40]], codes[:, [5, 50]] = 0, 15
    weight = codes * 0.125 - 1.0
    assert torch.equal(Int4.of(weight, torch.float32).whole(), weight)
