#!/usr/bin/env python
"""Compare training runs: ``compare_runs.py WORK_DIR ... [--metrics fd ...] [--json FILE]`` prints a Markdown table."""

import argparse
import sys
from pathlib import Path

from slimdiff.checkpoint import write_json
from slimdiff.cli.common import runs_cleanly

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # studies/ is not part of the installed package

from studies.compare_runs import comparison, load_reports, markdown

METRICS = ('denoise/total', 'denoise/t0-300/top', 'fd', 'swd/mean', 'spectrum/log/top_signed')


@runs_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dirs', nargs='+')
    parser.add_argument('--metrics', nargs='+', default=METRICS)
    parser.add_argument('--json', help='write the figures, every seed\'s too')
    args = parser.parse_args(argv)
    result = comparison(load_reports(args.work_dirs), args.metrics)
    print(markdown(result, args.metrics), end='')
    if args.json:
        write_json(args.json, {'command': 'python tools/analysis_tools/compare_runs.py ' + ' '.join(args.work_dirs),
                               **result})
    return 0


if __name__ == '__main__':
    sys.exit(main())
