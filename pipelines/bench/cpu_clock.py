"""The endpoint with the clock of its stages set to processor time.  Started by `pipelines.bench.serve` for the stage budget.

In production stages are timed by the wall, because that is what a user waits.  On a machine that does other things too, a stage
that was interrupted looks expensive; what it cost is the processor time of its thread.
"""

import sys
import time
from pathlib import Path
from typing import Any

from infra.home import Home
from infra.settings import Settings
from serving.serve import serve

PROGRAM = """
import json, sys
from pathlib import Path
from pipelines.bench.cpu_clock import main
main(Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3]))
"""


def main(root: Path, port: int, chosen: dict[str, Any]) -> None:
    """Serve a home's champion with some settings until told to stop."""
    ours = [module for name, module in sys.modules.items() if name.startswith("serving.")]
    timed = [module for module in ours if hasattr(module, "perf_counter_ns")]
    if not timed:
        raise SystemExit("serving/ times its stages with perf_counter_ns no more: pipelines/bench/cpu_clock.py must follow")
    for module in timed:
        module.perf_counter_ns = time.thread_time_ns  # type: ignore[attr-defined]  # looked for above
    serve(Home(root), Settings(host="127.0.0.1", port=port, **chosen))
