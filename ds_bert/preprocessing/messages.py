"""What preprocessing tells its user: warnings that name the cure, and the last screen."""

import shlex
from collections.abc import Iterator
from typing import Any

from ds_bert.dataset.options import MLM_NSP, MLM_SOP, InstanceOptions
from ds_bert.preprocessing.documents import LEFT_OUT_COUNT
from ds_bert.preprocessing.job import Result
from ds_bert.preprocessing.options import TRAIN, VALIDATION, PreprocessOptions
from ds_bert.reports.corpus import PAGE
from ds_bert.tokenizer.vocabulary import SPECIAL_TOKENS

_LONG_DOCUMENT = 5_000  # sentences; more in every document: blank lines are surely missing
_MANY_UNKNOWN, _MANY_RANDOM, _MANY_CASED = 0.01, 0.75, 0.05
_MANY_SINGLE, _MANY_REPEATS, _MANY_LONG, _MUCH_PADDING = 0.5, 0.1, 0.001, 0.75
_MANY_NEAR = 0.05
_SINGLE = {
    MLM_NSP: "which no true next sentence follows",
    MLM_SOP: "which has no order and is left out",
}
_LABELS = {MLM_NSP: "random next sentence", MLM_SOP: "segments swapped"}


def warnings(options: PreprocessOptions, result: Result) -> Iterator[str]:
    """Suspicious facts, each with the cure."""
    yield from _vocabulary_warnings(options, result)
    metas = [data_set.meta for data_set in result.data_sets.values()]
    documents, sentences = (
        sum(m["counts"][key] for m in metas) for key in ("documents", "sentences")
    )
    is_nsp = options.objective == MLM_NSP
    if documents == 1 and is_nsp:
        yield (
            "no blank line in the input, so it is a single document: every next sentence is from "
            "itself, also those called random; put blank lines between documents"
        )
    elif sentences > _LONG_DOCUMENT * documents and is_nsp:
        yield (
            f"{sentences:,} sentences in only {documents:,} documents; "
            "put a blank line after each document, next-sentence prediction lives on that"
        )
    statistics = metas[0]["statistics"]
    unknown = statistics["unknown_words"] / max(1, statistics["words"])
    if unknown > _MANY_UNKNOWN:
        yield (
            f"{unknown:.1%} of the words are [UNK]; does the vocabulary fit the language and "
            "--do_lower_case? ds-bert create-vocab learns one from your text"
        )
    if statistics["invalid_bytes"]:
        yield f"{statistics['invalid_bytes']:,} bytes that are not UTF-8 were left out"
    for name, length in result.data_sets[TRAIN].meta["lengths"].items():
        if length["num_stored_masks"] == 0:
            yield (
                f"length {name}: no token is masked, so nothing can be trained on it; give "
                "--max_predictions_per_seq 1 or more"
            )
        if is_nsp and length["num_random_next"] > _MANY_RANDOM * length["num_instances"]:
            yield (
                f"length {name}: {length['num_random_next'] / length['num_instances']:.0%} of the "
                "next sentences are random, expected about half; documents are very short: put one "
                "sentence on each line, and blank lines only between documents"
            )
    if report := result.data_sets[TRAIN].meta.get("report"):  # absent from older data sets
        yield from _corpus_warnings(report, options.objective)


