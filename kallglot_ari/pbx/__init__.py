"""The PBX side of a configuration, written out: Asterisk, FreeSWITCH, Cisco CUCM. Everything but `run` is pure."""
