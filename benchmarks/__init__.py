"""The long measurements behind README and docs: run `python -m benchmarks.NAME` from the folder of the project."""
