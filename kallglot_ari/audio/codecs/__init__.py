"""The codecs of RTP and of the stream, one file each; `registry` is where to look one up."""
