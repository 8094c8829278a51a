"""Runs the job of a store with the harmonic engine in real worker processes: ``python spawned.py STORE OUTPUT``.

Workers import this file as their main module, and so get the engine too.
"""

from __future__ import annotations

import sys

from conftest import Harmonic

from consistent_calc.labelling import job as job_module
from consistent_calc.labelling.job import LabellingJob, run_job
from consistent_calc.labelling.names import EngineName

job_module.new_engine = lambda *_: Harmonic()

if __name__ == "__main__":
    print(run_job(LabellingJob(*sys.argv[1:], EngineName.tblite, chunk=2), workers=2))
