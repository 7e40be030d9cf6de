"""Media mode in simulated time: random stories of calls, faults and restarts, and what users are promised whatever happens.

`service` has the real thing (`StasisMode` with its journal and outbox); around it are an Asterisk, a Kallglot and a store that are
simulated, and everything that takes time takes none. `script` says what happens, by a seed; `promises` what may not.
`python -m tests.stories --seeds 0:5000` runs many, `--seed 1707 -v` tells one.
"""
