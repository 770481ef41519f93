"""The pages of the viewer in real Chromium."""
