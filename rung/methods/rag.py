"""Retrieval-augmented generation: passages of the user's documents in front of the question.

Lewis et al., arXiv 2005.11401. Departs from the paper: nothing is trained, and the passages stand in
the prompt together, each with its source. Retrieval is measured apart from the answers: recall@k and
mean reciprocal rank, by the document that a row names (`--gold`), else by the passages that hold its
answer.

    rung tune NAME --method rag --documents manuals --data ...
    rung tune NAME --method rag --documents manuals --retrieval hybrid --gold '{file}' --data ...
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rung.config import knob
from rung.data.conversation import Conversation
from rung.errors import ArtefactError, ConfigError
from rung.methods import base, choice
from rung.methods.workload import Shape, Workload, scoring
from rung.types import Example, Message

if TYPE_CHECKING:
    from rung.bases.encoder import Encoder
    from rung.data.retrieval import Embed, Index, Quality
    from rung.forward.adapter import Adapter

TOLD_RECALL = 5  # passages, for the recall that a climb's table shows
MEASURED = 500  # rows that retrieval is measured on, at most
FOLDER = "documents"  # inside the model's folder
TOKENS_OF_A_WORD = 1.4  # in the mean over languages written with blanks
MODES = ("bm25", "vectors", "hybrid")


@dataclass
class Knobs:
    group: ClassVar[str] = "rag"
    documents: str | None = knob(
        None, "A folder of txt, md, html and pdf files to answer from.", metavar="FOLDER"
    )
    passages: list[int] = knob([1, 3], "Numbers of passages to choose from.", least=1, most=50)
    passage_words: int = knob(120, "Words of a passage at most.", least=10, most=2000)
    overlap_words: int = knob(20, "Words that a passage repeats of the one before.", least=0, most=1000)
    retrieval: str = knob(
        "bm25",
        "How passages are found: by words (bm25), by meaning (vectors), by both (hybrid), or whichever "
        "ranks best on validation (auto).",
        choices=("auto", *MODES),
    )
    vectors_by: str = knob(
        "minilm",
        "The sentence encoder that makes the vectors: a name, folder or Hub id.",
        metavar="SPEC",
    )
    choose_rows: int | None = choice.choose_rows()


ASKING = "Passages from the documents:\n\n{passages}\n\n{wording}\n\n{question}"
WORDINGS = {
    "plain": "Answer with the help of these passages.",
    "brief": "Answer from these passages. Reply with the answer alone, in as few words as possible.",
}


@dataclass(frozen=True)
class Retrieved(Conversation):
    """The best passages for the last question, in front of it.

    Attributes:
        count: how many. mode: how they are found.
        encoder, encoder_digest: who makes the vectors, where any are needed.
        characters: of a prompt at most, 0 for any; passages that would not fit are left out.
        wording: what the model is told to do with them.
        index: None until it is read from the model's folder.
    """

    count: int = 3
    mode: str = "bm25"
    encoder: str = ""
    encoder_digest: str = ""
    characters: int = 0
    wording: str = WORDINGS["plain"]
    index: Index | None = field(default=None, repr=False, compare=False)
    labels: tuple[str, ...] = ()

    def messages(self, messages: Sequence[Message]) -> list[Message]:
        text = choice.question(messages)
        if self.index is None or not text:
            return list(messages)
        room = self.characters - sum(len(m["content"]) for m in messages) - len(ASKING + self.wording)
        blocks: list[str] = []
        for hit in self.index.search(text, self.count, self.mode):
            block = f"[{len(blocks) + 1}] {_source(hit.passage)}\n{hit.passage.text}"
            if self.characters and room < len(block) + 2:
                continue
            room -= len(block) + 2
            blocks.append(block)
        if not blocks:
            return list(messages)
        found = list(messages)
        at = max(i for i, m in enumerate(found) if m["role"] == "user")
        content = ASKING.format(passages="\n\n".join(blocks), wording=self.wording, question=text)
        found[at] = {**found[at], "content": content}
        return found

    @classmethod
    def read(cls, settings: dict[str, Any]) -> Retrieved:
        """From `settings.json`; raises KeyError, TypeError or ValueError."""
        mode = settings["mode"]
        if mode not in MODES:
            raise ValueError("mode")
        return cls(
            int(settings["count"]), mode, str(settings["encoder"]), str(settings["encoder_digest"]),
            int(settings["characters"]), str(settings["wording"]),
        )  # fmt: skip


def _source(passage: Any) -> str:
    """File name and number, on one line whatever the file is called."""
    return f"{' '.join(passage.source.split())}, passage {passage.number}"


class Method(choice.PromptMethod):
    summary = "passages of your documents in the prompt"
    paper = "arXiv 2005.11401"
    Config = Knobs
    speaks = Retrieved

    def unsuited(self, task: Any, config: Knobs) -> str | None:
        if not config.documents:
            return "it answers from documents: name a folder with --documents"
        return super().unsuited(task, config)

    def candidates(self, config: Knobs, shape: Shape, rows: int) -> float:
        return 1.0 + len(WORDINGS) + len(set(config.passages))

    def answering(self, config: Knobs, shape: Shape) -> Workload:
        passages = sum(config.passages) / len(config.passages)
        return scoring(shape, TOKENS_OF_A_WORD * config.passage_words * passages)

    def find(self, study: base.Study, config: Knobs) -> base.Fitted:
        from rung.forward.adapter import Adapter

        if config.overlap_words >= config.passage_words:
            raise ConfigError("--overlap-words must be below --passage-words")
        rows, _ = choice.rows_to_choose_by(study, config.choose_rows or self.rows)
        index = indexed(study, config)
        mode, figures = _best_mode(study, index, config)
        race = choice.Race(study, rows)
        bare = choice.Candidate("no documents", Conversation())
        race.best([bare])
        # One dimension after the other: the wording with the fewest passages, then their number.
        candidates = _candidates(study, rows, index, mode, config)
        best = race.best([_worded(candidates[0], name) for name in WORDINGS])
        wording = best.name.rpartition(" ")[2]
        best = race.best([_worded(c, wording) for c in candidates])
        study.note(f"chose {race.told(best)}; without documents {race.scores[bare.name].value:.3f}")
        metrics = race.metrics(best) | figures | {"passages": len(index.passages)}
        recall = figures.get(f"retrieval_recall_at_{TOLD_RECALL}")
        told = "" if recall is None else f"recall@{TOLD_RECALL} {recall:.2f}"
        return base.Fitted(Adapter(conversation=best.conversation), metrics, told)

    def to_files(self, adapter: Adapter, bank: Any, config: Any):
        asking = adapter.conversation
        assert isinstance(asking, Retrieved)
        names = ("count", "mode", "encoder", "encoder_digest", "characters", "wording", "labels")
        return {name: getattr(asking, name) for name in names}, {}

    def to_folder(self, adapter: Adapter, bank: Any, folder: Path) -> None:
        asking = adapter.conversation
        assert isinstance(asking, Retrieved) and asking.index is not None
        from rung.data.retrieval import Index

        (folder / FOLDER).mkdir()
        index = asking.index
        if asking.mode == "bm25":  # vectors that lost the comparison are not carried along
            index = Index(index.passages, index.lexical)
        index.save(folder / FOLDER)

    def from_folder(self, adapter: Adapter, bank: Any, folder: Path) -> None:
        from rung.data.retrieval import Index

        asking = adapter.conversation
        assert isinstance(asking, Retrieved)
        if not (folder / FOLDER).is_dir():
            raise ArtefactError(
                f"{folder} has no {FOLDER}/, the passages that it answers from: fit it again"
            )
        embed = None
        if asking.mode != "bm25":
            encoder = _encoder(asking.encoder)
            if encoder.digest != asking.encoder_digest:
                raise ArtefactError(f"the encoder {asking.encoder} has changed since: fit it again")
            embed = _embed(encoder)
        index = Index.load(folder / FOLDER, embed)
        if embed is not None and index.vectors is None:
            raise ArtefactError(f"{folder / FOLDER} has no vectors to search by: fit it again")
        adapter.conversation = replace(asking, index=index)


def _candidates(
    study: base.Study, rows: Sequence[Example], index: Index, mode: str, config: Knobs
) -> list[choice.Candidate]:
    """One for each number of passages, the fewest first."""
    room = choice.Room.of(study, rows)
    found: list[choice.Candidate] = []
    left_out = []
    by = config.vectors_by if mode != "bm25" else ""
    for count in sorted(set(config.passages)):
        asking = Retrieved(count, mode, by, _encoder(by).digest if by else "", index=index)
        # The fewest are tried in any case: what does not fit is left out request by request.
        if found and not room.holds(study, asking, rows):
            left_out.append(count)
            continue
        found.append(choice.Candidate(f"{count} passages", replace(asking, characters=room.characters)))
    if left_out:
        study.note(f"too long for the context, not tried: {', '.join(map(str, left_out))} passages")
    return found


def _worded(candidate: choice.Candidate, name: str) -> choice.Candidate:
    asking = candidate.conversation
    assert isinstance(asking, Retrieved)
    worded = replace(asking, wording=WORDINGS[name])
    return choice.Candidate(f"{candidate.name} {name}", worded)


def indexed(study: base.Study, config: Knobs) -> Index:
    """The documents' index, read from the cache where the same documents were indexed the same way."""
    from rung import home
    from rung.artefacts import folders
    from rung.data.retrieval import Index, cut, documents, read_folder

    assert config.documents
    embed = None
    how = f"{config.passage_words}-{config.overlap_words}"
    if config.retrieval != "bm25":
        encoder = _encoder(config.vectors_by)
        embed = _embed(encoder, study.stopping)
        how += f"-{encoder.digest[:16]}"
    folder = home.folder("cache") / "documents" / f"{documents.digest(config.documents)[:32]}-{how}"
    if folder.exists():
        try:
            folders.verify(folder)
            return Index.load(folder, embed)
        except ArtefactError:
            pass  # damaged: made anew
    texts = read_folder(config.documents, study.note)
    index = Index.of(cut(texts, config.passage_words, config.overlap_words), embed)
    folders.write(folder, index.save)
    return index


