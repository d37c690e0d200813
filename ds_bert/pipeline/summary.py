"""What came out of it all: the report of both phases, figures, hours by stage."""

from collections.abc import Iterator
from pathlib import Path

from ds_bert.pipeline.options import EVALUATION, EXPORT, SCORE
from ds_bert.pipeline.plan import Plan
from ds_bert.pipeline.stages import folder_of
from ds_bert.pipeline.state import State
from ds_bert.run_report.page import PAGE
from ds_bert.run_report.page import write_report as write_page
from ds_bert.run_report.results import interval, read_record, read_results, scores, shown
from ds_bert.training.log import duration


def write_report(plan: Plan) -> Path | None:
    """Write one page over all phases, with what came after them; None where that fails."""
    results = read_results(folder_of(plan, EVALUATION), folder_of(plan, SCORE))
    try:
        write_page(folder_of(plan, plan.phases[-1]), results, plan.output_dir)
    except OSError as error:
        print(f"warning: {PAGE} cannot be written ({error.strerror}); all else is done")
        return None
    return plan.output_dir / PAGE


def summary(plan: Plan, state: State, page: Path | None) -> Iterator[str]:
    """Lines for a person: where the model is, how good, how long it took."""
    yield ""
    yield f"{'model':>12}: {folder_of(plan, EXPORT)}"
    if page is not None:
        yield f"{'report':>12}: {page}"
    metrics, score = (read_record(folder_of(plan, stage)) for stage in (EVALUATION, SCORE))
    for name, ends in metrics.get("intervals", {}).items():
        yield f"{name:>12}: {shown(name, metrics[name])} {interval(name, ends)}"
    for model, accuracy, macro_f1 in scores(score) if SCORE in plan.stages else ():
        yield f"{'score':>12}: {model}: accuracy {accuracy}, macro F1 {macro_f1}"
    for stage in plan.stages:
        record = state.stages[stage]
        steps = record.facts.get("max_steps")
        told = f", {steps:,} steps" if steps else ""
        yield f"{stage:>12}: {duration(record.seconds)}{told}"
    asked = f" of {plan.hours:g}" if plan.hours else ""
    yield f"{'hours':>12}: {state.seconds / 3600:.2f}{asked}"
