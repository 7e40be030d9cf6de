"""A real Asterisk and real SIP phones on this machine, and what they are for: the demo, the benchmarks, tests."""
