"""Sound as numbers: codecs, resampling, levels, mixing and concealment. Pure: no clock, no socket, no event loop."""
