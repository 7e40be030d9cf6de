"""The PBX side of a configuration, written out: Asterisk, FreeSWITCH, Cisco CUCM; and SIP endpoints, asked how they are. All but `run`, `files` and `probe` is pure."""