@cache
def _encoder(spec: str) -> Encoder:
    """In memory once, however many models ask it."""
    from rung.bases import encoder

    return encoder.load(spec)


def _embed(encoder: Encoder, stopping: Callable[[], bool] = lambda: False) -> Embed:
    return lambda texts: encoder.encode(texts, stopping).numpy()


def _best_mode(study: base.Study, index: Index, config: Knobs) -> tuple[str, dict[str, Any]]:
    """How passages are found best, and how well."""
    from rung.data.retrieval import measure, quality
    from rung.evals.ngrams import part_of

    rows = part_of(choice.conversations(study.validation or study.train), MEASURED)
    strangers = quality.unknown(index, rows)
    if strangers:
        names = ", ".join(strangers[:3])
        study.note(
            f"--gold names {len(strangers)} that are no document or passage of the folder: {names}"
        )
    modes = MODES if config.retrieval == "auto" else (config.retrieval,)
    found: dict[str, Quality] = {}
    for mode in modes:
        measured = measure(index, rows, mode, lambda e: choice.question(choice.asked(e)))
        if measured is not None:
            found[mode] = measured
    if not found:
        study.note(
            "retrieval is not measured: no row names its document (--gold), none's answer is found"
        )
        return modes[0], {}
    best = max(found, key=lambda mode: found[mode].mrr)
    good = found[best]
    study.note(
        f"retrieval by {best}: recall@1 {good.recall[1]:.2f}, recall@5 {good.recall[5]:.2f}, "
        f"MRR {good.mrr:.2f} on {good.rows} rows (right: {good.gold})"
    )
    figures = good.metrics() | {"retrieval": best}
    return best, figures | {f"retrieval_mrr of {m}": q.mrr for m, q in found.items() if len(found) > 1}
