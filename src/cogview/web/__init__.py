"""Shared by the image server and the human study: sockets, connection limits, security headers, theme."""
