"""Write the report of a run, in progress or ended: a page that opens without a network.

python scripts/report.py runs/seq128
"""

from pathlib import Path

from ds_bert.commands.parser import new_parser
from ds_bert.errors import ConfigurationError


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Parse the command line, write the report and print what is wrong; returns the exit code."""
    parser = new_parser(__doc__, prog)
    parser.add_argument("run", metavar="RUN_DIR", help="output_dir of a run")
    folder = Path(parser.parse_args(argv).run)
    from ds_bert.run_report.history import PAGE
    from ds_bert.run_report.page import write_report

    try:
        findings = write_report(folder)
    except OSError as error:
        raise ConfigurationError(
            f"{folder}: {PAGE} cannot be written ({error.strerror}); make room, or copy "
            "metrics.jsonl and config.json to another folder and name that"
        ) from None
    for one in findings:
        print(f"{one.severity.name.lower()}: {one.title}: {one.found}; expected {one.expected}")
        print(f"    {one.cure}")
    print(f"{'nothing is wrong; ' if not findings else ''}report: {folder / PAGE}")
    return 0
