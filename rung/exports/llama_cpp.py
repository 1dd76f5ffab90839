"""llama.cpp's library, called as its own header declares it, to run a GGUF that was written.

The library is that of npm's `@node-llama-cpp/linux-x64` 3.22.1, whose structures are declared here
(include/llama.h of its release); another build lays them out otherwise, so its file is known by name.
It runs in a process of its own, since a fault in it would end this one:

    python -m rung.exports.llama_cpp REQUEST.json ANSWER.npz
"""

from __future__ import annotations

import ctypes as c
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rung.errors import ArtefactError

if TYPE_CHECKING:
    import numpy as np

    from rung.exports.base import LlamaFiles

LIBRARY = "libllama.v0.5.0.so"
PACKAGE = "@node-llama-cpp/linux-x64@3.22.1"
VARIABLE = "RUNG_LLAMA_CPP"  # names the folder that holds the library
TIMEOUT = 900  # seconds for a proof
CONTEXT = 1024  # tokens of a prompt and its answer at most
Ids = list[int]


@dataclass(frozen=True)
class Run:
    """What llama.cpp made of prompts.

    Attributes:
        ids: of each text, by its own tokenizer.
        logits: of each row of ids that it was given, (tokens, V).
    """

    ids: list[Ids]
    logits: list[np.ndarray]


def find() -> Path | None:
    """Find the folder of the library: `RUNG_LLAMA_CPP`, or `node_modules` here; None without one."""
    named = os.environ.get(VARIABLE)
    places = [Path(named)] if named else []
    places += sorted(Path("node_modules/@node-llama-cpp").glob("*/bins/*"))
    return next((place for place in places if (place / LIBRARY).is_file()), None)


