"""The SDKs of Sentry, each in a process of its own, send to the service under gunicorn."""