def _corpus_warnings(report: dict[str, Any], objective: str) -> Iterator[str]:
    single = report["one_sentence_documents"] / report["documents"]
    if single > _MANY_SINGLE and objective in _SINGLE:
        yield (
            f"{single:.0%} of the documents are one sentence, {_SINGLE[objective]}; put blank "
            "lines only between documents"
        )
    repeats = report["repeated_sentences"]
    if repeats["share"] > _MANY_REPEATS:
        about = "about " if repeats["sampled_one_in"] > 1 else ""
        yield (
            f"{about}{repeats['share']:.0%} of the lines repeat another line; remove boilerplate "
            "and copies of documents"
        )
    near = report.get("near_duplicates", {"share": 0.0})
    if near["share"] > _MANY_NEAR:
        yield (
            f"{near['share']:.0%} of the documents are nearly the same as an earlier one; leave "
            "them out with --deduplicate"
        )
    longest, figures = max(report["lengths"].items(), key=lambda item: int(item[0]))
    if figures["longer_sentences"] > _MANY_LONG * report["sentences"]:
        yield (
            f"{figures['longer_sentences']:,} sentences do not fit into {longest} tokens and are "
            "cut; put one sentence on each line (--sentence_splitter divides paragraphs)"
        )
    for length, figures in report["lengths"].items():
        if figures["padding_share"] > _MUCH_PADDING:
            yield (
                f"length {length}: sequences are so short that padded they would be "
                f"{figures['padding_share']:.0%} padding; your documents are short, "
                "use a smaller --max_seq_length"
            )


def _vocabulary_warnings(options: PreprocessOptions, result: Result) -> Iterator[str]:
    vocabulary = result.vocabulary
    if duplicates := vocabulary.duplicates:
        yield (
            f"{options.vocab_file}: {len(duplicates)} tokens stand on several lines (the last one "
            f"counts), for example {duplicates[0]!r}; remove the others before training"
        )
    cased = sum(t != t.lower() for t in vocabulary.tokens if t not in SPECIAL_TOKENS)
    if options.do_lower_case and cased > _MANY_CASED * vocabulary.size:
        yield (
            f"{cased:,} tokens of {options.vocab_file} have capital letters and cannot occur in "
            "lower-cased text; use --no-do_lower_case for a cased vocabulary"
        )


def last_screen(result: Result) -> str:
    """What was made, where, and the next command."""
    lines = []
    for part, data_set in result.data_sets.items():
        counts = data_set.meta["counts"]
        lines.append(
            f"{part}: {data_set.folder}{'' if result.is_new else ' (was complete, nothing redone)'}"
        )
        lines.append("  " + ", ".join(f"{number:,} {name}" for name, number in counts.items()))
        for length, facts in data_set.meta["lengths"].items():
            line = f"  length {length}: {facts['num_instances']:,} instances"
            if label := _LABELS.get(_objective(facts)):
                share = facts["num_random_next"] / facts["num_instances"]
                line += f", {label} in {share:.1%}"
            lines.append(line)
    statistics = result.data_sets[TRAIN].meta["statistics"]
    unknown = statistics["unknown_words"] / max(1, statistics["words"])
    lines.append(f"{statistics['words']:,} words, {unknown:.2%} of them unknown")
    if LEFT_OUT_COUNT in statistics:
        lines.append(f"{statistics[LEFT_OUT_COUNT]:,} near-duplicate documents left out")
    if report := result.data_sets[TRAIN].meta.get("report"):
        lines.append(
            f"{report['pieces_per_word']:.2f} tokens for each word, "
            f"{report['repeated_sentences']['share']:.1%} of the lines repeat another one"
        )
        lines.append(f"report:     {result.data_sets[TRAIN].folder / PAGE}")
    lines.append(f"look at it: ds-bert inspect {shlex.quote(str(result.data_sets[TRAIN].folder))}")
    lines.append(f"next:       {_next_command(result)}")
    return "\n".join(lines)


def _next_command(result: Result) -> str:
    folders = {part: str(data_set.folder) for part, data_set in result.data_sets.items()}
    objective = _objective(next(iter(result.data_sets[TRAIN].meta["lengths"].values())))
    return (
        "deepspeed --module ds_bert.train --ds_config seq128 "
        f"--train_data {shlex.quote(folders[TRAIN])} "
        f"--validation_data {shlex.quote(folders.get(VALIDATION, ''))}"
        + (f" --objective {objective}" if objective != MLM_NSP else "")
    )


def _objective(facts: dict[str, Any]) -> str:
    """Objective of the instances that an entry of `lengths` in meta.json is about."""
    return InstanceOptions(**facts["options"]).objective
