"""Ports of algorithms of the released CogView and CogView2, which tests compare the library with."""
