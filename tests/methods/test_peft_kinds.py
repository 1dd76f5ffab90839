"""Every kind of adapter that PEFT writes: read so that it answers as PEFT does, or refused by name."""

from __future__ import annotations

import dataclasses
import warnings

import peft
import pytest
import torch
from hypothesis import HealthCheck, assume, given, note, settings
from hypothesis import strategies as st
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as CONFIGS

from rung.errors import ArtefactError
from rung.forward.bank import Bank
from rung.forward.trie import Sequence
from rung.methods import artefact, merging
from rung.methods import peft as kinds
from rung.methods.peft import through_peft
from rung.methods.peft.base import SHARED, TARGETS
from rung.methods.peft.lora import Kind as Lora
from tests.models import VOCABULARY, tiny_adapter, tiny_model

IDS = torch.randint(3, VOCABULARY, (1, 14), generator=torch.Generator().manual_seed(2))
CALL = IDS[0, 5:7].tolist()  # what activated LoRA is called by: it stands in the row that is asked
LINEAR = ["q_proj", "down_proj"]
SQUARE = ["q_proj", "o_proj"]
TASK = {"task_type": "CAUSAL_LM"}
# What each kind is made with on the tiny model; None: PEFT makes none of it there from a config alone.
MADE: dict[str, dict | None] = {
    "LORA": {"r": 4, "target_modules": LINEAR},
    "ADALORA": {"init_r": 4, "target_r": 2, "total_step": 10, "target_modules": LINEAR},
    "ADAMSS": {"r": 8, "num_subspaces": 2, "subspace_rank": 2, "target_modules": LINEAR},
    "ADAPTION_PROMPT": {"adapter_len": 4, "adapter_layers": 2},
    "BEFT": {"target_modules": ["q_proj"]},
    "BOFT": {"boft_block_size": 4, "target_modules": SQUARE},
    "BONE": None,
    "C3A": {"block_size": 8, "target_modules": SQUARE},
    "CARTRIDGE": {"num_virtual_tokens": 4},
    "CPT": {"cpt_token_ids": [3, 4, 5], "cpt_mask": [1, 1, 1], "cpt_tokens_type_mask": [1, 2, 4]},
    "DEFT": {"r": 4, "target_modules": LINEAR},
    "DELORA": {"r": 4, "target_modules": LINEAR},
    "FOURIERFT": {"n_frequency": 20, "target_modules": LINEAR},
    "FROD": {"target_modules": LINEAR},
    "GLORA": {"r": 4, "target_modules": LINEAR},
    "GRALORA": {"r": 4, "gralora_k": 2, "target_modules": LINEAR},
    "HIRA": {"r": 4, "target_modules": LINEAR},
    "HRA": {"r": 4, "target_modules": LINEAR},
    "IA3": {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    "LILY": {"r": 4, "target_modules": LINEAR, "stride_A": 1, "num_B": 2},
    "LN_TUNING": {"target_modules": ["input_layernorm", "norm"]},
    "LOHA": {"r": 4, "target_modules": LINEAR},
    "LOKR": {"r": 4, "target_modules": LINEAR},
    "MISS": {"r": 4, "target_modules": LINEAR},
    "MULTITASK_PROMPT_TUNING": None,  # asks for a task with every row
    "OFT": {"r": 0, "oft_block_size": 4, "target_modules": LINEAR},
    "OSF": {"target_modules": LINEAR, "effective_rank": 4},
    "PEANUT": {"r": 4, "target_modules": LINEAR},
    "POLY": None,  # likewise
    "PREFIX_TUNING": {"num_virtual_tokens": 4},
    "PROMPT_TUNING": {"num_virtual_tokens": 4},
    "PSOFT": {"r": 4, "target_modules": LINEAR},
    "PVERA": {"r": 4, "target_modules": LINEAR},
    "P_TUNING": {"num_virtual_tokens": 4, "encoder_hidden_size": 8},
    "RANDLORA": {"r": 4, "target_modules": LINEAR},
    "ROAD": {"group_size": 8, "target_modules": LINEAR},
    "SHADOW": {"r": 4},
    "SHIRA": {"r": 4, "target_modules": LINEAR},
    "SUPERTUNING": {"r": 4, "target_modules": LINEAR},
    "TINYLORA": {"r": 4, "target_modules": LINEAR},
    "TRAINABLE_TOKENS": {"token_indices": [5, 6, 40]},
    "UNILORA": {"r": 4, "theta_d_length": 64, "target_modules": LINEAR},
    "VBLORA": {"r": 4, "num_vectors": 8, "vector_length": 8, "target_modules": LINEAR},
    "VERA": {"r": 4, "target_modules": LINEAR},
    "WAVEFT": {"n_frequency": 20, "target_modules": LINEAR},
    "XLORA": None,
}
# What comes out: read by Rung itself, through PEFT's code, or refused since it is no weight.
NATIVE = {k.peft_type for k in kinds.registry.all()}


def made(config, folder, family="llama", seed=1, model=tiny_model, scale=0.2):
    """Write an adapter as PEFT does, moved away from where it starts -> the adapter's logits."""
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.get_peft_model(model(family), config)
        with torch.no_grad():
            for parameter in theirs.parameters():
                if parameter.requires_grad:
                    parameter += scale * torch.randn_like(parameter)
        theirs.save_pretrained(folder)
        del theirs
    return reference(folder, family, model)


def reference(folder, family="llama", model=tiny_model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.PeftModel.from_pretrained(model(family), folder).eval()
        with torch.no_grad():
            out = theirs(input_ids=IDS, attention_mask=torch.ones_like(IDS), use_cache=False)
    return out.logits[0, -IDS.shape[1] :]


def logits(bank, slots):
    """Of one row through each slot, all in one batch."""
    row = tuple(IDS[0].tolist())
    trie = bank.trie([Sequence(row, slot=s) for s in slots])
    with torch.no_grad():
        hidden = bank.forward(trie)
        slot_of = [s for s in slots for _ in row]
        rows = torch.cat([torch.from_numpy(r) for r in trie.rows])
        return bank.logits(hidden[rows], slot_of).view(len(slots), len(row), -1)


def apart(found, wanted):
    return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.fixture(scope="module")
def company():
    """A bank with adapters of other kinds in it, whom every adapter is asked beside."""
    bank = Bank(tiny_model())
    slots = [
        bank.add(tiny_adapter(bank, m, seed))
        for seed, m in enumerate(
            ("lora", "ia3", "prompt_tuning", "prefix_tuning", "last_layers", "lora")
        )
    ]
    return bank, slots


def test_every_kind_of_this_peft_is_here():
    assert {t.value for t in CONFIGS} <= set(MADE), "PEFT has a new kind: say how it is made"
    assert {t.value for t in CONFIGS} >= NATIVE


def test_every_setting_of_lora_is_read_or_refused():
    known = Lora.read_keys | Lora.passed | SHARED | TARGETS
    held = {
        "megatron_config", "velora_config", "use_qalora",
        "monteclora_config", "layer_replication", "target_parameters", "use_bdlora", "arrow_config",
        "kasa_config", "ensure_weight_tying",
    }  # fmt: skip
    fields = {f.name for f in dataclasses.fields(peft.LoraConfig)}
    assert fields == (known & fields) | held, "LoraConfig has a new field: read it, or hold it"
    for key in held:
        with pytest.raises(ArtefactError, match=key):
            Lora("lora").check({"peft_type": "LORA", key: ["something"]})


@pytest.mark.parametrize("kind", sorted(k for k, v in MADE.items() if v is not None))
def test_it_answers_as_peft_does_or_is_refused(kind, company, tmp_path):
    config = next(c for t, c in CONFIGS.items() if t.value == kind)
    wanted = made(config(**TASK, **MADE[kind]), tmp_path)
    bank, others = company
    beside = logits(bank, others)
    try:
        adapter, about = artefact.load(tmp_path, bank)
    except ArtefactError as fault:
        assert kind not in NATIVE and kind in str(fault), str(fault)
        return
    slot = bank.add(adapter)
    try:
        found = logits(bank, [*others, slot])
        assert apart(found[-1], wanted) < 1e-4
        assert apart(logits(bank, [slot])[0], wanted) < 1e-4
        assert apart(found[:-1], beside) < 1e-5
    finally:
        bank.remove(slot)
    assert about["method"]


VARIANTS = {
    "dora": {"use_dora": True}, "rslora": {"use_rslora": True}, "pissa": {"init_lora_weights": "pissa"},
    "olora": {"init_lora_weights": "olora"}, "lora_bias": {"lora_bias": True},
    "biases": {"bias": "all"}, "head": {"target_modules": ["q_proj", "lm_head"]},
    "embeddings": {"target_modules": ["q_proj", "embed_tokens"]},
    "saved head": {"modules_to_save": ["lm_head"]},
    "saved embeddings": {"modules_to_save": ["embed_tokens"]},
    "saved norms": {"modules_to_save": ["input_layernorm", "norm"]},
    "tokens": {"trainable_token_indices": [7, 8]},
}  # fmt: skip


BROKEN = [("gpt2", "olora")]  # PEFT has no OLoRA for transposed projections
CASES = [(f, v) for f in ("llama", "qwen2", "gemma", "gpt2") for v in VARIANTS if (f, v) not in BROKEN]


@pytest.mark.parametrize(("family", "variant"), CASES)  # gemma's and gpt2's heads are tied
def test_variants_of_lora(variant, family, tmp_path):
    names = {
        "q_proj": "c_attn", "down_proj": "mlp.c_proj", "embed_tokens": "wte", "lm_head": "lm_head",
        "input_layernorm": "ln_1", "norm": "ln_f",
    } if family == "gpt2" else {}  # fmt: skip
    chosen = {"target_modules": LINEAR, **VARIANTS[variant]}
    chosen = {
        k: [names.get(n, n) for n in v] if k in ("target_modules", "modules_to_save") else v
        for k, v in chosen.items()
    }
    wanted = made(peft.LoraConfig(**TASK, r=4, lora_alpha=6, **chosen), tmp_path, family)
    bank = Bank(tiny_model(family))
    adapter, _ = artefact.load(tmp_path, bank)
    slot = bank.add(adapter)
    assert apart(logits(bank, [slot])[0], wanted) < 1e-4
    mixed = logits(bank, [-1, slot])
    assert apart(mixed[1], wanted) < 1e-4
    with torch.no_grad():
        bare = tiny_model(family)(input_ids=IDS).logits[0]
    assert apart(mixed[0], bare) < 1e-5
    try:
        changed = merging.merged(adapter, bank)
    except Exception as fault:
        assert "bias where the base has none" in str(fault)
        return
    whole = tiny_model(family)
    merging.put_into(whole, changed)
    with torch.no_grad():
        assert apart(whole(input_ids=IDS).logits[0], wanted) < 1e-4


@st.composite
def configs(draw):
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    targets = draw(st.lists(st.sampled_from(modules), min_size=1, max_size=4, unique=True))
    keys = st.sampled_from(
        [*targets, r"layers\.1\..*", f"self_attn.{targets[0]}", f"({'|'.join(targets)})"]
    )
    dora = draw(st.booleans())
    starts = [True, True, "gaussian"] if dora else [True, "gaussian", "orthogonal", "pissa", "olora"]
    activated = not dora and draw(st.integers(0, 3)) == 0
    whole = [None] if activated else [None, None, ["norm"], ["lm_head"], ["embed_tokens"]]
    return peft.LoraConfig(
        **TASK,
        r=draw(st.integers(2, 4)) * 2,
        lora_alpha=draw(st.integers(1, 32)),
        target_modules=draw(st.sampled_from([targets, f".*({'|'.join(targets)})"])),
        exclude_modules=draw(st.sampled_from([None, r".*layers\.2\..*"])),
        use_rslora=draw(st.booleans()),
        use_dora=dora,
        init_lora_weights=draw(st.sampled_from(starts)),
        lora_dropout=draw(st.sampled_from([0.0, 0.3])),
        modules_to_save=draw(st.sampled_from(whole)),
        alora_invocation_tokens=CALL if activated else None,
        rank_pattern=draw(st.dictionaries(keys, st.integers(1, 3).map(lambda n: 2 * n), max_size=2)),
        alpha_pattern=draw(st.dictionaries(keys, st.integers(1, 64), max_size=2)),
        bias="none" if activated else draw(st.sampled_from(["none", "none", "lora_only", "all"])),
    )


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(config=configs(), family=st.sampled_from(["llama", "qwen2"]))
def test_random_configs_of_lora_answer_as_peft_does(config, family, tmp_path_factory):
    """What loads answers as PEFT does; only what changes the base in other ways is refused, by name."""
    note({k: v for k, v in config.to_dict().items() if v not in (None, False, {}, [])})
    folder = tmp_path_factory.mktemp("adapter")
    try:
        wanted = made(config, folder, family)
    except (RuntimeError, ValueError):  # PEFT takes no such mix, or cannot read its own patterns again
        assume(False)
    bank = Bank(tiny_model(family))
    if config.alora_invocation_tokens and config.init_lora_weights in ("pissa", "olora"):
        with pytest.raises(ArtefactError, match=f"begins as {config.init_lora_weights}"):
            artefact.load(folder, bank)
        return
    adapter, _ = artefact.load(folder, bank)
    others = [-1, bank.add(tiny_adapter(bank, "lora")), bank.add(tiny_adapter(bank, "prefix_tuning"))]
    slot = bank.add(adapter)
    assert apart(logits(bank, [slot])[0], wanted) < 1e-4
    assert apart(logits(bank, [*others, slot])[-1], wanted) < 1e-4


def test_without_peft_the_way_out_is_named(tmp_path, monkeypatch):
    made(peft.LoHaConfig(**TASK, r=4, target_modules=LINEAR), tmp_path)
    monkeypatch.setattr(through_peft, "installed", lambda: False)
    with pytest.raises(ArtefactError, match="LOHA.*merge_and_unload.*install peft"):
        artefact.load(tmp_path, Bank(tiny_model()))
