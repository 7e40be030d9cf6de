"""What a call is: legs, states, and the machine that turns events into commands. Nothing here does I/O but `runner`."""
