"""The offline interpreter: voice activity, recognition, translation and speech, with nothing but this machine."""
