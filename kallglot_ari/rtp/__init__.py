"""RTP as numbers: packets, order, timing and quality. Pure: time is an argument."""
