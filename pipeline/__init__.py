"""What Keepstream does: one folder per verb, wired together by `pipeline.app`."""
