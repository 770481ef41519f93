"""The pages of the viewer, as its WSGI application and in real Chromium."""
