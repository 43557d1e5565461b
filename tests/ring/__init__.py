"""Tests of the compiled ring. A package, so that its test_frames is not the transports' test_frames."""
