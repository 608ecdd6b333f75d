"""One stage as a process of its own: `python -m benchmarks.stage CONFIG capture|apply [REPLICA]`.

It loads a real keepstream.yaml and does what `keepstream capture` and `keepstream apply` do, with one
pause: with everything imported it prints `ready` and waits for a line on its stdin. What is timed from
that line on is a whole stage, connections and all, without Python's start.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline.app import apply_options, capture_options, first_copy_options, open_log
from pipeline.apply.stage import run_apply
from pipeline.board import Board
from pipeline.capture.stage import CaptureStage
from pipeline.config import load_config
from pipeline.copy.stage import FirstCopyStage
from pipeline.logs import LogFormat, LogLevel, set_up_logs
from pipeline.memory import tune_memory
from pipeline.signals import stop_on_signals


def main(arguments: list[str]) -> None:
    path, verb, *names = arguments
    set_up_logs(LogFormat.TEXT, LogLevel.INFO)
    config = load_config(Path(path))
    log = open_log(config)
    stop, publish = stop_on_signals(), Board(log).publish
    tune_memory()
    print("ready", flush=True)
    if not sys.stdin.readline():
        return
    try:
        if verb == "capture":
            CaptureStage(capture_options(config, log), stop, publish).run()
            return
        (name,) = names
        options = apply_options(config, log, name)
        if FirstCopyStage(first_copy_options(config, log, name), stop, publish).run():
            run_apply(options, stop, publish)
    finally:
        log.close()


if __name__ == "__main__":
    main(sys.argv[1:])
