"""`make bench`: every figure beside a yardstick measured in the same run, judged as a ratio or a bound.

Each ``bench_*.py`` beside this file has ``main(smoke: bool) -> list[Figure]``. A missed goal is printed as
``MISS`` and does not fail the run: wall-clock is for people to judge, never for CI.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1] / "cl-hive-comms")]

from figures import Figure, render  # noqa: E402  (the path has to be set first)


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def main() -> int:
    arguments = sys.argv[1:]
    smoke = "smoke" in arguments
    wanted = [name for name in arguments if name != "smoke"]
    figures: list[Figure] = []
    for path in sorted(HERE.glob("bench_*.py")):
        if wanted and path.stem.removeprefix("bench_") not in wanted:
            continue
        started = time.monotonic()
        print(f"== {path.stem} ...", flush=True)
        found: list[Figure] = load(path).main(smoke)
        figures += found
        print(f"   {len(found)} figures in {time.monotonic() - started:.1f} s", flush=True)
    print()
    print(render(figures))
    return 0 if figures else 1


if __name__ == "__main__":
    sys.exit(main())
