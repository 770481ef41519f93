"""Real Chromium: pages of one origin, the service on another."""
