"""The version, read by the build without importing torch."""

VERSION = "0.1.0"
