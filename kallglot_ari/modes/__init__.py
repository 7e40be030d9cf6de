"""Where calls meet the world: media mode (`stasis`), trunk mode (`trunk`), any PBX (`pbx`), and what they share."""