def run(place: Path, files: LlamaFiles, texts: list[str], rows: list[Ids]) -> Run:
    """Tokenise texts and compute the logits of rows of ids.

    Args:
        place: the library's folder. files: a model, and what to put on it.

    Raises:
        ArtefactError: when it refuses the file, or fails.
    """
    import tempfile

    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        request, answer = Path(folder) / "request.json", Path(folder) / "answer.npz"
        content = {
            "place": str(place), "texts": texts, "rows": rows,
            "files": {name: str(path) for name, path in vars(files).items() if path is not None},
        }  # fmt: skip
        request.write_text(json.dumps(content))
        command = [sys.executable, "-m", "rung.exports.llama_cpp", str(request), str(answer)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
        if done.returncode or not answer.exists():
            last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise ArtefactError(f"llama.cpp does not run {files.model.name}: {last[:200]}")
        with np.load(answer) as found:
            ids = [found[f"ids{i}"].tolist() for i in range(len(texts))]
            return Run(ids, [found[f"logits{i}"] for i in range(len(rows))])


# --- the library's side ---------------------------------------------------------------------------


class _ModelParams(c.Structure):
    _fields_ = [
        ("devices", c.c_void_p), ("overrides", c.c_void_p), ("n_gpu_layers", c.c_int32),
        ("split_mode", c.c_int), ("load_mode", c.c_int), ("lazy_mode", c.c_int),
        ("main_gpu", c.c_int32), ("tensor_split", c.c_void_p), ("progress", c.c_void_p),
        ("progress_data", c.c_void_p), ("kv_overrides", c.c_void_p), ("vocab_only", c.c_bool),
        ("check_tensors", c.c_bool), ("use_extra_bufts", c.c_bool), ("no_host", c.c_bool),
        ("no_alloc", c.c_bool), ("load_mtp", c.c_bool),
    ]  # fmt: skip


class _ContextParams(c.Structure):
    _fields_ = [
        ("n_ctx", c.c_uint32), ("n_batch", c.c_uint32), ("n_ubatch", c.c_uint32),
        ("n_seq_max", c.c_uint32), ("n_rs_seq", c.c_uint32), ("n_outputs_max", c.c_uint32),
        ("n_outputs_max_per_seq", c.c_uint32), ("n_threads", c.c_int32), ("n_threads_batch", c.c_int32),
        ("ctx_type", c.c_int), ("rope_scaling_type", c.c_int), ("pooling_type", c.c_int),
        ("attention_type", c.c_int), ("flash_attn_type", c.c_int), ("rope_freq_base", c.c_float),
        ("rope_freq_scale", c.c_float), ("yarn_ext_factor", c.c_float), ("yarn_attn_factor", c.c_float),
        ("yarn_beta_fast", c.c_float), ("yarn_beta_slow", c.c_float), ("yarn_orig_ctx", c.c_uint32),
        ("defrag_thold", c.c_float), ("cb_eval", c.c_void_p), ("cb_eval_data", c.c_void_p),
        ("type_k", c.c_int), ("type_v", c.c_int), ("abort", c.c_void_p), ("abort_data", c.c_void_p),
        ("embeddings", c.c_bool), ("offload_kqv", c.c_bool), ("no_perf", c.c_bool),
        ("op_offload", c.c_bool), ("swa_full", c.c_bool), ("kv_unified", c.c_bool),
        ("samplers", c.c_void_p), ("n_samplers", c.c_size_t), ("ctx_other", c.c_void_p),
    ]  # fmt: skip


class _Batch(c.Structure):
    _fields_ = [
        ("n_tokens", c.c_int32), ("token", c.POINTER(c.c_int32)), ("embd", c.c_void_p),
        ("pos", c.POINTER(c.c_int32)), ("n_seq_id", c.POINTER(c.c_int32)),
        ("seq_id", c.POINTER(c.POINTER(c.c_int32))), ("logits", c.POINTER(c.c_int8)),
    ]  # fmt: skip


F32, NO_FLASH = 0, 0  # GGML_TYPE_F32 and LLAMA_FLASH_ATTN_TYPE_DISABLED: nothing is rounded to halves
OPAQUE = {
    "llama_model_load_from_file": (c.c_void_p, [c.c_char_p, _ModelParams]),
    "llama_init_from_model": (c.c_void_p, [c.c_void_p, _ContextParams]),
    "llama_model_default_params": (_ModelParams, []),
    "llama_context_default_params": (_ContextParams, []),
    "llama_model_get_vocab": (c.c_void_p, [c.c_void_p]),
    "llama_vocab_n_tokens": (c.c_int32, [c.c_void_p]),
    "llama_tokenize": (
        c.c_int32,
        [c.c_void_p, c.c_char_p, c.c_int32, c.POINTER(c.c_int32), c.c_int32, c.c_bool, c.c_bool],
    ),
    "llama_adapter_lora_init": (c.c_void_p, [c.c_void_p, c.c_char_p]),
    "llama_set_adapters_lora": (
        c.c_int32,
        [c.c_void_p, c.POINTER(c.c_void_p), c.c_size_t, c.POINTER(c.c_float)],
    ),
    "llama_model_n_embd": (c.c_int32, [c.c_void_p]),
    "llama_model_n_layer": (c.c_int32, [c.c_void_p]),
    "llama_set_adapter_cvec": (
        c.c_int32,
        [c.c_void_p, c.POINTER(c.c_float), c.c_size_t, c.c_int32, c.c_int32, c.c_int32],
    ),
    "llama_batch_init": (_Batch, [c.c_int32, c.c_int32, c.c_int32]),
    "llama_decode": (c.c_int32, [c.c_void_p, _Batch]),
    "llama_get_logits": (c.POINTER(c.c_float), [c.c_void_p]),
    "llama_get_memory": (c.c_void_p, [c.c_void_p]),
    "llama_memory_clear": (None, [c.c_void_p, c.c_bool]),
}


class _Llama:
    """A model in llama.cpp, on the CPU, its cache in float32."""

    def __init__(self, place: Path, model: str, lora: str | None = None, vector: str | None = None):
        for name in ("libggml-base.so", "libggml.v0.5.0.so"):
            c.CDLL(str(place / name), mode=c.RTLD_GLOBAL)
        backends = c.CDLL(str(place / "libggml.v0.5.0.so"))
        backends.ggml_backend_load_all_from_path.argtypes = [c.c_char_p]
        backends.ggml_backend_load_all_from_path(str(place).encode())
        self.lib: Any = c.CDLL(str(place / LIBRARY))
        for name, (result, arguments) in OPAQUE.items():
            function = getattr(self.lib, name)
            function.restype, function.argtypes = result, arguments
        self.lib.llama_backend_init()
        about = self.lib.llama_model_default_params()
        self.model = self.lib.llama_model_load_from_file(model.encode(), about)
        if not self.model:
            raise SystemExit("it refuses the file")
        settings = self.lib.llama_context_default_params()
        settings.n_ctx = settings.n_batch = settings.n_ubatch = CONTEXT
        settings.n_outputs_max = settings.n_outputs_max_per_seq = CONTEXT
        settings.type_k = settings.type_v = F32
        settings.flash_attn_type = NO_FLASH
        threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
        settings.n_threads = settings.n_threads_batch = threads
        self.context = self.lib.llama_init_from_model(self.model, settings)
        if not self.context:
            raise SystemExit("it makes no context")
        self.vocab = self.lib.llama_model_get_vocab(self.model)
        self.width = self.lib.llama_vocab_n_tokens(self.vocab)
        if vector is not None:
            self.steer(vector)
        if lora is not None:
            adapter = self.lib.llama_adapter_lora_init(self.model, lora.encode())
            one, full = (c.c_void_p * 1)(adapter), (c.c_float * 1)(1.0)
            if not adapter or self.lib.llama_set_adapters_lora(self.context, one, 1, full):
                raise SystemExit("it refuses the adapter")

    def steer(self, file: str) -> None:
        """Add the directions of a file to the layers' outputs, as `--control-vector` does."""
        import gguf
        import numpy as np

        layers, width = (
            self.lib.llama_model_n_layer(self.model),
            self.lib.llama_model_n_embd(self.model),
        )
        table = np.zeros((layers - 1, width), np.float32)  # of layers 1 and on; 0 has no place
        for tensor in gguf.GGUFReader(file).tensors:
            table[int(tensor.name.partition(".")[2]) - 1] = tensor.data
        data = table.ctypes.data_as(c.POINTER(c.c_float))
        if self.lib.llama_set_adapter_cvec(self.context, data, table.size, width, 1, layers):
            raise SystemExit("it refuses the control vector")

    def tokenise(self, text: str) -> Ids:
        raw = text.encode()
        ids = (c.c_int32 * (len(raw) + 8))()
        count = self.lib.llama_tokenize(self.vocab, raw, len(raw), ids, len(ids), False, True)
        return list(ids[: max(count, 0)])

    def logits(self, ids: Ids) -> np.ndarray:
        import numpy as np

        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)
        batch = self.lib.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, i, 1
            batch.seq_id[i][0], batch.logits[i] = 0, 1
        if self.lib.llama_decode(self.context, batch):
            raise SystemExit("it cannot decode")
        found = self.lib.llama_get_logits(self.context)
        return np.ctypeslib.as_array(found, (len(ids), self.width)).copy()


def main() -> None:
    """Answer a request file with a file of arrays."""
    import numpy as np

    request = json.loads(Path(sys.argv[1]).read_text())
    files = request["files"]
    llama = _Llama(
        Path(request["place"]), files["model"], files.get("lora"), files.get("control_vector")
    )
    arrays = {f"ids{i}": np.array(llama.tokenise(t), np.int64) for i, t in enumerate(request["texts"])}
    arrays |= {f"logits{i}": llama.logits(row) for i, row in enumerate(request["rows"])}
    np.savez(sys.argv[2], **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
