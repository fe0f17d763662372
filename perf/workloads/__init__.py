"""The loads that a server can be measured under, a file each; the file name is the `--dataset-name`.

A module offers `add_arguments(parser)` and `sessions(options, num_sessions, seed) -> list[Session]`. All are drawn from a seed.
Use a new one for every run: engines that have seen a prompt answer it from their cache.
"""
