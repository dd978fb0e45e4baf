"""A search of some seconds on the model of known errors: ``python tiny_search.py WORK_DIR [--pause SECONDS]``.

Under torchrun it shards the candidates over gloo processes.
"""

import argparse
import os
import time

from closed_form import COSTS, make_model, make_problem

from slimdiff.engine.distributed import init_cpu_process_group, leave_at_exit
from slimdiff.search import Search

CONFIG = dict(
    space=dict(widths=(.25, .5, 1.), num_segments=4),
    evaluators=[dict(type='LossGapEvaluator', num_bins=5), dict(type='DivergenceEvaluator', num_images=4)],
    searcher=dict(type='TwoStageSearch', population=12, generations=4, seed=1),
    sampler=dict(type='DDIMScheduler', clip_sample=False),
    num_steps=8,
    chunk=3)


def make_search(work_dir, budget=None, model=None, **changes):
    model = model or make_model()
    config = {**CONFIG, **changes}
    return Search(model, config, work_dir, make_problem(model).dataloader, budget, COSTS)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('work_dir')
    parser.add_argument('--pause', type=float, default=0)
    parser.add_argument('--rank-1-dies', action='store_true')
    args = parser.parse_args()
    init_cpu_process_group('pytorch' if 'RANK' in os.environ else 'none')
    leave_at_exit()

    def on_batch(search):
        print(len(search.judged), flush=True)
        time.sleep(args.pause)

    search = make_search(args.work_dir, dict(fraction=.5))
    if args.rank_1_dies and os.environ['RANK'] == '1':
        evaluate = search.evaluators[-1].evaluate

        def die(allocations):
            if len(search.judged) >= 18:
                os._exit(9)
            return evaluate(allocations)

        search.evaluators[-1].evaluate = die
    search.run(on_batch, progress=False)


if __name__ == '__main__':
    main()
