"""Runs a job with the harmonic engine in real worker processes: ``python spawned.py STORE OUTPUT WORKERS``.

Workers import this file as their main module, and so get the engine too.
"""

from __future__ import annotations

import sys

from harmonic import Harmonic

from consistent_calc.labelling import job as job_module
from consistent_calc.labelling.job import LabellingJob, run_job
from consistent_calc.labelling.names import EngineName

job_module.new_engine = lambda *_: Harmonic()

if __name__ == "__main__":
    source, output, workers = sys.argv[1:]
    print(run_job(LabellingJob(source, output, EngineName.tblite, chunk=2), workers=int(workers)))
